"""The same processes on the machines of a Ray cluster: one small actor per role starts its process where Ray put it.

Ray places, watches nodes and passes messages of a few hundred bytes. Rows, gradients and tables never go through it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from headrace.config import require
from headrace.errors import ConfigError, WorkerLost
from headrace.runtime.launch import LOOPBACK, Exit, RoleCommand
from headrace.runtime.local_launch import TAIL_LINES, LocalLauncher
from headrace.runtime.placement import Demand, demand
from headrace.runtime.ray_connection import connected, import_ray

if TYPE_CHECKING:
    from headrace.protocols import Placement

_log = logging.getLogger(__name__)
LOST = -9
"""The exit status told of a process whose machine, or whose actor, is gone."""
START_S, CALL_S, LONG_POLL_S = 120.0, 30.0, 5.0
PYTHON_THERE = "{python}"
"""Stands in a command for the interpreter of the node where it will run."""


def version() -> str:
    """Return which Headrace this is; machines of one run must have the same."""
    return str(importlib.import_module("headrace").__version__)


class RoleActor:
    """What Ray runs: starts one role's process on its node with a `LocalLauncher`, and answers for it.

    The methods are called by name through Ray; `exits` waits, beside the others, in a thread of its own.
    """

    def __init__(self, logs: str, environment: Mapping[str, str], host: str | None) -> None:
        if host is None:
            host = str(import_ray().util.get_node_ip_address())
        self._launcher = LocalLauncher(_writable(Path(logs)), host, environment)
        self._name = ""

    def start(self, name: str, role: str, words: tuple[str, ...], environment: Mapping[str, str]) -> dict[str, str]:
        """Start the process; returns what tells whether this node fits."""
        self._name = name
        there = tuple(sys.executable if word == PYTHON_THERE else word for word in words)
        self._launcher.start(RoleCommand(name=name, role=role, words=there, environment=environment))
        return {"headrace": version(), "host": self._launcher.host}

    def address(self, timeout_s: float) -> str:
        """Return the address that the process announced."""
        return self._launcher.address(self._name, timeout_s)

    def exits(self, timeout_s: float) -> list[tuple[str, int, str]]:
        """Return the process's end: (name, status, end of its log); nothing while it lives."""
        return [(end.name, end.code, end.tail) for end in self._launcher.exits(timeout_s)]

    def pid(self) -> int | None:
        """Return the process id on this node."""
        return self._launcher.pid(self._name)

    def signal(self, number: int) -> bool:
        """Send the process a signal."""
        return self._launcher.signal(self._name, number)

    def stop(self, timeout_s: float) -> None:
        """End the process."""
        self._launcher.stop(self._name, timeout_s)

    def tail(self, lines: int) -> str:
        """Return the last lines of its log."""
        return self._launcher.tail(self._name, lines)


def _writable(logs: Path) -> Path:
    """Return the folder, or one in the node's own temporary place if the run's folder is not on this machine."""
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="headrace-logs-"))
    return logs


@dataclass(slots=True, eq=False)
class _Member:
    actor: Any
    waiting: Any = None
    end: Exit | None = None


class RayLauncher:
    """Starts every role on the node that Ray chooses for it; the same protocol as `LocalLauncher`.

    A process dies with its actor, an actor with its node or with this process. The death of a process is told within
    milliseconds, that of a node when Ray believes it (`HEALTH`); its status is then `LOST`.

    Args:
        logs: Folder for the output of the processes, on the node where each runs.
        address: `local` for a Ray of this machine alone, `auto` for the cluster that this machine belongs to, or
            host:port of its head.
        placement: What each role needs, in its `devices` (see `demand`). On `local`, amounts of cores are not held
            against the machine, so that a laptop may have more processes than cores.
        environment: Added to every process's environment.

    Raises:
        ConfigError: If Ray is not installed.
        ClusterError: If the cluster cannot be reached.

    Thread-safety: any thread may call anything.
    """

    def __init__(
        self, logs: Path, address: str = "auto", placement: Placement | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        require(bool(address), "address", got=address, expected="local, auto, or host:port")
        self._local = address == "local"
        self._logs, self._placement, self._environment = logs, placement, dict(environment or {})
        self._connection = connected(address)
        self._ray = self._connection.__enter__()
        self._members: dict[str, _Member] = {}
        self._untold: list[Exit] = []
        self._changed = threading.Condition()
        self._closed = False
        self._watcher = threading.Thread(target=self._watch, name="ray exits", daemon=True)
        self._watcher.start()

    def _demand(self, role: str) -> Demand:
        asked = Demand() if self._placement is None else demand(self._placement, role)
        if not self._local:
            return asked
        return Demand(cpus=0.0, gpus=asked.gpus, memory_bytes=0, others={})

    def start(self, command: RoleCommand) -> None:
        """Start a process on the node that Ray chooses; one of the same name must have ended.

        Raises:
            ConfigError: If one of that name runs, or the program cannot be started.
            WorkerLost: If no node takes it within two minutes.
        """
        with self._changed:
            earlier = self._members.get(command.name)
            require(earlier is None or earlier.end is not None, f"Process '{command.name}'", got="one that runs",
                    expected="one that has ended", do="Stop it first.")  # fmt: skip
        own = self._ray.remote(RoleActor).options(
            max_restarts=0, max_concurrency=8, scheduling_strategy="SPREAD", **self._demand(command.role).options()
        )
        actor = own.remote(str(self._logs), self._environment, LOOPBACK if self._local else None)
        member = _Member(actor)
        words = tuple(PYTHON_THERE if word == sys.executable else word for word in command.words)
        started = actor.start.remote(command.name, command.role, words, dict(command.environment))
        node = self._get(command.name, started, START_S)
        if node["headrace"] != version():
            self._ray.kill(actor)
            raise ConfigError(f"Machine {node['host']}", got=f"headrace {node['headrace']}", do="Install one version "
                              "everywhere.", expected=f"{version()}, as here")  # fmt: skip
        member.waiting = actor.exits.remote(LONG_POLL_S)
        with self._changed:
            self._members[command.name] = member
            self._changed.notify_all()

    def _get(self, name: str, answer: Any, timeout_s: float = CALL_S) -> Any:
        """Return an actor's answer; errors of ours come as themselves."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(answer, timeout=timeout_s)
        except errors.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from None
        except errors.RayError as error:
            raise WorkerLost(f"Process '{name}'", got=f"{type(error).__name__} of its actor", expected="an answer",
                             do="Has the cluster room for it, and is its node alive?") from error  # fmt: skip

    def _watch(self) -> None:
        """Collect the ends of processes: one call to each actor is always under way."""
        while not self._closed:
            with self._changed:
                pending = {member.waiting: (name, member) for name, member in self._members.items()
                           if member.end is None}  # fmt: skip
                if not pending:
                    self._changed.wait(0.05)
                    continue
            ready, _ = self._ray.wait(list(pending), timeout=0.1)
            for answer in ready:
                self._told(*pending[answer], answer)

    def _told(self, name: str, member: _Member, answer: Any) -> None:
        errors = self._ray.exceptions
        try:
            ends = self._ray.get(answer)
        except errors.RayError as error:  # whatever it is: what cannot be asked any more counts as gone
            ends = [(name, LOST, f"{type(error).__name__}: its node or its actor is gone")]
        if not ends:
            member.waiting = member.actor.exits.remote(LONG_POLL_S)
            return
        with self._changed:
            member.end = Exit(name, ends[0][1], time.monotonic(), ends[0][2])
            self._untold.append(member.end)
            self._changed.notify_all()

    def _living(self, name: str) -> Any | None:
        with self._changed:
            member = self._members.get(name)
            return None if member is None or member.end is not None else member.actor

    def address(self, name: str, timeout_s: float = 60.0) -> str:
        """Return the address that a process announced, waiting for it.

        Raises:
            WorkerLost: If it ended first, or said nothing in time; the message has the end of its log.
        """
        actor = self._members[name].actor
        found: str = self._get(name, actor.address.remote(timeout_s), timeout_s + CALL_S)
        return found

    def exits(self, timeout_s: float = 0.0) -> list[Exit]:
        """Return the ends not told yet, each once; waits up to `timeout_s` for the first."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._untold), timeout_s)
            told, self._untold = self._untold, []
        for end in told:  # the actor has said what it had to
            member = self._members[end.name]
            if member.end is end:
                self._ray.kill(member.actor)
        return told

    def running(self) -> list[str]:
        """Return the names of the processes that live."""
        with self._changed:
            return [name for name, member in self._members.items() if member.end is None]

    def pid(self, name: str) -> int | None:
        """Return the process id on its node; None when it does not run."""
        actor = self._living(name)
        with contextlib.suppress(WorkerLost):  # its end is told in a moment
            found: int | None = None if actor is None else self._get(name, actor.pid.remote())
            return found
        return None

    def signal(self, name: str, number: int) -> bool:
        """Send a signal; returns False when there was nobody to receive it."""
        actor = self._living(name)
        with contextlib.suppress(WorkerLost):  # there was nobody
            return actor is not None and bool(self._get(name, actor.signal.remote(number)))
        return False

    def stop(self, name: str, timeout_s: float = 10.0) -> None:
        """Ask a process to end (SIGTERM), then make it (SIGKILL)."""
        actor = self._living(name)
        if actor is None:
            return
        with contextlib.suppress(WorkerLost):  # gone before it was asked
            self._get(name, actor.stop.remote(timeout_s), timeout_s + CALL_S)
        with self._changed:
            self._changed.wait_for(lambda: self._members[name].end is not None, CALL_S)

    def tail(self, name: str, lines: int = TAIL_LINES) -> str:
        """Return the last lines of a process's log."""
        member = self._members[name]
        if member.end is not None:
            return "\n".join(member.end.tail.splitlines()[-lines:])
        found: str = self._get(name, member.actor.tail.remote(lines))
        return found

    def close(self) -> None:
        """End every process, their actors, and a Ray that was started here."""
        if self._closed:
            return
        asked = [(name, actor.stop.remote(10.0)) for name in self.running() if (actor := self._living(name))]
        for name, answer in asked:
            try:
                self._get(name, answer)
            except WorkerLost as error:
                _log.warning("%s", error)
        self._closed = True
        self._watcher.join(CALL_S)
        for member in self._members.values():
            self._ray.kill(member.actor)
        self._connection.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
