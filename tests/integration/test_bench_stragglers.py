"""The result object of the benchmark of slow nodes, with a job so small that its numbers mean nothing."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.papers.antdt.real import Calibration, Cell
from headrace.runtime import Overheads

ROOT = Path(__file__).resolve().parents[2]
PATTERNS = ("persistent_worker", "transient_worker", "persistent_server", "mixed_devices")


def test_overheads_are_fitted_on_the_slow_worker_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    stragglers = importlib.import_module("stragglers")
    own = Calibration(Overheads.fitted({4: 0.5}, wait_s=1.0, stall_s=1.0, move_s=1.0, push_s=1.0), 1.0)
    monkeypatch.setattr(stragglers, "calibrated", lambda work, say: own)
    quick = stragglers.PLANS["quick"]
    cell = Cell(10 * (6 * quick.work.step_s + 0.05), 11, 0.7, 1.0, 26.0, 880, 1.0)
    cells = {(pattern, "BSP"): cell for pattern in PATTERNS}
    assert stragglers.overheads_of(quick, cells).sync_s(4) == pytest.approx(0.05)
    other = replace(quick, patterns=("transient_worker",))
    assert stragglers.overheads_of(other, cells) is own.overheads


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_result_is_one_object_with_all_figures() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "stragglers.py"), "--tiny", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert ended.returncode in {0, 3}, ended.stderr[-3000:]
    result = json.loads(ended.stdout)  # one object and nothing else
    assert set(result) >= {"figures", "commit", "machine", "settings", "tables"}
    names = {f"{name}/{pattern}" for name in ("speedup_vs_bsp", "speedup_vs_goal", "worse_than_best")
             for pattern in PATTERNS}  # fmt: skip
    assert set(result["figures"]) >= names | {"overhead_no_stragglers", "simulator_error"}
    assert result["settings"]["command"] == "python benchmarks/stragglers.py --tiny"
    for name, figure in result["figures"].items():
        if figure["value"] is None:  # then a note says why
            assert any(note.startswith(f"{name}:") for note in result["settings"]["notes"]), name
    assert result["figures"]["speedup_vs_goal/transient_worker"]["goal"] == {"op": ">=", "bound": 1.0}
    assert result["figures"]["worse_than_best/mixed_devices"]["goal"] == {"op": "<=", "bound": 0.05}
    assert result["figures"]["overhead_no_stragglers"]["goal"] == {"op": "<=", "bound": 0.02}
