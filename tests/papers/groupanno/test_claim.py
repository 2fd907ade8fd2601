"""GroupAnno's claims: the toy size in full, what was recorded at the small size, and the recipe's pieces."""

from __future__ import annotations

import json
import os
from importlib.resources import files

import numpy as np
import pytest

from headrace.errors import ConfigError, DataError
from headrace.papers.groupanno import recipe
from headrace.papers.groupanno.claim import NULL_WORLDS, render, run

FIGURES = {
    *(f"A1_{kind}/{crowd}" for crowd in (400, 1500)
      for kind in ("rate_mae_vs_lfc", "rate_mae_vs_shrink_only", "accuracy_minus_lfc", "groups_found")),
    "A2_null_rejections", "A2_null_rate_mae_vs_shrink_only", "A2_log_loss_permuted_minus_groups/known_annotators",
}  # fmt: skip


@pytest.fixture(scope="module")
def toy() -> dict:
    return run("toy")


def test_groups_halve_the_error_of_the_rates_where_bias_is_planted(toy) -> None:
    figures = toy["figures"]
    for arm in ("lfc", "shrink_only", "permuted_groups"):
        assert figures[f"A1_rate_mae_vs_{arm}/100"]["value"] < 0.7


def test_without_planted_bias_nothing_is_gained_and_little_lost(toy) -> None:
    ratio = toy["figures"]["A2_null_rate_mae_vs_shrink_only"]["value"]
    assert 0.9 < ratio < 1.25


def test_all_goals_of_the_toy_hold(toy) -> None:
    assert [name for name, each in toy["figures"].items() if each["holds"] is False] == []


def test_the_result_is_the_agreed_object(toy) -> None:
    assert {"figures", "commit", "machine", "settings", "tables", "plots"} == set(toy)
    assert json.loads(json.dumps(toy, allow_nan=False)) == json.loads(json.dumps(toy))
    assert render(toy).splitlines()[0].startswith("A1. Planted group bias")


def test_unknown_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"one of .*'toy'"):
        run("tiny")


@pytest.mark.parametrize("load", [recipe.popquorn, lambda: recipe.truth_inference("duck")])
def test_missing_data_is_named(load, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path))
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"none of .*\.csv"):
        load()


def test_planted_answers_are_right_as_often_as_planted() -> None:
    world = recipe.planted(annotators=20, items=3000, seed=1)
    answers = world.answers
    right = answers.answers == world.truth[answers.items]
    for place in (0, 1):
        own = world.truth[answers.items] == place
        found = np.bincount(answers.annotators[own], weights=right[own]) / np.bincount(answers.annotators[own])
        assert np.abs(found - world.rates[:, place]).max() < 0.15


def test_the_sets_have_the_published_sizes(data_file) -> None:
    data_file("crowd_d_Duck_Identification_answer.csv.zst")
    gold = recipe.truth_inference("duck")
    assert gold.answers.shape == (108, 39, 2)
    assert len(gold.items) == 108
    people = recipe.popquorn()
    assert people.shape == (1500, 262, 2)
    assert set(people.attributes) == set(recipe.ATTRIBUTES)


def recorded() -> dict:
    return json.loads((files("headrace.papers.groupanno") / "expected.json").read_text(encoding="utf-8"))


def test_the_recorded_run_reached_its_goals() -> None:
    figures = recorded()["figures"]
    assert set(figures) >= FIGURES
    assert [name for name, each in figures.items() if each["holds"] is False] == []


def test_the_recorded_run_says_how_it_was_made() -> None:
    settings = recorded()["settings"]
    assert settings["size"] == "small"
    assert len(settings["seeds"]) >= 3
    assert settings["null_worlds"] == NULL_WORLDS
    assert settings["seconds"] <= 1800


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not os.environ.get("HEADRACE_DATA"), reason="missing data files: HEADRACE_DATA is not set")
def test_the_small_size_reaches_its_goals() -> None:
    result = run("small")
    assert set(result["figures"]) >= FIGURES
    assert [name for name, each in result["figures"].items() if each["holds"] is False] == []
