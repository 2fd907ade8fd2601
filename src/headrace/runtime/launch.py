"""Starting a role's command on a place, and what the started process does in return.

A role is a command line. A `Launcher` starts it, learns the address at which it listens, notices its death, and stops
it; the process begins with `launched()` and says `announce(address)` once it listens. Which launcher it was, it never
knows.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from headrace.config import require

NAME_VARIABLE = "HEADRACE_ROLE_NAME"
HOST_VARIABLE = "HEADRACE_HOST"
PARENT_VARIABLE = "HEADRACE_PARENT"
ANNOUNCE_VARIABLE = "HEADRACE_ANNOUNCE_FD"
GENERATION_VARIABLE = "HEADRACE_GENERATION"
LOOPBACK = "127.0.0.1"
ADDRESS_BYTES = 256
ORPHAN_CHECK_S = 0.2
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True)
class RoleCommand:
    """One process to start.

    Attributes:
        name: Which one, unique in a run (`worker-3`).
        role: Of which kind (`worker`); a placement has resources for each kind.
        words: The command line.
        environment: Added to the environment of the place where it runs. A run's secret goes here, never into `words`,
            which every user of a machine may read.
        warm: Module with what such a process imports. Where a launcher can, it imports it once, in a fork server, and
            forks the processes of it; they then begin in milliseconds. Empty: each starts from nothing.

    Raises:
        ConfigError: If there is no name, or nothing to run.
    """

    name: str
    role: str
    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    warm: str = ""

    def __post_init__(self) -> None:
        plain = bool(self.name) and all(letter.isalnum() or letter in "-_." for letter in self.name)
        require(plain, "RoleCommand.name", got=self.name, expected="letters, digits, '-', '_' and '.'")
        require(bool(self.words), "RoleCommand.words", got=self.words, expected="a program and its arguments")


@dataclass(frozen=True, slots=True)
class Exit:
    """A process that ended: its exit status (negative: the signal), when (monotonic clock), the end of its log."""

    name: str
    code: int
    time: float
    tail: str = ""


@runtime_checkable
class Launcher(Protocol):
    """Starts processes on places and watches their lives. Thread-safe; a context manager that ends them all."""

    def start(self, command: RoleCommand) -> None:
        """Start a process; one of the same name must have ended."""
        ...

    def address(self, name: str, timeout_s: float = 60.0) -> str:
        """Return the address that a process announced, waiting for it.

        Raises:
            WorkerLost: If it ended first, or said nothing in time; the message has the end of its log.
        """
        ...

    def exits(self, timeout_s: float = 0.0) -> list[Exit]:
        """Return the ends not told yet, each once; waits up to `timeout_s` for the first."""
        ...

    def running(self) -> list[str]:
        """Return the names of the processes that live."""
        ...

    def pid(self, name: str) -> int | None:
        """Return the process id on its place; None when it does not run."""
        ...

    def signal(self, name: str, number: int) -> bool:
        """Send a signal; returns False when there was nobody to receive it."""
        ...

    def stop(self, name: str, timeout_s: float = 10.0) -> None:
        """Ask a process to end (SIGTERM), then make it (SIGKILL); its end is told by `exits` as any other."""
        ...

    def tail(self, name: str, lines: int = 15) -> str:
        """Return the last lines of a process's log."""
        ...

    def close(self) -> None:
        """End every process."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


# ----------------------------------------------------------------------------------------------- in the started process


@dataclass(frozen=True, slots=True)
class Launched:
    """What a started process knows of itself: its name, the host at which the others reach it, its restarts so far."""

    name: str
    host: str
    generation: int = 0


def launched() -> Launched:
    """Begin a role's process: from here on it dies with the process that started it.

    Outside a launcher nothing is tied to anything, the name is empty and the host is this machine's loopback.

    Example:
        >>> launched().host
        '127.0.0.1'
    """
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is not None:
        _die_with(int(parent))
    host, generation = os.environ.get(HOST_VARIABLE, LOOPBACK), int(os.environ.get(GENERATION_VARIABLE, "0"))
    return Launched(os.environ.get(NAME_VARIABLE, ""), host, generation)


def announce(address: str) -> None:
    """Tell the launcher, once, at which address this process listens; outside a launcher, nothing happens."""
    number = os.environ.pop(ANNOUNCE_VARIABLE, None)
    if number is None:
        return
    line = f"{address}\n".encode()
    require(len(line) <= ADDRESS_BYTES, "address", got=address, expected=f"at most {ADDRESS_BYTES} letters")
    with os.fdopen(int(number), "wb", buffering=0) as pipe:
        pipe.write(line)


def _die_with(parent: int) -> None:
    """End this process as soon as the one that started it is gone, whatever it was doing."""
    if sys.platform == "linux":
        # The launcher waits for every child in the thread that started it: the kernel means that thread by "parent".
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before this line
            os._exit(1)
    else:
        threading.Thread(target=_watch, args=(parent,), name="parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(ORPHAN_CHECK_S)
    os._exit(1)
