"""The benchmark's side of the pipe: starts contenders as processes, asks them, and ends them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

BENCHMARKS = Path(__file__).resolve().parents[1]


class ContenderFailed(Exception):
    """A contender's process ended, or said nothing for too long; the text is the end of what it printed."""


class Process:
    """One contender, resident from here to `close`.

    Args:
        module: File in this folder.
        folder: Of the work.
        python: Interpreter, for peers that have an environment of their own.
        threads: Threads that its libraries may start.
        patience_s: How long an answer may take.
        package: That the module is in.
        options: What the contender is told.
    """

    def __init__(
        self, module: str, folder: Path, *, python: str = sys.executable, threads: int = 2, patience_s: float = 600.0,
        package: str = "table_contenders", **options: Any,
    ) -> None:  # fmt: skip
        self._name, self._patience_s = module, patience_s
        self._errors = tempfile.TemporaryFile(mode="w+", encoding="utf-8")  # noqa: SIM115
        count = str(threads)
        own = {"PYTHONPATH": os.pathsep.join([str(BENCHMARKS), *_own_path(python)]), "PYTHONWARNINGS": "ignore"}
        limits = {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count}
        self._process = subprocess.Popen(
            [python, "-m", f"{package}.{module}", str(folder), json.dumps({"threads": threads, **options})],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env={**os.environ, **own, **limits},
        )  # fmt: skip
        try:
            self.opened = self._answer()
        except ContenderFailed:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Send a request and return its answer.

        Raises:
            ContenderFailed: If there is none.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
        except OSError:
            pass  # it has ended: the answer's end says why
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        watch = threading.Timer(self._patience_s, self._process.kill)
        watch.start()
        try:
            line = self._process.stdout.readline()
            while line and not line.startswith("{"):  # what libraries print while they are imported
                line = self._process.stdout.readline()
        finally:
            watch.cancel()
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            last = [text for text in self._errors.read().splitlines() if text.strip()][-3:]
            raise ContenderFailed(f"{self._name} ended with {code}: {' | '.join(last)}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process and wait until its memory is free."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                pipe.close()
            except OSError:
                pass
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()


def _own_path(python: str) -> list[str]:
    """Return the module path to hand on: the product's, and for another environment nothing."""
    return os.environ.get("PYTHONPATH", "").split(os.pathsep) if python == sys.executable else []
