"""The arithmetic bound: the multiplications of one request, what its candidates share done once, on all cores at once.

The bound is what the processor's vector units can do at most (`peak.cc`), reading and writing nothing; beside it stands
what torch's matrix product makes of the same multiplications. What a server does besides is its own cost.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from serve_contenders.processes import ROOT, ServerFailed

FEATURES, OWN, FACTOR, HIDDEN = 26, 10, 16, (256, 128, 64)
SOURCE = Path(__file__).with_name("peak.cc")


def work_per_request(candidates: int) -> int:
    """Return multiplications with an addition for one request."""
    widths = (OWN * FACTOR, *HIDDEN, 1)
    own = sum(a * b for a, b in itertools.pairwise(widths))
    return candidates * own + (FEATURES - OWN) * FACTOR * HIDDEN[0]


def peak(seconds: float, cores: int) -> float:
    """Return multiplications with an addition per second of all cores at once.

    Raises:
        ServerFailed: If there is no compiler.
    """
    program = ROOT / "build" / "serve-load" / "peak"
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise ServerFailed("the arithmetic bound needs a C++ compiler")
    program.parent.mkdir(parents=True, exist_ok=True)
    words = [compiler, "-O3", "-march=native", "-std=c++20", "-o", str(program), str(SOURCE)]
    subprocess.run(words, check=True)
    running = [subprocess.Popen([str(program), str(seconds)], stdout=subprocess.PIPE, text=True) for _ in range(cores)]
    return sum(float(one.communicate()[0]) for one in running)


def torch_speed(seconds: float, candidates: int, cores: int) -> float:
    """Return requests per second by torch's matrix product, of `cores` processes at once."""
    command = [sys.executable, "-m", "serve_contenders.bound", str(seconds), str(candidates)]
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, **limits, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(cores)]
    return sum(float(one.communicate()[0]) for one in running)


def speed(seconds: float, candidates: int, together: int) -> float:
    """Return requests per second of this process, so many of them in one product."""
    rows, widths = candidates * together, (OWN * FACTOR, *HIDDEN)
    draw = torch.Generator().manual_seed(0)
    user = torch.randn(together, (FEATURES - OWN) * FACTOR, generator=draw)
    first = torch.randn((FEATURES - OWN) * FACTOR, HIDDEN[0], generator=draw)
    inputs = torch.randn(rows, widths[0], generator=draw)
    weights = [torch.randn(a, b, generator=draw) / a**0.5 for a, b in zip(widths, HIDDEN, strict=False)]
    outputs = [torch.empty(rows, width) for width in HIDDEN]
    last, logits = torch.randn(HIDDEN[-1], 1, generator=draw), torch.empty(rows, 1)
    shared = torch.empty(together, HIDDEN[0])
    done, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        torch.mm(user, first, out=shared)
        x = inputs
        for weight, out in zip(weights, outputs, strict=True):
            torch.mm(x, weight, out=out)
            x = out.relu_()
        torch.mm(x, last, out=logits)
        done += together
    return done / passed


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.inference_mode():
        limit, count = float(sys.argv[1]), int(sys.argv[2])
        print(max(speed(limit / 4, count, together) for together in (1, 4, 16, 64)))
