"""Servers as processes: started, asked whether they answer, measured (CPU, memory), ended with all their children."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

BENCHMARKS = Path(__file__).resolve().parents[1]
ROOT = BENCHMARKS.parent
PEER_PYTHON = os.environ.get("SERVE_PEER_PYTHON", str(ROOT / "build" / "peers-serve" / "env" / "bin" / "python"))
TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


class ServerFailed(Exception):
    """A server ended, or did not answer in time; the text is the end of what it printed."""


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One server, from here to `close`.

    Args:
        command: How it is started; `{port}` stands for the port.
        environment: Further variables.
        patience_s: How long it may take until it answers.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str], *, patience_s: float = 180.0) -> None:
        self.port = free_port()
        self._output = tempfile.TemporaryFile(mode="w+", encoding="utf-8")  # noqa: SIM115
        path = os.pathsep.join([str(BENCHMARKS), *environment.pop("PYTHONPATH", "").split(os.pathsep)]).strip(":")
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        variables = {**os.environ, **limits, **environment, "PYTHONPATH": path}
        self.process = subprocess.Popen(
            [word.replace("{port}", str(self.port)) for word in command], stdin=subprocess.PIPE, stdout=self._output,
            stderr=self._output, start_new_session=True, env=variables,
        )  # fmt: skip
        try:
            self._wait(patience_s)
        except ServerFailed:
            self.close()
            raise

    def _wait(self, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise ServerFailed(self.tail())
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise ServerFailed("no answer in time\n" + self.tail())

    def tail(self) -> str:
        """Return the end of what it printed."""
        self._output.seek(0)
        return self._output.read()[-2000:]

    def cpu_s(self) -> float:
        """Return the CPU seconds of all its processes that live, and of the children that they have waited for."""
        return sum(_cpu_s(pid) for pid in self.pids())

    def pids(self) -> list[int]:
        """Return the process and all its descendants."""
        found, at = [self.process.pid], 0
        while at < len(found):
            found += _children(found[at])
            at += 1
        return found

    def memory_bytes(self) -> int:
        """Return the proportional set sizes of all its processes: what they share counts once."""
        return sum(_pss(pid) for pid in self.pids())

    def close(self) -> None:
        """End it and all that it started."""
        pids = self.pids()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in pids[1:]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._output.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def ours(folder: Path, workers: int, *words: str) -> Server:
    """Start Headrace on a run folder."""
    command = [sys.executable, "-m", "headrace", "serve", "serve_contenders.model:ranker", *words, "--folder",
               str(folder), "--port", "{port}", "--workers", str(workers)]  # fmt: skip
    return Server(command, {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)})


def fastapi(case: Path, workers: int, *, compiled: bool = False) -> Server:
    """Start FastAPI and torch."""
    command = [PEER_PYTHON, "-m", "uvicorn", "serve_contenders.fastapi_peer:app", "--port", "{port}", "--workers",
               str(workers), "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level",
               "warning"]  # fmt: skip
    return Server(command, {"SERVE_CASE": str(case), "SERVE_COMPILED": str(int(compiled))})


def ray_serve(case: Path, replicas: int) -> Server:
    """Start Ray Serve and torch."""
    return Server([PEER_PYTHON, "-m", "serve_contenders.ray_peer", "{port}", str(replicas)],
                  {"SERVE_CASE": str(case), "RAY_USAGE_STATS_ENABLED": "0"})  # fmt: skip


def peers_installed() -> bool:
    """Return whether the peers' environment is there."""
    return Path(PEER_PYTHON).exists()


def _children(pid: int) -> list[int]:
    found = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    except OSError:
        return found
    return found


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(fields[place]) for place in (11, 12)) * TICK_S


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0
