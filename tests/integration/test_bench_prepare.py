"""The preparation benchmark's result object, with a file so small that its numbers mean nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_figure_is_there_with_its_goal() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "prepare.py"), "--tiny", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert run.returncode in {0, 3}, run.stderr[-3000:]
    answer = json.loads(run.stdout)  # one object and nothing else
    figures = answer["figures"]
    assert figures["prepare_vs_fuxictr"]["goal"] == {"op": ">=", "bound": 5}
    assert figures["prepare_vs_fuxictr"]["value"] is None
    assert any("FuxiCTR is not there" in note for note in answer["settings"]["notes"])
    assert figures["evaluate_1e7_s"]["goal"] == {"op": "<", "bound": 5}
    assert answer["settings"]["rows"] == 3000
    for name in ("prepare_rows_per_s/1_process", "prepare_rows_per_s/2_processes", "batches_rows_per_s/in_order"):
        assert figures[name]["value"] > 0
