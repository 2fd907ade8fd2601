"""Monolith's claims: the toy size in full, what was recorded at the small size, and the pieces of the protocols."""

from __future__ import annotations

import json
import os
from importlib.resources import files

import numpy as np
import pytest

from headrace.errors import ConfigError, DataError
from headrace.papers.monolith import claim, recipe
from headrace.papers.monolith.claim import render, run

FIGURES = {
    "online_minus_frozen_auc/criteo", "online_minus_frozen_auc/trivago", "delta_bytes_vs_full",
    *(f"collisionless_minus_hashed_auc/{modulus}" for modulus in (1_000, 3_000, 10_000, 30_000, 100_000)),
    *(f"auc_loss_shards_lost/{count}" for count in (1, 10, 100)),
}  # fmt: skip


@pytest.fixture(scope="module")
def toy() -> dict:
    return run("toy")


def figure(result: dict, name: str) -> dict:
    return result["figures"][name]


def test_online_beats_frozen_where_tastes_drift(toy) -> None:
    gain = figure(toy, "online_minus_frozen_auc/planted")
    assert gain["low"] > 0.05


def test_a_minute_beats_an_hour_where_tastes_drift(toy) -> None:
    gain = figure(toy, "minute_minus_hour_auc/planted")
    assert gain["low"] > 0.01


def test_without_drift_nothing_is_gained(toy) -> None:
    for kind in ("online_minus_frozen", "minute_minus_hour"):
        with_drift, without = (figure(toy, f"{kind}_auc/planted{end}")["value"] for end in ("", "_without_drift"))
        assert abs(without) < with_drift / 5


def test_all_goals_of_the_toy_hold(toy) -> None:
    assert [name for name, each in toy["figures"].items() if each["holds"] is not True] == []


def test_the_result_is_the_agreed_object(toy) -> None:
    assert {"figures", "commit", "machine", "settings", "tables"} == set(toy)
    for each in toy["figures"].values():
        assert {"value", "low", "high", "unit", "goal", "holds"} <= set(each)
    assert json.loads(json.dumps(toy, allow_nan=False)) == toy


def test_the_table_shows_what_was_measured(toy) -> None:
    text = render(toy)
    assert "swings every 8 h" in text
    assert text.splitlines()[0].startswith("Planted drift")


def test_unknown_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"one of .*'toy'"):
        run("tiny")


def test_missing_data_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DataError, match=r"Criteo.*criteo_kaggle_head80k_hashed\.tsv"):
        run("small")


def recorded() -> dict:
    return json.loads((files("headrace.papers.monolith") / "expected.json").read_text(encoding="utf-8"))


def test_the_recorded_run_has_every_figure_that_was_asked_for() -> None:
    assert set(recorded()["figures"]) >= FIGURES


def test_the_recorded_run_reached_its_goals() -> None:
    figures = recorded()["figures"]
    assert [name for name, each in figures.items() if each["holds"] is False] == []
    better = figures["online_minus_frozen_standard_errors/better_log"]
    assert better["value"] > better["goal"]["bound"] == 2.0


def test_the_recorded_run_says_how_it_was_made() -> None:
    settings = recorded()["settings"]
    assert settings["size"] == "small"
    assert len(settings["seeds"]) >= 3
    assert settings["seconds"] <= 1800
    assert {"trivago", "criteo"} <= set(settings["files"])


def test_the_recorded_run_prints_four_tables() -> None:
    titles = [table["title"].split(".")[0] for table in recorded()["tables"]]
    assert titles == ["R1", "R2", "R3", "R4"]
    assert all(title in render(recorded()) for title in titles)


def test_fewer_collisions_cost_less_in_the_recorded_run() -> None:
    figures = recorded()["figures"]
    costs = [figures[f"collisionless_minus_hashed_auc/{modulus}"]["value"] for modulus in claim.MODULI]
    assert costs == sorted(costs, reverse=True)


def test_hashing_folds_ids_together_and_no_hashing_keeps_them_apart() -> None:
    events = recipe.planted_log(rows=2000, hours=1.0, seed=0)
    names = {name: events.column(name).cast("string") for name in ("user_id", "item")}
    events = events.with_columns(names)
    apart, left = claim._hashed(events, 0)
    together, fewer = claim._hashed(events, 7)
    assert left == (50, 40)
    assert fewer == (7, 7)
    assert len(np.unique(apart.column("user_id").to_numpy())) == 50
    assert set(together.column("item").to_numpy()) == set(range(7))


def test_hashing_is_the_md5_of_the_id() -> None:
    events = recipe.planted_log(rows=1, hours=1.0, seed=0)
    events = events.with_columns({name: events.column("key") for name in ("user_id", "item")})  # "r0"
    hashed, _ = claim._hashed(events, 1_000_000)
    # printf r0 | md5sum, modulo 10^6
    assert hashed.column("item").to_pylist() == [int("cc15cffe04b1b3f72e0f50e4ba28a09c", 16) % 1_000_000]


def test_what_is_left_of_colliding_ids() -> None:
    assert claim._collided(162_541, 149_970) == "149,970 (7.73 % lost)"
    assert claim._collided(5, 5) == "5"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not os.environ.get("HEADRACE_DATA"), reason="missing data files: HEADRACE_DATA is not set")
def test_the_small_size_reaches_its_goals() -> None:
    result = run("small")
    assert set(result["figures"]) >= FIGURES
    assert [name for name, each in result["figures"].items() if each["holds"] is False] == []
