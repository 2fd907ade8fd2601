"""PICASSO's claims: the toy size in full, what was recorded at the small size, and the recipe's pieces."""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
import pytest

from headrace.errors import ConfigError
from headrace.papers.picasso.arms import gain, operators, ready_step, seconds, table_calls, torch_step
from headrace.papers.picasso.claim import FIELDS, SHARES, render, run
from headrace.papers.picasso.recipe import Work

FIGURES = {
    *(f"R5_packing/{fields}" for fields in FIELDS), *(f"R5_caching/{share:.0%}".rstrip("%") for share in SHARES[1:]),
    "R5_interleaving/read_ahead", "R5_interleaving/micro_batches_4", "R5_packing_rows_differ",
    "R5_read_ahead_rows_differ", "R5_caching_rows_differ",
}  # fmt: skip
SMALL = Work(fields=3, batch_rows=32, rows=100, batches=3)


@pytest.fixture(scope="module")
def toy() -> dict:
    return run("toy")


def test_packing_pays_with_many_fields(toy) -> None:
    assert toy["figures"]["R5_packing/64"]["value"] > 1.0


def test_nothing_changes_what_is_learned(toy) -> None:
    for name in ("packing", "read_ahead", "caching"):
        assert toy["figures"][f"R5_{name}_rows_differ"]["value"] == 0.0
    assert toy["figures"]["R5_micro_batches_rows_differ"]["value"] < 1e-4


def test_more_rows_in_memory_are_found_there_more_often(toy) -> None:
    figures = toy["figures"]
    assert figures["R5_hit_rate/0"]["value"] < figures["R5_hit_rate/20"]["value"] <= 1.0


def test_all_goals_of_the_toy_hold(toy) -> None:
    assert [name for name, each in toy["figures"].items() if each["holds"] is False] == []


def test_the_result_is_the_agreed_object(toy) -> None:
    assert {"figures", "commit", "machine", "settings", "tables", "plots"} == set(toy)
    assert json.loads(json.dumps(toy, allow_nan=False)) == json.loads(json.dumps(toy))
    assert render(toy).splitlines()[0].startswith("R5. Packing")


def test_unknown_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"one of .*'toy'"):
        run("tiny")


def test_popular_ids_come_more_often() -> None:
    ids = Work(fields=2, rows=1000, batch_rows=20_000, batches=1).ids()
    assert ids.min() >= 0
    assert ids.max() < 1000
    counts = np.sort(np.bincount(ids[0, 0], minlength=1000))[::-1]
    expected = np.arange(1, 11) ** -1.05
    np.testing.assert_allclose(counts[:10] / counts[:10].sum(), expected / expected.sum(), atol=0.02)


def test_calls_per_step_are_three_or_three_a_table() -> None:
    batch = SMALL.content()[0]
    assert table_calls(SMALL.learner(), batch) == 3
    assert table_calls(SMALL.learner(packed=False), batch) == 9


def test_every_arm_learns_and_is_timed() -> None:
    arms = {"ours": SMALL.learner().learn, "torch": torch_step(SMALL), "ready": ready_step(SMALL)}
    times = seconds(arms, SMALL.content(), rounds=2)
    assert all(len(each) == 2 and min(each) > 0 for each in times.values())
    assert operators(arms["ours"], SMALL.content()[0]) > 10


def test_a_gain_is_taken_within_rounds() -> None:
    assert gain([2.0, 30.0, 4.0], [1.0, 10.0, 2.0]) == 2.0


def recorded() -> dict:
    return json.loads((files("headrace.papers.picasso") / "expected.json").read_text(encoding="utf-8"))


def test_the_recorded_run_has_all_figures_and_its_rows_are_equal() -> None:
    figures = recorded()["figures"]
    assert set(figures) >= FIGURES
    for name in ("packing", "read_ahead", "caching"):
        assert figures[f"R5_{name}_rows_differ"]["holds"]


def test_the_recorded_run_says_how_it_was_made() -> None:
    settings = recorded()["settings"]
    assert settings["size"] == "small"
    assert len(settings["seeds"]) >= 3


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_small_size_reaches_its_goals() -> None:
    result = run("small")
    assert set(result["figures"]) >= FIGURES
    assert [name for name, each in result["figures"].items() if each["holds"] is False] == []
