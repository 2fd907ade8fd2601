"""The evaluation benchmark's result object, on few rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_object_has_its_figures() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "evaluate_speed.py"), "--quick", "--peer", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-3000:]
    result = json.loads(run.stdout)
    assert {"figures", "commit", "machine", "settings"} <= set(result)
    assert {"evaluate_1e7_s", "auc_interval_s", "sklearn_auc_s"} <= set(result["figures"])
    assert result["figures"]["evaluate_1e7_s"]["goal"] is None  # of 10 million rows only
