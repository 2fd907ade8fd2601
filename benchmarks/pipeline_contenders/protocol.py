"""The contender's side: a process that is asked by JSON lines on its standard input and answers on its standard output.

    python -m pipeline_contenders.NAME FOLDER OPTIONS

FOLDER holds a case (see `work.py`), OPTIONS is a JSON object. Tables are filled before the first answer, which says how
many weights the network has beside them. `train` makes steps, reading included, and answers the seconds they took.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from table_contenders.protocol import answer_pipe

from pipeline_contenders.work import Case


class Contender(Protocol):
    """A network over its tables, and its data."""

    weights: int
    """Of the network, tables left out."""

    def train(self, steps: int) -> float:
        """Make so many steps and return the seconds they took, reading included."""


def serve(open_contender: Callable[[Case, Path, Mapping[str, Any]], Contender]) -> None:
    """Open a contender and answer for it until the input ends."""
    answers = answer_pipe()
    folder = Path(sys.argv[1])
    began = time.perf_counter()
    contender = open_contender(Case.read(folder), folder, json.loads(sys.argv[2]))
    opened_s = time.perf_counter() - began
    answers({"opened_s": opened_s, "weights": contender.weights, "calls": getattr(contender, "calls", 0)})
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] != "train":
            raise ValueError(f"unknown request {request}")
        answers({"seconds": contender.train(request["steps"])})


def timed(step: Callable[[], object], steps: int) -> float:
    """Return the seconds that steps took."""
    began = time.perf_counter()
    for _ in range(steps):
        step()
    return time.perf_counter() - began
