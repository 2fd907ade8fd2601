"""Protocol R5: a wide network over many small tables, packed or not; batches are in memory, so nothing is read.

Options: `fields`, `dim`, `batch`, `packed`. The case in the folder is not looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from headrace.papers.picasso.arms import table_calls
from headrace.papers.picasso.recipe import Work
from pipeline_contenders.networks import weights
from pipeline_contenders.protocol import serve, timed
from pipeline_contenders.work import Case


class Wide:
    """A learner that has seen all of its batches."""

    def __init__(self, case: Case, folder: Path, options: Mapping[str, Any]) -> None:
        torch.set_num_threads(options["threads"])
        work = Work(fields=options["fields"], dim=options["dim"], batch_rows=options["batch"])
        self._learner, batches = work.learner(packed=options["packed"]), work.content()
        self.weights = weights(self._learner.model)
        for batch in batches:
            self.calls = table_calls(self._learner, batch)
        self._batches = itertools.cycle(batches)

    def train(self, steps: int) -> float:
        """Make steps."""
        return timed(lambda: self._learner.learn(next(self._batches)), steps)


if __name__ == "__main__":
    serve(Wide)
