"""The result object of the recovery benchmark, without its peer."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recovery(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("recovery")


def test_a_round_in_which_the_peer_failed_does_not_move_the_others(recovery: Any, tmp_path: Path) -> None:
    from recovery_contenders.stalls import Stall
    from table_contenders.figures import Figures

    figures = Figures()
    measured = recovery.Recovery(recovery.PLANS["quick"], figures, tmp_path)
    measured._compared(1.0, "kill", [Stall(1.0, 1, 0.0), Stall(2.0, 1, 0.0), Stall(3.0, 1, 0.0)],
                       [Stall(2.0, 0, 0.0), None, Stall(6.0, 2, 0.0)])  # fmt: skip
    found = figures.result({})["figures"]
    assert (found["stall_vs_torchft"]["low"], found["stall_vs_torchft"]["high"]) == (0.5, 0.5)
    assert found["stall_s/torchft"]["value"] == 4.0


def test_what_failed_before_the_blow_was_not_taken_again(recovery: Any) -> None:
    from recovery_contenders.torchft_peer import redone

    lines = [[0, 0, 0.0, 0.1, 2], [0, 1, 0.1, 0.2, 4], [1, 0, 0.2, 1.4, 3], [1, 1, 1.4, 1.5, 3]]
    assert redone(lines, struck=0.3) == 1


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
