"""One cell: what both sides are told, and what both sides answer. Nothing here needs more than NumPy.

    python -m ctr_contenders.CONTENDER CELL_JSON

The answer is one JSON object on standard output: `valid` and `test` (AUC after every epoch), log-losses, seconds.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Columns = dict[str, npt.NDArray[Any]]
LABEL = "label"
PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        model: Name of the family.
        data: Folder of the prepared data set, one `.npz` per part.
        seed: Of weights and order.
        dim: Width of a field's factor.
        hidden: Widths of deep parts.
        lr: Rate of Adam, of tables and of the dense part.
        batch: Examples per step.
        epochs: Passes over the training examples.
        own: Settings of the contender itself.
    """

    model: str
    data: str
    seed: int = 0
    dim: int = 10
    hidden: tuple[int, ...] = (64, 64)
    lr: float = 1e-3
    batch: int = 1024
    epochs: int = 3
    own: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def from_json(text: str) -> Cell:
        """Read what the benchmark wrote."""
        content = json.loads(text)
        return Cell(**{**content, "hidden": tuple(content["hidden"])})

    def columns(self, part: str) -> Columns:
        """Return the columns of a part: ids int64 (rows,) per feature, and the label float32 (rows,)."""
        with np.load(Path(self.data) / f"{part}.npz") as content:
            return {name: content[name] for name in content.files}

    def sizes(self) -> dict[str, int]:
        """Return the number of ids of every feature, the unused 0 among them, in the order of the features."""
        found: dict[str, int] = json.loads((Path(self.data) / "sizes.json").read_text(encoding="utf-8"))
        return found


def orders(rows: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the order of an epoch's examples, the same for every contender."""
    return np.random.default_rng(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]).permutation(rows)


def answer(train: Callable[[Cell], dict[str, Any]]) -> None:
    """Train the cell of the command line and print the result; what libraries print goes to standard error."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    result = train(Cell.from_json(sys.argv[1]))
    pipe.write(json.dumps(result) + "\n")
    pipe.flush()
