"""Child processes that are killed with SIGKILL or stopped for a while, at seeded instants, and started again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

from headrace.config import known_name, require
from headrace.errors import WorkerLost
from headrace.testing.closing import Closing
from headrace.testing.fault_plan import Fault

LOG_TAIL_BYTES = 2000
STARTER = (
    "import os, resource, signal, sys; limit = int(sys.argv[1]); signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)); os.execvp(sys.argv[2], sys.argv[2:])"
)


@dataclass(frozen=True, kw_only=True)
class Child:
    """A process that `Chaos` may start, kill and start again.

    Attributes:
        name: What to call it.
        command: Program and arguments.
        environment: Variables to set beside the inherited ones.
        folder: Working directory; None: the present one.
        log: File to which its output is appended; None: thrown away.
        file_limit_bytes: No file may grow beyond this: writing more fails with EFBIG, as it does with ENOSPC on a full
            disk. (A program that handles OSError from `write` handles both.)
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    log: Path | None = None
    file_limit_bytes: int | None = None

    def __post_init__(self) -> None:
        require(len(self.command) > 0, f"Child '{self.name}': command", got=self.command, expected="a program")


def limited(command: Sequence[str], file_limit_bytes: int) -> list[str]:
    """Return a command that runs `command` with no file allowed to grow beyond the limit.

    Example:
        >>> write = "open('x', 'wb', buffering=0).write(b'a' * 100)"
        >>> done = subprocess.run(limited([sys.executable, "-c", f"print({write})"], 60), capture_output=True)
        >>> int(done.stdout), Path("x").stat().st_size
        (60, 60)
    """
    return [sys.executable, "-c", STARTER, str(file_limit_bytes), *command]


class Chaos(Closing):
    """Child processes and what happens to them; as a context manager it starts them and leaves none behind.

    Children get a process group of their own, so what they started dies with them. The same seed gives the same
    sequence of victims and waiting times (what the programs have done by then is up to the machine).

    Args:
        children: The processes.
        seed: Of the choice of victims and instants.
        every_s: Shortest and longest time between two strikes.
        pause_share: Share of strikes that stop the victim for a while (SIGSTOP, SIGCONT) instead of killing it.
        pause_s: Shortest and longest such time.

    Raises:
        WorkerLost: From `strike` and `run`, when a child has failed by itself.

    Example:
        >>> napping = Child(name="nap", command=(sys.executable, "-c", "import time; time.sleep(60)"))
        >>> with Chaos([napping], seed=3, every_s=(0.01, 0.02)) as chaos:
        ...     faults = chaos.run(2)
        ...     chaos.alive("nap")
        True
        >>> [fault.kind for fault in faults]
        ['kill', 'kill']
    """

    def __init__(
        self, children: Sequence[Child], *, seed: int, every_s: tuple[float, float] = (0.2, 1.0),
        pause_share: float = 0.0, pause_s: tuple[float, float] = (0.1, 0.5),
    ) -> None:  # fmt: skip
        names = [child.name for child in children]
        require(len(names) > 0 and len(set(names)) == len(names), "children", got=names, expected="different names")
        for name, (low, high) in {"every_s": every_s, "pause_s": pause_s}.items():
            require(0 <= low <= high, name, got=(low, high), expected="(shortest, longest), seconds")
        require(0 <= pause_share <= 1, "pause_share", got=pause_share, expected="a share from 0 to 1")
        self.children = {child.name: child for child in children}
        self.every_s, self.pause_share, self.pause_s = every_s, pause_share, pause_s
        self.history: list[Fault] = []
        self._chance, self._began = random.Random(seed), time.monotonic()
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        try:
            for name in self.children:
                self.start(name)
        except OSError:
            self.close()
            raise
        return self

    def start(self, name: str) -> int:
        """Start a child that does not run; return its process id."""
        child = self.children[known_name("Child", name, list(self.children))]
        require(not self.alive(name), f"Child '{name}'", got="a process that runs", expected="none")
        command = child.command if child.file_limit_bytes is None else limited(child.command, child.file_limit_bytes)
        output: IO[bytes] | int = child.log.open("ab") if child.log is not None else subprocess.DEVNULL
        try:
            self._running[name] = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=child.folder,
                env={**os.environ, **child.environment}, start_new_session=True,
            )  # fmt: skip
        finally:
            if not isinstance(output, int):
                output.close()
        self._record("start", name)
        return self._running[name].pid

    def alive(self, name: str) -> bool:
        """Return whether the child runs (or is paused)."""
        return name in self._running and self._running[name].poll() is None

    def kill(self, name: str) -> None:
        """Kill a child with SIGKILL, and all it started; it is gone when this returns."""
        if self.alive(name):
            self._signal(name, signal.SIGKILL)
            self._running.pop(name).wait()
            self._record("kill", name)

    def pause(self, name: str) -> None:
        """Stop a child with SIGSTOP: it keeps its files, sockets and locks, and does nothing."""
        self._signal(name, signal.SIGSTOP)
        self._record("pause", name)

    def resume(self, name: str) -> None:
        """Let a paused child go on."""
        self._signal(name, signal.SIGCONT)
        self._record("resume", name)

    def finished(self, name: str) -> bool:
        """Return whether the child has ended by itself with exit code 0."""
        return name in self._running and self._running[name].poll() == 0

    def wait(self, name: str, timeout_s: float) -> int:
        """Wait until a child ends and return its exit code; WorkerLost if it does not end in time."""
        try:
            return self._running[name].wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            late = f"its end within {timeout_s} s"
            raise WorkerLost(f"Child '{name}'", got="still running", expected=late) from error

    def strike(self) -> Fault | None:
        """Wait a random time, then kill and restart, or pause and resume, a random child that has not finished.

        Returns:
            What was done; None when every child has finished.
        """
        time.sleep(self._chance.uniform(*self.every_s))
        self._complain()
        # The draws come first, so that the sequence does not depend on who has finished.
        order = self._chance.sample(sorted(self.children), len(self.children))
        pauses, length = self._chance.random() < self.pause_share, self._chance.uniform(*self.pause_s)
        victim = next((name for name in order if self.alive(name)), None)
        if victim is None:
            return None
        if pauses:
            self.pause(victim)
            fault = self.history[-1]
            time.sleep(length)
            self.resume(victim)
            return fault
        self.kill(victim)
        fault = self.history[-1]
        self.start(victim)
        return fault

    def run(self, strikes: int, until: Callable[[], bool] | None = None) -> list[Fault]:
        """Strike so many times, or until `until()` holds or every child has finished; return the strikes."""
        done: list[Fault] = []
        while len(done) < strikes and not (until is not None and until()):
            fault = self.strike()
            if fault is None:
                break
            done.append(fault)
        return done

    def close(self) -> None:
        """Kill whatever still runs."""
        for name in list(self._running):
            if self.alive(name):
                self._signal(name, signal.SIGKILL)
                self._running[name].wait()

    def _signal(self, name: str, number: signal.Signals) -> None:
        process = self._running[known_name("Child", name, list(self._running))]
        if process.poll() is None:
            os.killpg(process.pid, number)

    def _record(self, kind: str, name: str) -> None:
        self.history.append(Fault(time.monotonic() - self._began, kind, name))

    def _complain(self) -> None:
        """Raise WorkerLost for a child that failed by itself: our kills are followed by a restart at once."""
        for name, process in self._running.items():
            code = process.poll()
            if code:
                raise WorkerLost(
                    f"Child '{name}'", got=f"exit code {code}{self._tail(name)}", expected="a process that goes on",
                    do="It failed by itself: nothing was done to it since it was started.",
                )  # fmt: skip

    def _tail(self, name: str) -> str:
        log = self.children[name].log
        if log is None:
            return ""
        text = log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
        return f" and these last words:\n{text}\n" if text else ""
