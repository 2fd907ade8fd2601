"""Committees' claims: the toy size in full, what was recorded at the small size, and the recipe's pieces."""

from __future__ import annotations

import json
import os
from importlib.resources import files

import numpy as np
import pytest

from headrace.errors import ConfigError, DataError
from headrace.learn import CommitteeConfig
from headrace.papers.active_multitask import recipe
from headrace.papers.active_multitask.claim import render, run
from headrace.papers.active_multitask.stream import ARMS, ask

FIGURES = {
    "A3_committee_minus_best_rival/10pct", "A3_questions_vs_peer/unlimited", "A3_committee_minus_peer/unlimited",
    "A3_committee_minus_committee_permuted_tasks/10pct", "A3_committee_minus_peer_share/unlimited",
    "A4_auc_unlimited/committee", "A4_best_accuracy_minus_majority", "one_task_apart",
}  # fmt: skip


@pytest.fixture(scope="module")
def toy() -> dict:
    return run("toy")


def test_one_task_is_single_task_active_learning(toy) -> None:
    assert toy["figures"]["one_task_apart"]["value"] == 0.0


def test_a_committee_asks_fewer_and_better_questions_where_tasks_are_alike(toy) -> None:
    assert toy["figures"]["A3_toy_committee_minus_random/alike"]["value"] > 0.05
    rows = {row[0]: row for row in toy["tables"][0]["rows"]}
    asked = {arm: float(row[5].split(" ")[0]) for arm, row in rows.items()}
    assert asked["committee"] < 0.6 * asked["PEER"]


def test_as_published_it_does_not_know_whose_examples_they_are(toy) -> None:
    for world in ("alike", "opposed"):
        assert toy["figures"][f"A3_toy_committee_apart_from_permuted_tasks/{world}"]["value"] < 1e-6
    assert toy["figures"]["A3_toy_committee_own_first_minus_committee/opposed"]["low"] > 0.1


def test_all_goals_of_the_toy_hold(toy) -> None:
    assert [name for name, each in toy["figures"].items() if each["holds"] is False] == []


def test_the_result_is_the_agreed_object(toy) -> None:
    assert {"figures", "commit", "machine", "settings", "tables"} == set(toy)
    assert json.loads(json.dumps(toy, allow_nan=False)) == json.loads(json.dumps(toy))
    assert render(toy).splitlines()[0].startswith("Planted tasks")


def test_unknown_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"one of .*'toy'"):
        run("tiny")


@pytest.mark.parametrize("load", [recipe.emails, recipe.landmine])
def test_missing_data_is_named(load, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path))
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"none of amtl_.*\.mat"):
        load(0)


def test_deals_are_of_unit_length_and_balanced() -> None:
    split = recipe.planted(0)
    assert (len(split.train), len(split.test), split.tasks) == (300, 1200, 6)
    lengths = [float(np.linalg.norm(split.train.row(row)[1])) for row in range(300)]
    assert np.abs(np.array(lengths) - 1.0).max() < 1e-12
    assert np.bincount(split.train.owners).tolist() == [50] * 6
    assert set(split.pooled().train.owners.tolist()) == {0}
    permuted = split.permuted(1)
    assert np.bincount(permuted.train.owners).tolist() == [50] * 6
    assert permuted.train.owners.tolist() != split.train.owners.tolist()
    assert permuted.test.owners.tolist() == split.test.owners.tolist()


def test_nobody_is_asked_beyond_what_there_is() -> None:
    split = recipe.planted(3)
    for arm in ("uncertainty", "PEER+share"):
        found = ask(ARMS[arm], split, (10, 10_000), 3)
        assert found.end is not None
        assert found.end.questions <= 300
        assert found.at[10].questions == 10
        assert found.at[10_000] == found.end


def test_plain_vectors_learn_what_the_learner_learns() -> None:
    for config in (CommitteeConfig(method="peer"), CommitteeConfig(method="independent")):
        assert recipe.agreement(recipe.planted(4), config, 30) < 1e-4


def test_the_sets_have_the_published_sizes(data_file) -> None:
    data_file("amtl_emails.mat.zst")
    split = recipe.emails(0)
    assert (len(split.train), len(split.test), split.tasks, split.train.dim) == (1500, 4500, 15, 152_544)
    data_file("amtl_landmine.mat.zst")
    split = recipe.landmine(0)
    assert (len(split.train), split.tasks, split.train.dim) == (4640, 29, 10)


def recorded() -> dict:
    return json.loads((files("headrace.papers.active_multitask") / "expected.json").read_text(encoding="utf-8"))


def test_the_recorded_run_reached_its_goals() -> None:
    figures = recorded()["figures"]
    assert set(figures) >= FIGURES
    assert [name for name, each in figures.items() if each["holds"] is False] == []


def test_the_recorded_run_says_how_it_was_made() -> None:
    held = recorded()
    assert held["settings"]["size"] == "small"
    assert len(held["settings"]["seeds"]) >= 3
    assert held["settings"]["cpu_seconds"] <= 1200
    assert len(held["plots"]) == 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not os.environ.get("HEADRACE_DATA"), reason="missing data files: HEADRACE_DATA is not set")
def test_the_small_size_reaches_its_goals() -> None:
    result = run("small")
    assert set(result["figures"]) >= FIGURES
    assert [name for name, each in result["figures"].items() if each["holds"] is False] == []
