"""The processes of a run as a whole: how many of each role, restarts of the dead, more and fewer while it runs."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from headrace.config import require
from headrace.errors import WorkerLost
from headrace.runtime.launch import GENERATION_VARIABLE, Exit, Launcher, RoleCommand

_log = logging.getLogger(__name__)
MINUTE_S = 60.0
CommandOf = Callable[[str, int], RoleCommand]


@dataclass(frozen=True, kw_only=True)
class RestartConfig:
    """When a process that died is started again.

    Attributes:
        free_per_minute: Deaths of one process within a minute after which it is started again at once.
        backoff_s: Pauses before the starts after those; the last one stays.
        steady_s: A process that lived this long starts its row of failures anew.
        give_up_after: Failures in a row of one process after which the run ends.
        roles: Roles that are started again; None: all of them.

    Raises:
        ConfigError: If a value cannot work.
    """

    free_per_minute: int = 5
    backoff_s: tuple[float, ...] = (0.2, 1.0, 5.0)
    steady_s: float = 10.0
    give_up_after: int = 8
    roles: frozenset[str] | None = None

    def __post_init__(self) -> None:
        require(self.free_per_minute >= 0, "free_per_minute", got=self.free_per_minute, expected="0 or more")
        fine = bool(self.backoff_s) and all(pause >= 0 for pause in self.backoff_s)
        require(fine, "backoff_s", got=self.backoff_s, expected="at least one pause of 0 or more seconds")
        require(self.steady_s > 0, "steady_s", got=self.steady_s, expected="a positive number of seconds")
        require(self.give_up_after >= 1, "give_up_after", got=self.give_up_after, expected="a positive integer")

    def pause_s(self, deaths: int) -> float:
        """Return the pause before a start, given how often the process died in the last minute.

        Example:
            >>> [RestartConfig(free_per_minute=2).pause_s(deaths) for deaths in (1, 2, 3, 9)]
            [0.0, 0.0, 0.2, 5.0]
        """
        over = deaths - self.free_per_minute
        return 0.0 if over <= 0 else self.backoff_s[min(over, len(self.backoff_s)) - 1]


@dataclass(slots=True)
class _Member:
    role: str
    index: int
    started: float = 0.0
    deaths: deque[float] = field(default_factory=deque)
    row: int = 0
    generation: int = 0
    starts: int = 0
    ends: int = 0
    due: float | None = None
    wanted: bool = True
    finished: bool = False


class Crew:
    """Keeps the processes of a run alive through a launcher; the controller's orders are its methods.

    A process is called `<role>-<index>`; an index is never given twice. One that ends with status 0 has finished. One
    thread starts, polls and orders; any may ask for names.

    Args:
        launcher: Starts and watches them.
        command_of: Returns the command of (role, index); asked anew at every start, so that a process that is started
            again learns new addresses.
        counts: How many of each role, started in this order.
        restarts: When a process that died is started again.

    Example:
        >>> from pathlib import Path; import sys, tempfile
        >>> from headrace.runtime import LocalLauncher
        >>> def command_of(role, index):
        ...     return RoleCommand(name=f"{role}-{index}", role=role, words=(sys.executable, "-c", "pass"))
        >>> with tempfile.TemporaryDirectory() as logs, LocalLauncher(Path(logs)) as launcher:
        ...     crew = Crew(launcher, command_of, {"worker": 2})
        ...     crew.start()
        ...     while not crew.finished:
        ...         _ = crew.poll(1.0)
        ...     crew.names("worker")
        ['worker-0', 'worker-1']
    """

    def __init__(
        self, launcher: Launcher, command_of: CommandOf, counts: Mapping[str, int],
        restarts: RestartConfig | None = None,
    ) -> None:  # fmt: skip
        for role, count in counts.items():
            require(count >= 0, f"Number of processes '{role}'", got=count, expected="0 or more")
        self._launcher, self._command_of, self._counts = launcher, command_of, dict(counts)
        self._restarts = restarts or RestartConfig()
        self._members: dict[str, _Member] = {}
        self._next: dict[str, int] = {}

    def start(self) -> None:
        """Start every process; roles in the order of `counts`."""
        for role, count in self._counts.items():
            self.add(role, count)

    def add(self, role: str, count: int) -> list[str]:
        """Start more of a role; return their names."""
        names = []
        for _ in range(count):
            index = self._next.get(role, 0)
            self._next[role] = index + 1
            name = f"{role}-{index}"
            self._members[name] = _Member(role, index)
            self._spawn(name)
            names.append(name)
        return names

    def _spawn(self, name: str) -> None:
        member = self._members[name]
        command = self._command_of(member.role, member.index)
        own = {**command.environment, GENERATION_VARIABLE: str(member.generation)}
        self._launcher.start(dataclasses.replace(command, name=name, role=member.role, environment=own))
        member.started, member.due, member.starts = time.monotonic(), None, member.starts + 1

    def poll(self, timeout_s: float = 0.0) -> list[Exit]:
        """Return the ends since the last call, waiting up to `timeout_s` for one, and start again what has to run.

        Raises:
            WorkerLost: If a process failed `give_up_after` times in a row; the message has the end of its log.
        """
        now = time.monotonic()
        waits = [member.due - now for member in self._members.values() if member.due is not None]
        exits = self._launcher.exits(max(0.0, min([timeout_s, *waits])))
        for end in exits:
            self._ended(end)
        now = time.monotonic()
        for name, member in self._members.items():
            if member.due is not None and now >= member.due:
                self._spawn(name)
        return exits

    def _ended(self, end: Exit) -> None:
        member = self._members.get(end.name)
        if member is None:
            return
        member.ends += 1
        if member.ends < member.starts:  # of one that was restarted on purpose
            return
        again = member.wanted and end.code != 0
        if not again or (self._restarts.roles is not None and member.role not in self._restarts.roles):
            member.finished = True
            return
        member.deaths.append(end.time)
        while member.deaths[0] < end.time - MINUTE_S:
            member.deaths.popleft()
        member.row = 1 if end.time - member.started > self._restarts.steady_s else member.row + 1
        if member.row > self._restarts.give_up_after:
            raise WorkerLost(f"Process '{end.name}'", got=f"{member.row} failures in a row, the last with status "
                             f"{end.code}", do=f"The end of its log says:\n{end.tail}")  # fmt: skip
        pause = self._restarts.pause_s(len(member.deaths))
        _log.warning("process '%s' ended with status %s; starting it again in %g s", end.name, end.code, pause)
        member.generation += 1
        member.due = time.monotonic() + pause

    def restart(self, name: str, timeout_s: float = 10.0) -> None:
        """Stop a process and start it again at once."""
        member = self._member(name)
        self._stop([name], timeout_s)
        member.generation += 1
        member.wanted, member.finished = True, False
        self._spawn(name)

    def remove(self, names: Iterable[str], timeout_s: float = 10.0) -> None:
        """Stop processes for good."""
        names = list(names)
        for name in names:
            self._member(name)
        self._stop(names, timeout_s)

    def _stop(self, names: list[str], timeout_s: float) -> None:
        for name in names:
            self._members[name].wanted = False
            self._members[name].due = None
        for name in names:
            self._launcher.stop(name, timeout_s)
            self._members[name].finished = True

    def _member(self, name: str) -> _Member:
        known = list(self._members)
        require(name in self._members, f"Process '{name}'", got="no such process", expected=f"one of {known}")
        return self._members[name]

    def names(self, role: str | None = None) -> list[str]:
        """Return the names of the processes that were started and not removed, of one role or of all."""
        known = list(self._members.items())  # other threads may ask while one starts more
        return [name for name, member in known if member.wanted and role in (None, member.role)]

    def running(self) -> list[str]:
        """Return the names of the processes that have neither finished nor been removed."""
        return [name for name, member in list(self._members.items()) if not member.finished]

    @property
    def finished(self) -> bool:
        """Whether every process has ended for good."""
        return not self.running()

    def restarts(self) -> dict[str, int]:
        """Return how often each process was started again."""
        return {name: member.generation for name, member in self._members.items()}

    def stop(self) -> None:
        """End every process."""
        for member in self._members.values():
            member.wanted, member.due, member.finished = False, None, True
        self._launcher.close()
