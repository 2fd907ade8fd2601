"""The table benchmark's result object, with tables so small that its numbers mean nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
GOALS = {
    "train_vs_torch": (">=", 10), "train_vs_fbgemm": (">=", 20), "train_vs_bound": (">=", 0.6),
    "lookup_vs_torch": (">=", 1.5), "overhead_bytes_per_id": ("<=", 20), "overhead_full_bytes_per_id": ("<=", 32),
    "snapshot_vs_disk": (">=", 0.6), "incremental_snapshot_vs_full": ("<=", 0.05),
    "two_threads_vs_bound_scaling": (">=", 0.9),
}  # fmt: skip
REPORTED = ("two_threads_vs_one", "growth_pause_p999_ms")


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "benchmarks" / "table.py"), "--tiny", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert run.returncode in {0, 3}, run.stderr[-3000:]
    answer: dict[str, Any] = json.loads(run.stdout)  # one object and nothing else
    missed = any(figure["holds"] is False for figure in answer["figures"].values())
    assert run.returncode == (3 if missed else 0)
    return answer


def test_the_object_has_its_parts(result: dict[str, Any]) -> None:
    assert set(result) == {"figures", "commit", "machine", "settings", "tables"}
    assert result["settings"]["command"] == "python benchmarks/table.py --tiny"
    assert result["settings"]["main"]["features"] == 26


def test_every_figure_with_its_goal(result: dict[str, Any]) -> None:
    figures = result["figures"]
    assert set(REPORTED) <= set(figures)
    for name, (op, bound) in GOALS.items():
        assert figures[name]["goal"] == {"op": op, "bound": bound}, name
    for name, figure in figures.items():
        assert {"value", "low", "high", "unit", "goal", "holds"} <= set(figure), name
        if figure["value"] is None:  # then a note says why
            assert figure["holds"] is None
            assert any(note.startswith(f"{name}:") for note in result["settings"]["notes"]), name
        elif figure["goal"] is not None:
            assert figure["holds"] in {True, False}


def test_ours_and_torch_were_measured(result: dict[str, Any]) -> None:
    for name in ("train_vs_torch", "lookup_vs_torch", "train_full_vs_torch"):
        assert result["figures"][name]["value"] > 0
    assert result["figures"]["train_vs_fbgemm"]["value"] is None  # tests need no environment beside the product's
