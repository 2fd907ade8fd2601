"""The fork server: a process that has imported what others need, and of which they are forked in milliseconds.

    python -m headrace.runtime.fork_server SOCKET MODULE

Importing torch and all that goes with it takes seconds of a core; a forked process finds it imported, in memory that
it shares with the others. The server has one thread and computes nothing, so there is nothing that a fork could break:
it looks at its threads before it says that it is ready. Messages are JSON, one a packet of the socket that it inherits.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from headrace.runtime.launch import ANNOUNCE_VARIABLE, PARENT_VARIABLE, launched

MESSAGE_BYTES = 128 * 1024
SAFE = {"jemalloc_bg_thd"}
"""Threads that a fork does not break: Arrow's allocator holds its locks while it forks, and starts its thread anew."""


def main(words: Sequence[str]) -> None:
    """Import the module, say so, and fork whoever is asked for until the socket is closed."""
    launched()
    with socket.socket(fileno=int(words[0])) as launcher:
        wrong = _import(words[1])
        _say(launcher, {"ready": not wrong, "error": wrong})
        if not wrong:
            gc.collect()
            gc.freeze()  # pages of what is imported stay shared: the collector does not write to them
            _serve(launcher)


def _import(module: str) -> str:
    """Import the module; return what speaks against forking, or nothing."""
    try:
        importlib.import_module(module)
    except Exception as error:  # noqa: BLE001 - whatever it is, the processes themselves will say it better
        return f"{type(error).__name__}: {error}"
    own = os.getpid()
    tasks = [task for task in Path("/proc/self/task").iterdir() if int(task.name) != own]
    threads = sorted({(task / "comm").read_text().strip() for task in tasks} - SAFE)
    return f"its import started threads: {', '.join(threads)}" if threads else ""


def _serve(launcher: socket.socket) -> None:
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # with a handler of its own it writes to the pipe
    signal.set_wakeup_fd(write)
    with selectors.DefaultSelector() as selector:
        selector.register(launcher, selectors.EVENT_READ)
        selector.register(read, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in selector.select()]
            if read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(read, 4096)
                _tell_ends(launcher)
            if launcher in ready and not _answer(launcher, (read, write)):
                return


def _answer(launcher: socket.socket, own: Sequence[int]) -> bool:
    """Fork a process as the next message asks; returns whether there was one."""
    said, descriptors, _, _ = socket.recv_fds(launcher, MESSAGE_BYTES, 2)
    if not said:
        return False
    asked, server = json.loads(said), os.getpid()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which `_import` has looked at
            process = os.fork()
    except OSError as error:
        process = 0
        _say(launcher, {"number": asked["number"], "error": str(error)})
    else:
        if process == 0:
            _become(asked, descriptors, server, (launcher.fileno(), *own))
        _say(launcher, {"number": asked["number"], "pid": process})
    for descriptor in descriptors:
        os.close(descriptor)
    return True


def _tell_ends(launcher: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return
            _say(launcher, {"ended": process, "code": os.waitstatus_to_exitcode(status)})


def _say(launcher: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more: the next look at the socket ends this process
        launcher.sendall(json.dumps(message).encode())


def _become(asked: dict[str, Any], descriptors: Sequence[int], server: int, others: Sequence[int]) -> NoReturn:
    """Be the process that was asked for, in the forked child."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        output, announced = descriptors
        nothing = os.open(os.devnull, os.O_RDONLY)
        for there, here in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(there, here)
        for descriptor in (nothing, output, *others):
            os.close(descriptor)
        os.environ.update(asked["environment"])
        os.environ.update({PARENT_VARIABLE: str(server), ANNOUNCE_VARIABLE: str(announced)})
        module, *words = asked["words"]
        sys.argv = [module, *words]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = _code(end)
    except BaseException:  # noqa: BLE001 - the process ends here, whatever it was
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _code(end: SystemExit) -> int:
    """Return the exit status as an interpreter makes it of what `sys.exit` was given."""
    if end.code is None or isinstance(end.code, int):
        return (end.code or 0) & 0xFF
    sys.stderr.write(f"{end.code}\n")
    return 1


if __name__ == "__main__":
    main(sys.argv[1:])
