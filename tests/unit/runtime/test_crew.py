"""A crew keeps its processes alive, and is told to have more or fewer: against a launcher of the test's own."""

from __future__ import annotations

import signal
import time

import pytest

from headrace.errors import ConfigError, WorkerLost
from headrace.runtime import Crew, Exit, RestartConfig, RoleCommand


class Stage:
    """A launcher whose processes die when the test says so."""

    def __init__(self) -> None:
        self.started: list[RoleCommand] = []
        self.alive: set[str] = set()
        self.untold: list[Exit] = []

    def start(self, command: RoleCommand) -> None:
        assert command.name not in self.alive
        self.started.append(command)
        self.alive.add(command.name)

    def die(self, name: str, code: int = -9) -> None:
        self.alive.remove(name)
        self.untold.append(Exit(name, code, time.monotonic(), "the end of its log"))

    def exits(self, timeout_s: float = 0.0) -> list[Exit]:
        told, self.untold = self.untold, []
        return told

    def stop(self, name: str, timeout_s: float = 10.0) -> None:
        if name in self.alive:
            self.die(name, -signal.SIGTERM)

    def close(self) -> None:
        for name in sorted(self.alive):
            self.stop(name)


def command_of(role: str, index: int) -> RoleCommand:
    return RoleCommand(name=f"{role}-{index}", role=role, words=("run", role))


def crew_of(stage: Stage, restarts: RestartConfig | None = None, **counts: int) -> Crew:
    crew = Crew(stage, command_of, counts, restarts)  # type: ignore[arg-type]
    crew.start()
    return crew


def test_roles_start_in_order() -> None:
    stage = Stage()
    crew = crew_of(stage, head=1, server=2, worker=1)
    assert [one.name for one in stage.started] == ["head-0", "server-0", "server-1", "worker-0"]
    assert crew.names("server") == ["server-0", "server-1"]
    assert {one.environment["HEADRACE_GENERATION"] for one in stage.started} == {"0"}


def test_the_dead_are_started_again_and_the_finished_are_not() -> None:
    stage = Stage()
    crew = crew_of(stage, worker=2)
    stage.die("worker-0")
    stage.die("worker-1", code=0)
    assert [end.name for end in crew.poll()] == ["worker-0", "worker-1"]
    assert stage.alive == {"worker-0"}
    assert stage.started[-1].environment["HEADRACE_GENERATION"] == "1"
    assert crew.restarts() == {"worker-0": 1, "worker-1": 0}
    assert crew.running() == ["worker-0"]
    stage.die("worker-0", code=0)
    crew.poll()
    assert crew.finished


def test_deaths_in_a_minute_are_free_and_then_wait() -> None:
    stage = Stage()
    crew = crew_of(stage, RestartConfig(free_per_minute=2, backoff_s=(0.05,)), worker=1)
    for _ in range(2):
        stage.die("worker-0")
        crew.poll()
        assert stage.alive == {"worker-0"}
    stage.die("worker-0")
    crew.poll()
    assert stage.alive == set()
    time.sleep(0.06)
    crew.poll()
    assert stage.alive == {"worker-0"}


def test_a_row_of_failures_ends_the_run() -> None:
    stage = Stage()
    crew = crew_of(stage, RestartConfig(give_up_after=2), worker=1)
    for _ in range(2):
        stage.die("worker-0", code=1)
        crew.poll()
    stage.die("worker-0", code=1)
    with pytest.raises(WorkerLost, match=r"3 failures in a row(.|\n)*the end of its log"):
        crew.poll()


def test_a_steady_life_starts_the_row_anew() -> None:
    stage = Stage()
    crew = crew_of(stage, RestartConfig(give_up_after=1, steady_s=0.01), worker=1)
    for _ in range(4):
        time.sleep(0.02)
        stage.die("worker-0")
        crew.poll()
    assert crew.restarts() == {"worker-0": 4}


def test_only_the_roles_named_are_started_again() -> None:
    stage = Stage()
    crew = crew_of(stage, RestartConfig(roles=frozenset({"worker"})), head=1, worker=1)
    stage.die("head-0")
    stage.die("worker-0")
    crew.poll()
    assert stage.alive == {"worker-0"}


def test_more_and_fewer_while_it_runs() -> None:
    stage = Stage()
    crew = crew_of(stage, worker=2)
    assert crew.add("worker", 2) == ["worker-2", "worker-3"]
    crew.remove(["worker-1", "worker-2"])
    crew.poll()
    assert stage.alive == {"worker-0", "worker-3"}
    assert crew.names("worker") == ["worker-0", "worker-3"]
    assert crew.add("worker", 1) == ["worker-4"]  # an index is never given twice
    with pytest.raises(ConfigError, match="no such process"):
        crew.remove(["worker-9"])


def test_a_restart_on_purpose_is_one_start() -> None:
    stage = Stage()
    crew = crew_of(stage, worker=1)
    crew.restart("worker-0")
    crew.poll()
    crew.poll()
    assert [one.environment["HEADRACE_GENERATION"] for one in stage.started] == ["0", "1"]
    assert stage.alive == {"worker-0"}


def test_a_restart_of_one_that_had_just_died_is_one_start() -> None:
    stage = Stage()
    crew = crew_of(stage, worker=1)
    stage.die("worker-0")
    crew.restart("worker-0")
    crew.poll()
    assert len(stage.started) == 2
    assert crew.restarts() == {"worker-0": 1}


def test_stop_ends_everything_for_good() -> None:
    stage = Stage()
    crew = crew_of(stage, worker=2)
    stage.die("worker-0")
    crew.stop()
    crew.poll()
    assert stage.alive == set()
    assert crew.finished


@pytest.mark.parametrize("wrong", [{"give_up_after": 0}, {"backoff_s": ()}, {"steady_s": 0.0}, {"free_per_minute": -1}])
def test_settings_are_checked(wrong) -> None:
    with pytest.raises(ConfigError):
        RestartConfig(**wrong)
