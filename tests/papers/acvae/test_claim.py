"""ACVAE's claims: the toy size in full, what was recorded at the small size, and the recipe's pieces."""

from __future__ import annotations

import json
import os
from importlib.resources import files

import numpy as np
import pytest

from headrace.data import Graph
from headrace.errors import ConfigError, DataError
from headrace.papers.acvae.claim import render, run
from headrace.papers.acvae.recipe import (
    ARMS,
    CORA,
    FILMTRUST,
    RATE,
    TOY,
    all_forests,
    configured,
    joint_covariance,
)

FIGURES = {
    "L1_path_product_error", "L1_mixture_error", "adaptive_bound_rise", "adaptive_infeasibility", "adaptive_gap_left",
    *(f"{place}_{figure}" for place in ("filmtrust", "cora")
      for figure in ("acvae_beliefs_over_cvae", "acvae_over_cvae", "acvae_beliefs_over_cvae_beliefs")),
}  # fmt: skip


@pytest.fixture(scope="module")
def toy() -> dict:
    return run("toy")


def test_beliefs_along_trees_find_planted_links(toy) -> None:
    figures = toy["figures"]
    assert figures["planted_groups_acvae_beliefs_over_cvae"]["value"] > 1.0
    assert figures["planted_groups_ncrr/acvae"]["value"] > figures["planted_groups_ncrr/vae"]["value"]


def test_all_goals_of_the_toy_hold(toy) -> None:
    assert [name for name, each in toy["figures"].items() if each["holds"] is False] == []
    assert toy["figures"]["L1_path_product_error"]["holds"] is True


def test_the_result_is_the_agreed_object(toy) -> None:
    assert {"figures", "commit", "machine", "settings", "tables", "plots"} == set(toy)
    assert json.loads(json.dumps(toy, allow_nan=False)) == json.loads(json.dumps(toy))
    assert render(toy).splitlines()[0].startswith("L1. Tractable marginals")


def test_unknown_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"one of .*'toy'"):
        run("tiny")


@pytest.mark.parametrize("setting", [FILMTRUST, CORA])
def test_missing_data_is_named(setting, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path))
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"none of .*\.(txt|npz)"):
        setting.load(0)


def test_only_the_prior_tells_the_arms_apart() -> None:
    fixed, moving = (configured(TOY, arm, 3) for arm in ("CVAE", "ACVAE"))
    assert (fixed.adapt_every, moving.adapt_every, moving.adapt_rate) == (0, TOY.every, RATE)
    assert (fixed.gamma, fixed.tau, fixed.steps, fixed.seed) == (moving.gamma, moving.tau, moving.steps, moving.seed)
    assert list(ARMS) == ["VAE", "CVAE", "ACVAE"]


def test_forests_are_listed_and_a_joint_has_its_correlations() -> None:
    square = Graph.from_pairs(4, [[0, 1], [1, 2], [2, 3], [0, 3]])
    forests = all_forests(square)
    assert forests.sum(axis=1).tolist() == [3] * 4
    joint = joint_covariance(3, np.array([[0, 1], [1, 2]]), np.array([0.5, -0.4]))
    np.testing.assert_allclose(joint, [[1, 0.5, -0.2], [0.5, 1, -0.4], [-0.2, -0.4, 1]], atol=1e-12)


def recorded() -> dict:
    return json.loads((files("headrace.papers.acvae") / "expected.json").read_text(encoding="utf-8"))


def test_the_recorded_run_reached_its_goals() -> None:
    figures = recorded()["figures"]
    assert set(figures) >= FIGURES
    assert [name for name, each in figures.items() if each["holds"] is False] == []


def test_the_recorded_run_says_how_it_was_made() -> None:
    settings = recorded()["settings"]
    assert settings["size"] == "small"
    assert len(settings["seeds"]) >= 3
    assert settings["rate"] == RATE
    assert settings["cpu_seconds"] <= 1800


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.skipif(not os.environ.get("HEADRACE_DATA"), reason="missing data files: HEADRACE_DATA is not set")
def test_the_small_size_reaches_its_goals() -> None:
    result = run("small")
    assert set(result["figures"]) >= FIGURES
    assert [name for name, each in result["figures"].items() if each["holds"] is False] == []
