"""Runs cells as processes, a few at once, and keeps every answer: a run that was cut short goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ctr_contenders.cell import Cell

BENCHMARKS = Path(__file__).resolve().parents[1]
BUILD = BENCHMARKS.parent / "build"
PEERS = BUILD / "peers" / "ctr_env"
ZOO = BUILD / "peers" / "FuxiCTR"
PATIENCE_S = 1800


class CellFailed(Exception):
    """A contender's process failed; the text is the end of what it printed."""


@dataclass(frozen=True)
class Run:
    """One cell of one contender.

    Attributes:
        contender: `ours` or `zoo`.
        cell: What it trains.
        version: Of the contender's code; answers of other versions are not taken.
    """

    contender: str
    cell: Cell
    version: str

    @property
    def path(self) -> Path:
        """Where its answer is kept."""
        cell, text = self.cell, json.dumps([asdict(self.cell), self.version], sort_keys=True)
        name = f"{self.contender}-{cell.model}-{Path(cell.data).name}-{cell.seed}"
        return BUILD / "ctr" / "cells" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"

    def answer(self) -> dict[str, Any]:
        """Return the answer, from disk if it is there.

        Raises:
            CellFailed: If the process failed.
        """
        if self.path.exists():
            known: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            return known
        python = sys.executable if self.contender == "ours" else str(peer_python())
        command = [python, "-m", f"ctr_contenders.{self.contender}", json.dumps(asdict(self.cell))]
        run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=self._environment(),
                             check=False)  # fmt: skip
        if run.returncode:
            last = [line for line in run.stderr.splitlines() if line.strip()][-3:]
            raise CellFailed(f"{self.path.stem}: {' | '.join(last)}")
        found: dict[str, Any] = json.loads(run.stdout)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(found), encoding="utf-8")
        temporary.replace(self.path)
        return found

    def _environment(self) -> dict[str, str]:
        own = os.environ.get("PYTHONPATH", "").split(os.pathsep) if self.contender == "ours" else []
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        path = os.pathsep.join([str(BENCHMARKS), *(entry for entry in own if entry)])
        return {**os.environ, **threads, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore", "FUXICTR_ZOO": str(zoo())}


def peer_python() -> Path:
    """Return the interpreter of the peers' environment."""
    return Path(os.environ.get("HEADRACE_CTR_PEERS", str(PEERS))) / "bin" / "python"


def zoo() -> Path:
    """Return the folder of FuxiCTR's repository."""
    return Path(os.environ.get("HEADRACE_FUXICTR", str(ZOO)))


def run_all(runs: Sequence[Run], workers: int, say: Callable[[str], None]) -> list[dict[str, Any] | None]:
    """Return every run's answer, in order, None where it failed; failures are told and do not end the others."""
    done = 0

    def one(run: Run) -> dict[str, Any] | None:
        nonlocal done
        known = run.path.exists()
        try:
            found: dict[str, Any] | None = run.answer()
        except (CellFailed, subprocess.TimeoutExpired, OSError) as error:
            found = None
            say(f"failed: {error}")
        done += 1
        if not known and found is not None:
            say(f"{done}/{len(runs)} {run.path.stem}: test AUC {', '.join(f'{auc:.4f}' for auc in found['test'])}, "
                f"{found['fit_s']:.1f} s")  # fmt: skip
        return found

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, runs))
