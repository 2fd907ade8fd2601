"""Processes that are forked of a fork server: its client, on the side of the launcher."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.runtime.fork_server import MESSAGE_BYTES
from headrace.runtime.launch import PARENT_VARIABLE, RoleCommand

_log = logging.getLogger(__name__)
READY_S = 120.0
GONE_S = 10.0
EARLY = ("PYTHON", "OMP_", "KMP_", "MKL_", "OPENBLAS_", "LD_", "MALLOC_", "GLIBC_", "CUDA_")
"""Variables that are read before a module can set them: a forked process would not notice them."""


@dataclass(slots=True, eq=False)
class ForkedProcess:
    """A process that was forked; as much of `subprocess.Popen` as a launcher needs."""

    pid: int
    code: int | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> int:
        """Return the exit status (negative: the signal), once there is one."""
        self.ended.wait()
        assert self.code is not None
        return self.code


@dataclass(slots=True, eq=False)
class _Asked:
    answered: threading.Event = field(default_factory=threading.Event)
    process: ForkedProcess | None = None
    error: str = ""


class ForkServer:
    """Forks processes of one server, which is started here and has imported a module.

    Linux alone: elsewhere a fork of a process with these libraries is not safe.

    Args:
        module: What the server imports; it may not start threads.
        log: File for the server's own output.
        environment: Of the server, and so of all processes but for what their commands add.

    Thread-safety: any thread may call anything.
    """

    def __init__(self, module: str, log: Path, environment: Mapping[str, str]) -> None:
        self.module = module
        self._socket, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ready, self._usable, self._was_ready = threading.Event(), False, False
        self._asked: dict[int, _Asked] = {}
        self._processes: dict[int, ForkedProcess] = {}
        self._lock, self._number = threading.Lock(), 0
        # It dies with the thread that started it, which therefore stays until it has ended.
        self._thread = threading.Thread(target=self._live, args=(log, environment), name="fork server", daemon=True)
        self._thread.start()

    @staticmethod
    def fits(command: RoleCommand) -> bool:
        """Return whether a command can be forked: a module of this interpreter, and no variable that is read early."""
        python = sys.platform == "linux" and len(command.words) > 2 and command.words[:2] == (sys.executable, "-m")
        early = any(name.startswith(EARLY) for name in command.environment)
        return bool(command.warm) and python and not early

    @property
    def died(self) -> bool:
        """Whether it was ready once and has ended; one that never was would not be another time either."""
        return self._was_ready and not self._usable

    def fork(
        self, command: RoleCommand, environment: Mapping[str, str], output: int, announced: int
    ) -> ForkedProcess | None:
        """Fork a process; None if it cannot be had here, and has to be started in another way.

        Args:
            command: What it is.
            environment: What is added to the server's.
            output: Descriptor for what it prints; the caller closes it.
            announced: Descriptor for its address; the caller closes it.

        Raises:
            OSError: If the machine has no room for another process.
        """
        if not self._ready.wait(READY_S) or not self._usable:
            return None
        asked = _Asked()
        with self._lock:
            self._number += 1
            number = self._number
            self._asked[number] = asked
        said = json.dumps({"number": number, "words": command.words[2:], "environment": dict(environment)}).encode()
        if len(said) > MESSAGE_BYTES:
            return None
        try:
            socket.send_fds(self._socket, [said], [output, announced])
        except OSError:
            return None  # it has ended
        asked.answered.wait()
        if asked.error:
            raise OSError(asked.error)
        return asked.process

    def _live(self, log: Path, environment: Mapping[str, str]) -> None:
        """Be the parent of the server from its start to its end."""
        theirs, server = self._theirs.fileno(), None
        words = [sys.executable, "-m", "headrace.runtime.fork_server", str(theirs), self.module]
        try:
            with log.open("ab") as output:
                server = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                    pass_fds=(theirs,), env={**environment, PARENT_VARIABLE: str(os.getpid())},
                )  # fmt: skip
            self._theirs.close()
            self._listen()
        except OSError as error:
            _log.info("no fork server: %s", error)
        finally:
            self._theirs.close()
            if server is not None:
                server.wait()
            self._end()

    def _listen(self) -> None:
        while True:
            try:
                said = self._socket.recv(MESSAGE_BYTES)
            except OSError:
                return
            if not said:
                return
            self._hear(json.loads(said))

    def _hear(self, message: Mapping[str, Any]) -> None:
        if "ready" in message:
            self._usable = self._was_ready = bool(message["ready"])
            if not self._usable:
                _log.info("processes are not forked after %s: %s", self.module, message["error"])
            self._ready.set()
        elif "ended" in message:
            self._told(self._processes.pop(int(message["ended"])), int(message["code"]))
        else:
            with self._lock:
                asked = self._asked.pop(int(message["number"]))
            asked.error = str(message.get("error", ""))
            if not asked.error:
                asked.process = self._processes[int(message["pid"])] = ForkedProcess(int(message["pid"]))
            asked.answered.set()

    @staticmethod
    def _told(process: ForkedProcess, code: int) -> None:
        process.code = code
        process.ended.set()

    def _end(self) -> None:
        """The server is gone, and with it, as they asked the kernel for, all that it had forked."""
        self._usable = False
        self._ready.set()
        with self._lock:
            waiting, self._asked = list(self._asked.values()), {}
        for asked in waiting:
            asked.answered.set()
        for process in self._processes.values():
            _await_end(process.pid)
            self._told(process, -signal.SIGKILL)
        self._processes = {}

    def close(self) -> None:
        """End the server; whatever it has forked and still runs is killed."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()


def _await_end(pid: int) -> None:
    """Wait until an orphan has ended and its new parent has seen it; not for ever."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)  # one that had not come to ask the kernel yet
        deadline = time.monotonic() + GONE_S
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.001)
