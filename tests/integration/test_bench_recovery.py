"""The result object of the recovery benchmark, without its peer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_killed_worker_costs_one_step_at_most() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "recovery.py"), "--tiny", "--json"]
    # No peer: it is measured by hand.
    ended = subprocess.run(command, capture_output=True, text=True, timeout=170,
                           env={**os.environ, "ELASTIC_PEER_PYTHON": "/nowhere"})  # fmt: skip
    assert ended.returncode in {0, 3}, ended.stderr[-3000:]
    answer: dict[str, Any] = json.loads(ended.stdout)
    assert set(answer) >= {"figures", "commit", "machine", "settings"}
    figures = answer["figures"]
    assert figures["steps_redone"]["value"] <= 1
    assert figures["steps_redone"]["goal"] == {"op": "<=", "bound": 1}
    assert figures["stall_s"]["value"] > 0
    assert figures["stall_vs_torchft"]["value"] is None
    assert any(note.startswith("stall_vs_torchft:") for note in answer["settings"]["notes"])
