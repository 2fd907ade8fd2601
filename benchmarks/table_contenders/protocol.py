"""The contender's side: a process that is asked by JSON lines on its standard input and answers on its standard output.

    python -m table_contenders.NAME FOLDER OPTIONS

FOLDER holds the work (see `workload.py`), OPTIONS is a JSON object. Everything is filled before the first answer;
only `train` and `lookup` are timed, step by step, here and not across the pipe.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from table_contenders.workload import Floats, Ids, Material

Answer = dict[str, Any]


class Contender(Protocol):
    """Tables that are filled, with ids and gradients ready in the form they take."""

    def train(self, batch: int) -> None:
        """Look up, go backward with the fixed gradients and update, for one batch."""

    def lookup(self, batch: int) -> None:
        """Look up one batch, without gradients."""

    def rows(self, feature: int, ids: Ids) -> Floats:
        """Return the present rows of some ids of a feature."""

    def use_threads(self, count: int) -> None:
        """Use so many threads from now on."""


def serve(open_contender: Callable[[Material, Mapping[str, Any]], Contender]) -> None:
    """Open a contender and answer for it until the input ends."""
    answers = answer_pipe()
    material = Material.read(Path(sys.argv[1]))
    start = time.perf_counter()
    contender = open_contender(material, json.loads(sys.argv[2]))
    answers({"filled_s": time.perf_counter() - start})
    step = 0
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] in {"train", "lookup"}:
            work = contender.train if request["do"] == "train" else contender.lookup
            seconds = []
            for _ in range(request["steps"]):
                before = time.perf_counter()
                work(step % material.work.batches)
                seconds.append(time.perf_counter() - before)
                step += 1
            answers({"seconds": seconds})
        elif request["do"] == "threads":
            contender.use_threads(request["count"])
            answers({})
        elif request["do"] == "rows":
            rows = contender.rows(request["feature"], np.array(request["ids"], np.int64))
            answers({"rows": rows.tolist()})
        else:
            raise ValueError(f"unknown request {request}")


def answer_pipe() -> Callable[[Answer], None]:
    """Return what writes an answer; from now on everything that libraries print goes to standard error."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(content: Answer) -> None:
        # on a line of its own: a library's thread may have been in the middle of printing when the pipe was turned away
        pipe.write("\n" + json.dumps(content) + "\n")
        pipe.flush()

    return answer
