"""Starts, watches and restarts the processes of one run on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headrace.errors import WorkerLost

_log = logging.getLogger(__name__)
BACKOFF_S = (0.0, 0.2, 1.0, 5.0)
"""Pause before the n-th restart in a row; a process that lived longer than `STEADY_S` starts the row anew."""
STEADY_S = 10.0


@dataclass(slots=True)
class _Child:
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    row: int = 0
    restarts: int = 0
    finished: bool = False
    not_before: float = 0.0


@dataclass(slots=True)
class Supervisor:
    """Keeps named processes alive until each has ended by itself with status 0.

    Children run in sessions of their own, so that Ctrl-C in the terminal reaches only the parent, which then asks
    them to finish. Each writes to `<logs>/<name>.log`.

    Args:
        commands: Name to command line.
        logs: Folder for the children's output.
        give_up_after: Failures in a row of one child before `poll` raises WorkerLost.
    """

    commands: Mapping[str, Sequence[str]]
    logs: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    give_up_after: int = 8
    _children: dict[str, _Child] = field(default_factory=dict)

    def start(self) -> None:
        """Start every child."""
        self.logs.mkdir(parents=True, exist_ok=True)
        for name, command in self.commands.items():
            self._children[name] = _Child(list(command))
            self._spawn(name)

    def _spawn(self, name: str) -> None:
        child = self._children[name]
        with (self.logs / f"{name}.log").open("ab") as output:
            child.process = subprocess.Popen(
                child.command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True, env={**os.environ, **self.environment},
            )  # fmt: skip
        child.started = time.monotonic()

    def poll(self) -> None:
        """Restart what died; to be called a few times a second.

        Raises:
            WorkerLost: If a child failed `give_up_after` times in a row; the message holds the end of its log.
        """
        now = time.monotonic()
        for name, child in self._children.items():
            if child.finished or child.process is None:
                continue
            status = child.process.poll()
            if status is None:
                continue
            if status == 0:
                child.finished = True
                continue
            if child.not_before == 0.0:
                child.row = 0 if now - child.started > STEADY_S else child.row + 1
                if child.row > self.give_up_after:
                    raise WorkerLost(f"Process '{name}'", got=f"{child.row} failures in a row, last exit status "
                                     f"{status}", do=f"The end of its log says:\n{self.tail(name)}")  # fmt: skip
                child.not_before = now + BACKOFF_S[min(child.row, len(BACKOFF_S) - 1)]
            if now >= child.not_before:
                _log.warning("process '%s' ended with status %s; starting it again", name, status)
                child.restarts, child.not_before = child.restarts + 1, 0.0
                self._spawn(name)

    def tail(self, name: str, lines: int = 15) -> str:
        """Return the last lines of a child's log."""
        try:
            return "\n".join((self.logs / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def pid(self, name: str) -> int | None:
        """Return the process id of a running child."""
        process = self._children[name].process
        return process.pid if process is not None and process.poll() is None else None

    def running(self) -> list[str]:
        """Return the names of children that have not finished."""
        return [name for name, child in self._children.items() if not child.finished]

    def restarts(self) -> dict[str, int]:
        """Return how often each child was started again."""
        return {name: child.restarts for name, child in self._children.items()}

    def kill(self, name: str, number: int = signal.SIGKILL) -> bool:
        """Send a signal to one child; returns False when it was not running."""
        pid = self.pid(name)
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        return True

    def stop(self, timeout_s: float = 20.0) -> None:
        """Ask every child to finish (SIGTERM), wait, and kill what does not; nothing durable is lost either way."""
        alive = [child for child in self._children.values() if child.process and child.process.poll() is None]
        for child in alive:
            assert child.process is not None
            with contextlib.suppress(ProcessLookupError):
                child.process.terminate()
        deadline = time.monotonic() + timeout_s
        for child in alive:
            assert child.process is not None
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            child.finished = True
