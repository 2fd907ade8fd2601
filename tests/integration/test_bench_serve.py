"""The result objects of the serving benchmarks, with work so small that their numbers mean nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(name: str) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--tiny", "--json"]
    # No peers: they are measured by hand.
    ended = subprocess.run(command, capture_output=True, text=True, timeout=170,
                           env={**os.environ, "SERVE_PEER_PYTHON": "/nowhere"})  # fmt: skip
    assert ended.returncode in {0, 3}, ended.stderr[-3000:]
    answer: dict[str, Any] = json.loads(ended.stdout)  # one object and nothing else
    missed = any(figure["holds"] is False for figure in answer["figures"].values())
    assert ended.returncode == (3 if missed else 0)
    assert set(answer) >= {"figures", "commit", "machine", "settings"}
    assert answer["settings"]["command"] == f"python benchmarks/{name}.py --tiny"
    for figure, content in answer["figures"].items():
        if content["value"] is None:  # then a note says why
            assert any(note.startswith(f"{figure}:") for note in answer["settings"]["notes"]), figure
    return answer


@pytest.mark.slow
def test_ranking_over_http() -> None:
    figures = run("serve")["figures"]
    for name, goal in {"rank_vs_ray_serve": (">=", 3.0), "rank_vs_fastapi_torch": (">=", 3.0),
                       "rank_p99_ms_at_half_load": ("<=", 15.0), "swap_p99_change": ("<=", 0.2),
                       "workers_memory_vs_one": ("<=", 1.2)}.items():  # fmt: skip
        assert (figures[name]["goal"]["op"], figures[name]["goal"]["bound"]) == goal
    assert figures["rank_vs_bound"]["goal"] is None
    assert 0 < figures["rank_vs_bound"]["value"] < 1
    assert figures["cpu_ms_per_request/headrace"]["value"] > 0
    assert figures["memory_mb/1_workers"]["value"] > 0


@pytest.mark.slow
def test_freshness() -> None:
    figures = run("freshness")["figures"]
    assert figures["freshness_p50_s"]["goal"] == {"op": "<=", "bound": 0.5}
    assert figures["freshness_p99_s"]["goal"] == {"op": "<=", "bound": 2.0}
    assert 0 < figures["freshness_p50_s"]["value"] <= figures["freshness_p99_s"]["value"]
    assert figures["clicks_learned_share"]["value"] > 0.5
