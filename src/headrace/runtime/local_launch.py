"""Processes of this machine, started and watched."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from headrace.config import require
from headrace.errors import WorkerLost
from headrace.runtime.forked import ForkedProcess, ForkServer
from headrace.runtime.launch import (
    ADDRESS_BYTES,
    ANNOUNCE_VARIABLE,
    HOST_VARIABLE,
    LOOPBACK,
    NAME_VARIABLE,
    PARENT_VARIABLE,
    Exit,
    RoleCommand,
)

TAIL_LINES, TAIL_BYTES = 15, 16 * 1024


@dataclass(slots=True, eq=False)
class _Child:
    """One started process; `process` is None until it runs, `code` until it has ended."""

    command: RoleCommand
    process: subprocess.Popen[bytes] | ForkedProcess | None = None
    address: str | None = None
    code: int | None = None
    failure: Exception | None = None
    ended: threading.Event = field(default_factory=threading.Event)


class LocalLauncher:
    """Starts every role as a process of this machine; each writes to `<logs>/<name>.log`.

    A thread per child starts it, reads its announcement and waits for it, so a death is noticed when the kernel tells
    it, and children that began with `launched()` die with this process even if it is killed. On Linux, commands that
    say what they import (`RoleCommand.warm`) are forked of a process that has imported it.

    Args:
        logs: Folder for the children's output.
        host: Where the children listen; the loopback unless other machines must reach them.
        environment: Added to every child's environment.

    Thread-safety: any thread may call anything.
    """

    def __init__(self, logs: Path, host: str = LOOPBACK, environment: Mapping[str, str] | None = None) -> None:
        self.logs, self.host = logs, host
        self._environment = dict(environment or {})
        self._children: dict[str, _Child] = {}
        self._untold: list[Exit] = []
        self._changed = threading.Condition()
        self._servers: dict[str, ForkServer] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, command: RoleCommand) -> None:
        """Start a process; one of the same name must have ended.

        Raises:
            ConfigError: If one of that name runs, or the program cannot be started.
        """
        child = _Child(command)
        with self._changed:
            earlier = self._children.get(command.name)
            require(earlier is None or earlier.ended.is_set(), f"Process '{command.name}'", got="one that runs",
                    expected="one that has ended", do="Stop it first.")  # fmt: skip
            self._children[command.name] = child
        thread = threading.Thread(target=self._live, args=(child,), name=f"child {command.name}", daemon=True)
        thread.start()
        with self._changed:
            self._changed.wait_for(lambda: child.process is not None or child.ended.is_set())
        require(child.failure is None, f"Process '{command.name}'", got=child.failure, expected="a program that starts")

    def _live(self, child: _Child) -> None:
        """Be the parent of one child from its start to its end."""
        read, write = os.pipe()
        try:
            process = self._spawn(child.command, write)
        except Exception as error:  # noqa: BLE001 - a program that is not there, or words that none can be given
            os.close(read)
            child.failure = error
            self._ended(child, 127)
            return
        finally:
            os.close(write)
        with self._changed:
            child.process = process
            self._changed.notify_all()
        with os.fdopen(read, "rb") as pipe:
            said = pipe.readline(ADDRESS_BYTES).decode(errors="replace").strip()
        with self._changed:
            child.address = said or None
            self._changed.notify_all()
        self._ended(child, process.wait())

    def _spawn(self, command: RoleCommand, announce: int) -> subprocess.Popen[bytes] | ForkedProcess:
        own = {NAME_VARIABLE: command.name, HOST_VARIABLE: self.host}
        with self._log(command.name).open("ab") as output:
            if ForkServer.fits(command):
                server, wanted = self._server(command.warm), {**command.environment, **own}
                forked = server.fork(command, wanted, output.fileno(), announce)
                if forked is not None:
                    return forked
            beginning = {PARENT_VARIABLE: str(os.getpid()), ANNOUNCE_VARIABLE: str(announce)}
            return subprocess.Popen(
                command.words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True, pass_fds=(announce,),
                env={**self._surroundings(), **command.environment, **own, **beginning},
            )  # fmt: skip

    def _surroundings(self) -> dict[str, str]:
        threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": "1"}
        return {**os.environ, **threads, **self._environment}

    def _server(self, module: str) -> ForkServer:
        """Return the fork server that has imported a module; one that has died is replaced."""
        with self._changed:
            known = self._servers.get(module)
            if known is None or known.died:
                log = self._log(f"fork-server-{len(self._servers)}")
                known = self._servers[module] = ForkServer(module, log, self._surroundings())
            return known

    def _ended(self, child: _Child, code: int) -> None:
        name = child.command.name
        with self._changed:
            child.code = code
            child.ended.set()
            self._untold.append(Exit(name, code, time.monotonic(), self.tail(name)))
            self._changed.notify_all()

    def address(self, name: str, timeout_s: float = 60.0) -> str:
        """Return the address that a process announced, waiting for it.

        Raises:
            WorkerLost: If it ended first, or said nothing in time; the message has the end of its log.
        """
        child = self._children[name]
        with self._changed:
            self._changed.wait_for(lambda: child.address is not None or child.ended.is_set(), timeout_s)
        if child.address is not None and not child.ended.is_set():
            return child.address
        got = f"its end (status {child.code})" if child.ended.is_set() else f"no word in {timeout_s:g} s"
        raise WorkerLost(f"Process '{name}'", got=got, expected="the address where it listens",
                         do=f"The end of its log says:\n{self.tail(name)}")  # fmt: skip

    def exits(self, timeout_s: float = 0.0) -> list[Exit]:
        """Return the ends not told yet, each once; waits up to `timeout_s` for the first."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._untold), timeout_s)
            told, self._untold = self._untold, []
            return told

    def running(self) -> list[str]:
        """Return the names of the processes that live."""
        with self._changed:
            return [name for name, child in self._children.items() if not child.ended.is_set()]

    def pid(self, name: str) -> int | None:
        """Return the process id of a child; None when it does not run."""
        child = self._children.get(name)
        if child is None or child.process is None or child.ended.is_set():
            return None
        return child.process.pid

    def signal(self, name: str, number: int) -> bool:
        """Send a signal; returns False when there was nobody to receive it."""
        child = self._children.get(name)
        if child is None or child.process is None or child.ended.is_set():
            return False
        try:
            os.kill(child.process.pid, number)
        except ProcessLookupError:
            return False
        return True

    def stop(self, name: str, timeout_s: float = 10.0) -> None:
        """Ask a process to end (SIGTERM), then make it (SIGKILL)."""
        child = self._children.get(name)
        if child is None or not self.signal(name, signal.SIGTERM):
            return
        if not child.ended.wait(timeout_s):
            self.signal(name, signal.SIGKILL)  # works on a frozen one as well
            child.ended.wait()

    def tail(self, name: str, lines: int = TAIL_LINES) -> str:
        """Return the last lines of a process's log."""
        with contextlib.suppress(OSError), self._log(name).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
        return ""

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def close(self) -> None:
        """End every process: all are asked at once, and those that do not follow within 10 s are killed."""
        names = self.running()
        for name in names:
            self.signal(name, signal.SIGTERM)
        deadline = time.monotonic() + 10.0
        for name in names:
            if not self._children[name].ended.wait(max(0.0, deadline - time.monotonic())):
                self.signal(name, signal.SIGKILL)
                self._children[name].ended.wait()
        with self._changed:
            servers, self._servers = list(self._servers.values()), {}
        for server in servers:
            server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
