"""What a launcher on Ray says when the cluster fails in some way, with Ray in the tests' own hands."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from headrace.errors import WorkerLost
from headrace.runtime.ray_launch import LOST, RayLauncher, _Member


class RayError(Exception):
    """Root of Ray's errors."""


class RayTaskError(RayError):
    """An error of ours, from elsewhere."""


class RayActorError(RayError):
    """An actor is gone."""


class Actor:
    """Whatever is asked of it, the answer is its name."""

    def __getattr__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(remote=lambda *words: name)


@pytest.fixture
def launcher() -> RayLauncher:
    """Return a launcher of one process, whose cluster answers nothing but an error."""
    made = RayLauncher.__new__(RayLauncher)

    def get(answer, timeout=None):
        raise RayError(f"the cluster cannot say {answer}")

    errors = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError, RayActorError=RayActorError)
    made._ray = SimpleNamespace(exceptions=errors, get=get, kill=lambda actor: None)
    made._members, made._untold, made._changed = {"worker-0": _Member(Actor())}, [], threading.Condition()
    return made


def test_whatever_error_tells_of_an_end_is_one(launcher) -> None:
    launcher._told("worker-0", launcher._members["worker-0"], "exits")
    [end] = launcher.exits()
    assert (end.name, end.code) == ("worker-0", LOST)
    assert "RayError" in end.tail


def test_who_cannot_be_reached_receives_nothing(launcher, monkeypatch) -> None:
    monkeypatch.setattr("headrace.runtime.ray_launch.CALL_S", 0.01)
    assert launcher.signal("worker-0", 15) is False
    assert launcher.pid("worker-0") is None
    launcher.stop("worker-0", 0.01)
    with pytest.raises(WorkerLost, match="RayError"):
        launcher.address("worker-0", 0.01)
