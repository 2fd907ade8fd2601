"""The supervisor restarts what dies, lets finish what is done, and gives up with the end of the log."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from headrace.errors import WorkerLost
from headrace.online import Supervisor

PYTHON = [sys.executable, "-S", "-c"]


def poll_until(supervisor: Supervisor, condition: object, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        supervisor.poll()
        time.sleep(0.02)


def test_a_child_that_ends_well_is_finished(tmp_path: Path) -> None:
    supervisor = Supervisor({"one": [*PYTHON, "pass"]}, tmp_path)
    supervisor.start()
    poll_until(supervisor, lambda: supervisor.running() == [])
    assert supervisor.restarts() == {"one": 0}


def test_a_killed_child_is_started_again(tmp_path: Path) -> None:
    supervisor = Supervisor({"one": [*PYTHON, "import time; time.sleep(60)"]}, tmp_path)
    supervisor.start()
    first = supervisor.pid("one")
    assert supervisor.kill("one")
    poll_until(supervisor, lambda: supervisor.pid("one") not in (None, first))
    assert supervisor.restarts() == {"one": 1}
    supervisor.stop(timeout_s=5)
    assert supervisor.pid("one") is None


def test_a_child_that_always_fails_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    supervisor = Supervisor({"one": [*PYTHON, "raise SystemExit('no disk today')"]}, tmp_path, give_up_after=1)
    supervisor.start()
    with pytest.raises(WorkerLost, match="no disk today"):
        poll_until(supervisor, lambda: False)
