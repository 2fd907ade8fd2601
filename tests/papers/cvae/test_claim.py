"""CVAE's claims: the toy size in full, what was recorded at the small size, and the recipe's pieces."""

from __future__ import annotations

import json
import os
from importlib.resources import files

import numpy as np
import pytest

from headrace.data import Graph
from headrace.errors import ConfigError, DataError
from headrace.papers.cvae.claim import NAMES, render, run
from headrace.papers.cvae.recipe import ARMS, CORA, FILMTRUST, TOY, configured, shares_of_all_forests

FIGURES = {
    "L1_weight_error", "L1_weight_sum_error", "L1_pair_term_error", "L1_pair_term_error_float32",
    "L2_corr_over_vae", "L2_gamma0_over_vae", "L2_ind_over_vae", "L2_topology_over_corr", "L2_corr_over_shuffled",
    "L3_corr_over_vae", "L3_topology_over_corr", "L3_ind_over_vae",
}  # fmt: skip


@pytest.fixture(scope="module")
def toy() -> dict:
    return run("toy")


def test_a_graph_helps_and_a_shuffled_one_does_not(toy) -> None:
    figures = toy["figures"]
    assert figures["toy_corr_over_vae"]["value"] > 1.3
    assert figures["toy_ncrr/shuffled"]["value"] < 2 * figures["toy_ncrr/random_order"]["value"]


def test_without_other_pairs_most_of_it_is_lost(toy) -> None:
    assert toy["figures"]["toy_corr_over_gamma0"]["value"] > 1.1


def test_all_goals_of_the_toy_hold(toy) -> None:
    assert [name for name, each in toy["figures"].items() if each["holds"] is False] == []
    assert toy["figures"]["L1_weight_error"]["holds"] is True


def test_the_result_is_the_agreed_object(toy) -> None:
    assert {"figures", "commit", "machine", "settings", "tables", "plots"} == set(toy)
    assert json.loads(json.dumps(toy, allow_nan=False)) == json.loads(json.dumps(toy))
    assert render(toy).splitlines()[0].startswith("L1. Closed forms")


def test_unknown_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"one of .*'toy'"):
        run("tiny")


@pytest.mark.parametrize("setting", [FILMTRUST, CORA])
def test_missing_data_is_named(setting, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path))
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"none of .*\.(txt|npz)"):
        setting.load(0)


def test_every_arm_has_settings_and_a_name_of_its_own() -> None:
    configs = {arm: (configured(TOY, arm, 3), ARMS[arm][1]) for arm in ARMS}
    assert len(set(configs.values())) == len(configs)
    assert all(config.seed == 3 for config, _ in configs.values())
    assert set(NAMES) == set(ARMS)


def test_forests_are_listed() -> None:
    square = Graph.from_pairs(4, [[0, 1], [1, 2], [2, 3], [0, 3]])
    np.testing.assert_allclose(shares_of_all_forests(square), 0.75)


def recorded() -> dict:
    return json.loads((files("headrace.papers.cvae") / "expected.json").read_text(encoding="utf-8"))


def test_the_recorded_run_reached_its_goals() -> None:
    figures = recorded()["figures"]
    assert set(figures) >= FIGURES
    assert [name for name, each in figures.items() if each["holds"] is False] == []


def test_the_recorded_run_says_how_it_was_made() -> None:
    settings = recorded()["settings"]
    assert settings["size"] == "small"
    assert len(settings["seeds"]) >= 3
    assert settings["steps"] == {"FilmTrust": FILMTRUST.sizes.steps, "Cora": CORA.sizes.steps}
    assert settings["cpu_seconds"] <= 1800


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.skipif(not os.environ.get("HEADRACE_DATA"), reason="missing data files: HEADRACE_DATA is not set")
def test_the_small_size_reaches_its_goals() -> None:
    result = run("small")
    assert set(result["figures"]) >= FIGURES
    assert [name for name, each in result["figures"].items() if each["holds"] is False] == []
