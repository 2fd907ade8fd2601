"""The load generator: compiled once, run as a process of its own whose CPU is measured and left out."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serve_contenders.processes import ROOT, Server, ServerFailed

SOURCE = Path(__file__).with_name("load.cc")
CORES = 2


@dataclass(frozen=True, slots=True)
class Taken:
    """What one run of the load generator found.

    Attributes:
        per_s: Answers per second that the two cores would give if the load generator took nothing of them.
        raw_per_s: Answers per second as they came.
        p50_ms, p90_ms, p99_ms: Latencies.
        cpu_ms: CPU of all of the server's processes for one answer.
        failed: Requests without a good answer.
        latencies: (N, 2): when each was due, in seconds from the start, and its latency in ms.
    """

    per_s: float
    raw_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    cpu_ms: float
    failed: int
    latencies: np.ndarray


class Load:
    """Sends bodies to servers.

    Args:
        folder: Where the program and the bodies are kept.
        bodies: Sent in turn.

    Raises:
        ServerFailed: If there is no compiler.
    """

    def __init__(self, folder: Path, bodies: Sequence[bytes]) -> None:
        self.program = ROOT / "build" / "serve-load" / "load"
        compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
        if compiler is None:
            raise ServerFailed("the load generator needs a C++ compiler")
        if not self.program.exists() or self.program.stat().st_mtime < SOURCE.stat().st_mtime:
            self.program.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run([compiler, "-O2", "-std=c++20", "-o", str(self.program), str(SOURCE)], check=True)
        self.bodies = folder / "bodies"
        self.bodies.write_bytes(b"".join(struct.pack("<I", len(body)) + body for body in bodies))

    def run(
        self, server: Server, *, connections: int, seconds: float, rate: float = 0.0, warm_s: float = 0.5,
        target: str = "/v1/rank",
    ) -> Taken:  # fmt: skip
        """Send requests and return what was found; `rate` 0 sends as fast as answers come.

        Raises:
            ServerFailed: If the load generator fails.
        """
        words = [str(self.program), str(server.port), str(self.bodies), str(connections), str(seconds), str(rate),
                 str(warm_s), target]  # fmt: skip
        before = server.cpu_s()
        run = subprocess.run(words, capture_output=True, text=True, timeout=seconds + warm_s + 60, check=False)
        used = server.cpu_s() - before
        if run.returncode != 0:
            raise ServerFailed(f"load generator: status {run.returncode} {run.stderr[-500:]}\n{server.tail()}")
        found = json.loads(run.stdout)
        kind = np.dtype([("due", "<f8"), ("us", "<f4")])
        taken = np.fromfile(f"{self.bodies}.latencies", dtype=kind)
        raw = found["requests"] / seconds
        busy = found["cpu_s"] / seconds
        answers = found["requests"] * (seconds + warm_s) / seconds  # the warm-up's are among the CPU time
        return Taken(
            per_s=raw * CORES / max(CORES - busy, 0.1), raw_per_s=raw, p50_ms=found["p50_ms"], p90_ms=found["p90_ms"],
            p99_ms=found["p99_ms"], cpu_ms=1e3 * used / max(answers, 1), failed=found["failed"],
            latencies=np.stack([taken["due"], taken["us"] / 1e3], axis=1),
        )  # fmt: skip
