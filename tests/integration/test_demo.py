"""The demo as a person runs it: to the end, and stopped by Ctrl-C in the middle and run again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REQUESTS = 900
SHORT = f"""
import sys
import headrace.cli.demo as demo
settings = ["requests={REQUESTS}", *sys.argv[3:]]
demo.choose = lambda data, forever=False: ("headrace.online.demo:world", settings, "a short world")
from headrace.cli.main import main
sys.exit(main(["demo", "--json", "--seconds", sys.argv[1], "--folder", sys.argv[2]]))
"""


def start(folder: Path, seconds: float, *settings: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SHORT, str(seconds), str(folder), *settings]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, float]:
    output, errors = process.communicate(timeout=150)
    assert process.returncode == 0, errors[-3000:]
    report = json.loads(output)
    return {name: figure["value"] for name, figure in report["figures"].items()}


@pytest.mark.timeout(180)
def test_the_demo_learns_serves_and_reports(tmp_path: Path) -> None:
    figures = finish(start(tmp_path, 3.0))
    assert figures["examples"] == REQUESTS * 10
    assert 0.5 < figures["auc"] < figures["bayes_auc"]
    assert 0 < figures["freshness_p50_s"] <= figures["freshness_p99_s"] < 30
    page = (tmp_path / "run-001" / "report" / "report.html").read_text()
    assert "<svg" in page
    assert "Headrace: world" in page


@pytest.mark.timeout(240)
def test_ctrl_c_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    # A short window, so that the first examples are learned while the log is still played.
    first = start(tmp_path, 12.0, "window_s=60")
    learner = tmp_path / "run-001" / "status" / "learner.json"
    deadline = time.monotonic() + 100
    while not learner.exists() or json.loads(learner.read_text()).get("examples", 0) < 1000:
        assert first.poll() is None, first.communicate()[1][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 0, errors[-3000:]
    assert "nothing is lost" in errors
    assert json.loads(learner.read_text())["examples"] < REQUESTS * 10
    figures = finish(start(tmp_path, 3.0, "window_s=60"))
    assert figures["examples"] == REQUESTS * 10
    assert not (tmp_path / "run-002").exists()
