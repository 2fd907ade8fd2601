"""AntDT's claims: the toy size in full, what was recorded, and the recipe's pieces."""

from __future__ import annotations

import json
import os
from importlib.resources import files

import pytest

from headrace.errors import ConfigError
from headrace.papers.antdt.claim import TYPICAL, render, run
from headrace.papers.antdt.real import Cell, auc_apart, auc_lost, goal_of, limit, predicted, worse_than_best
from headrace.papers.antdt.recipe import METHODS, PATTERNS
from headrace.papers.antdt.scale import at_size, decision_cost, simulated_table
from headrace.papers.antdt.work import Work

WORK = Work(rows=16_000, batch_rows=80, step_s=0.2)
FIGURES = {f"{name}/{pattern}" for pattern in PATTERNS
           for name in ("speedup_vs_bsp", "speedup_vs_goal", "worse_than_best")}  # fmt: skip
TOY_FIGURES = {*(f"simulated_speedup_vs_bsp/{pattern}" for pattern in PATTERNS), "real_rows_learned", "real_s"}
SMALL_FIGURES = {"simulator_error", "simulator_error_max", "auc_apart", "auc_lost_asynchronous",
                 "decision_cost_per_s/1000_workers", "decision_max_s/1000_workers"}  # fmt: skip


@pytest.fixture(scope="module")
def table() -> dict[tuple[str, str], float]:
    return simulated_table(WORK, TYPICAL, list(METHODS))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_goals_of_the_toy_hold() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    result = run("toy")
    assert [name for name, each in result["figures"].items() if each["holds"] is False] == []
    assert result["figures"]["real_rows_learned"]["value"] == 1.0
    assert {"figures", "commit", "machine", "settings", "tables"} == set(result)
    assert json.loads(json.dumps(result, allow_nan=False)) == json.loads(json.dumps(result))
    assert render(result).splitlines()[0].startswith("Simulated job time")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_ours_reaches_its_goal_on_the_virtual_clock(table, pattern) -> None:
    limits = limit(WORK, pattern)
    gain = table[pattern, "BSP"] / table[pattern, "AntDT"]
    assert goal_of(limits) <= gain <= limits.speedup
    # the better of our modes is not worse than any other way
    ours = min(table[pattern, "AntDT"], table[pattern, "AntDT, asynchronous"])
    assert ours <= 1.05 * min(table[pattern, method] for method in ("BSP", "ASP", "backup workers", "LB-BSP"))


def test_bounds_are_those_of_the_patterns() -> None:
    found = [round(limit(WORK, pattern).speedup, 3) for pattern in PATTERNS]
    assert found == [6.0, 1.857, 2.579, 2.0]


def test_a_thousand_workers_take_about_as_long_as_four() -> None:
    four, many = (at_size(WORK, TYPICAL, "transient_worker", "AntDT", workers) for workers in (4, 1000))
    assert many < 1.15 * four


def test_deciding_for_many_is_cheap() -> None:
    cost, longest = decision_cost(100, seconds=1.5)
    assert 0 < cost < 0.5
    assert longest < 0.2


def test_a_cell_is_read_from_a_report() -> None:
    status = {"rows": {"committed": 100, "all": 125}, "servers": [{"rows": 900}, {"rows": 800}]}
    cpu_s = {"worker": 1.0, "head": 0.5}
    report = {"job_s": 3.0, "steps": 10, "test_auc": 0.7, "cpu_s_learning": cpu_s, "status": status}
    assert Cell.of(report) == Cell(3.0, 10, 0.7, 1.5, 17.0, 100, 0.8)


def test_cells_are_compared_with_the_best_baseline_of_their_mode_and_with_the_seeds() -> None:
    def cell(seconds: float, auc: float) -> Cell:
        return Cell(seconds, 10, auc, 1.0, 26.0, 100, 1.0)

    cells = {("p", "BSP"): cell(6.0, 0.7), ("p", "ASP"): cell(2.0, 0.7), ("p", "AntDT"): cell(3.3, 0.75),
             ("p", "AntDT, asynchronous"): cell(2.1, 0.68), ("p", "LB-BSP"): cell(3.0, 0.7)}  # fmt: skip
    assert worse_than_best(cells, "p") is None  # no backup workers
    cells["p", "backup workers"] = cell(4.0, 0.7)
    assert worse_than_best(cells, "p") == pytest.approx(0.1)
    cells["p", "AntDT, asynchronous"] = cell(2.4, 0.68)
    assert worse_than_best(cells, "p") == pytest.approx(0.2)
    assert auc_apart(cells, [0.70, 0.80]) == pytest.approx(0.5)
    assert auc_lost(cells) == pytest.approx(0.02)


def test_predictions_are_counted_from_the_first_commit() -> None:
    whole = WORK.trained / WORK.batch_rows * (6 * WORK.step_s + TYPICAL.sync_s(4))
    assert predicted(WORK, "persistent_worker", "BSP", TYPICAL) == pytest.approx(whole, rel=0.03)


def test_unknown_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"one of .*'toy'"):
        run("tiny")


def test_the_recorded_run_says_how_it_was_made() -> None:
    recorded = json.loads((files("headrace.papers.antdt") / "expected.json").read_text(encoding="utf-8"))
    expected = {"toy": TOY_FIGURES, "small": FIGURES | SMALL_FIGURES}[recorded["settings"]["size"]]
    assert set(recorded["figures"]) == expected
    assert [name for name, each in recorded["figures"].items() if each["holds"] is False] == []


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_small_size_reaches_its_goals() -> None:
    result = run("small")
    assert set(result["figures"]) >= FIGURES
    assert [name for name, each in result["figures"].items() if each["holds"] is False] == []
