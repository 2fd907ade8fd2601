"""One server as several processes: workers that answer, over one copy of the model in memory.

    supervisor ─┬─ owner      follows versions into shared memory, writes the event log, answers everything rare
                ├─ worker 1   HTTP and scores of `POST /v1/rank`
                └─ worker N

All are forked from the supervisor, which has loaded the program and started nothing: so they share its memory too.
A worker that dies is forked again, and so is the owner; then the workers follow, one after the other, onto its space.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from headrace.errors import HeadraceError, WorkerLost
from headrace.online.shared_serving import SharedServing, open_shared_serving
from headrace.online.worker import run_worker
from headrace.serve import AccessConfig, ServeConfig, bind
from headrace.serve.owner_routes import run_owner

_log = logging.getLogger(__name__)
POLL_S, PAUSE_S, READY_S, GIVE_UP_AFTER, STEADY_S, GRACE_S = 0.05, 0.5, 120.0, 8, 10.0, 15.0
_DEATH = 1  # PR_SET_PDEATHSIG
Stop = Callable[[], bool]


@dataclass(frozen=True, kw_only=True)
class Crew:
    """What the processes of one server need to know.

    Attributes:
        config: The run.
        workers: How many answer.
        host: Address to bind.
        port: Port to bind; 0 takes a free one.
        access: Tokens, certificates and limits.
        settings: Limits and what is logged; called in a process of its own.
        application: Makes the whole application; called in the owner, so that nothing is open before it is forked.
        on_ready: Called with the port when the first workers answer.
    """

    config: Any
    workers: int
    host: str
    port: int
    access: AccessConfig
    settings: ServeConfig
    application: Callable[[SharedServing], Any]
    on_ready: Callable[[int], None] | None = None


@dataclass(slots=True)
class _Child:
    pid: int
    started: float = field(default_factory=time.monotonic)


class ServerProcesses:
    """Forks the processes of a server, watches them, and starts again what died.

    Args:
        crew: What they need to know.

    Raises:
        ConfigError: If the port is in use; before anything was started.
    """

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self.sock = bind(crew.host, crew.port)
        self.folder: Path | None = None
        self._owner: _Child | None = None
        self._workers: dict[int, _Child] = {}
        self._orders, self._failures = -1, 0

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self.sock.getsockname()[1])

    def run(self, stop: Stop) -> None:
        """Serve until `stop`.

        Raises:
            WorkerLost: If the processes keep dying.
        """
        gc.freeze()  # what is loaded stays shared: the collector of a child does not touch it
        try:
            self._start_owner(stop)
            for number in range(self.crew.workers):
                self._start_worker(number)
            if self.crew.on_ready is not None and not stop():
                self.crew.on_ready(self.port)
            while not stop():
                self._watch(stop)
                time.sleep(POLL_S)
        finally:
            self._end()

    def _start_owner(self, stop: Stop) -> None:
        told, tell = os.pipe()
        orders, order = os.pipe()
        pid = self._fork(lambda: self._own(tell, orders), close=(told, order))
        os.close(tell)
        os.close(orders)
        if self._orders >= 0:
            os.close(self._orders)
        self._owner, self._orders = _Child(pid), order
        self.folder = self._heard(told, stop)
        os.close(told)

    def _heard(self, told: int, stop: Stop) -> Path | None:
        """Return the folder of the space, once the owner says that it answers."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and not stop():
            if select.select([told], [], [], POLL_S)[0]:
                if line := os.read(told, 4096).decode().strip():
                    return Path(line)
                break
        if stop():
            return None
        raise WorkerLost("Server", got="no start of the process that writes the log", expected="a start",
                         do="Its output says why.")  # fmt: skip

    def _own(self, tell: int, orders: int) -> None:
        serving = open_shared_serving(self.crew.config)
        loopback = self.sock.getsockname()[0] in ("127.0.0.1", "::1")
        try:
            run_owner(
                self.crew.application(serving), serving.space.folder, self.crew.access, loopback=loopback,
                on_ready=lambda: _say(tell, str(serving.space.folder)), orders=orders,
                obey=lambda line: serving.release(int(line)),
            )  # fmt: skip
        finally:
            serving.space.close()

    def _start_worker(self, number: int) -> None:
        if self.folder is None:
            return
        folder = self.folder
        self._workers[number] = _Child(self._fork(
            lambda: run_worker(self.crew.config, folder, number, self.sock, self.crew.access, self.crew.settings,
                               share=self.crew.workers), close=(self._orders,)))  # fmt: skip

    def _watch(self, stop: Stop) -> None:
        while True:
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid:
                    self._lost(pid, status, stop)
                    continue
            return

    def _lost(self, pid: int, status: int, stop: Stop) -> None:
        code = os.waitstatus_to_exitcode(status)
        if self._owner is not None and pid == self._owner.pid:
            self._again("the process that writes the log", self._owner, code)
            self._start_owner(stop)
            for number in list(self._workers):  # they serve the old space until now
                self._stop_worker(number)
                self._start_worker(number)
            return
        for number, child in list(self._workers.items()):
            if child.pid == pid:
                self._again(f"worker {number}", child, code)
                _say(self._orders, f"{number}")
                self._start_worker(number)

    def _again(self, what: str, child: _Child, code: int) -> None:
        steady = time.monotonic() - child.started > STEADY_S
        self._failures = 0 if steady else self._failures + 1
        if self._failures > GIVE_UP_AFTER:
            raise WorkerLost("Server", got=f"{self._failures} failures in a row, the last of {what} with status {code}",
                             expected="processes that stay", do="Look at the output of the server.")  # fmt: skip
        _log.warning("%s ended with status %s; starting it again", what, code)
        time.sleep(0.0 if steady else min(PAUSE_S * self._failures, 5.0))

    def _stop_worker(self, number: int) -> None:
        child = self._workers.pop(number, None)
        if child is None:
            return
        _signal(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(child.pid, os.WNOHANG)[0] == 0:
                    time.sleep(0.01)
                    continue
            break
        else:
            _signal(child.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child.pid, 0)
        _say(self._orders, f"{number}")

    def _end(self) -> None:
        for child in self._workers.values():
            _signal(child.pid, signal.SIGTERM)
        for number in list(self._workers):
            self._stop_worker(number)
        if self._owner is not None:
            _signal(self._owner.pid, signal.SIGTERM)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._owner.pid, 0)
        self.sock.close()

    def _fork(self, work: Callable[[], None], *, close: tuple[int, ...] = ()) -> int:
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            _child(work, parent, close)
        return pid


def _child(work: Callable[[], None], parent: int, close: tuple[int, ...]) -> NoReturn:
    """Do the work of a forked process, and end it."""
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the supervisor decides
        with contextlib.suppress(OSError, AttributeError):  # Linux: nobody outlives the supervisor
            ctypes.CDLL(None).prctl(_DEATH, signal.SIGTERM)
        if os.getppid() == parent:
            for handle in close:
                if handle >= 0:
                    os.close(handle)
            work()
            code = 0
    except HeadraceError as error:
        _log.error("%s", error)
    except KeyboardInterrupt:
        code = 0
    except BaseException:  # noqa: BLE001  the forked process ends below, whatever it was
        _log.exception("a process of the server failed")
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _say(handle: int, line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(handle, f"{line}\n".encode())


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
