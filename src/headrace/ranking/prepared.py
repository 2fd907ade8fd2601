"""Prepared data sets as the three splits of a fit: read from disk batch by batch, so memory does not grow with rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headrace.config import fingerprint
from headrace.data import PreparedData
from headrace.data.download import cache_folder
from headrace.data.examples import Examples
from headrace.data.prepare import prepare
from headrace.data.prepare_columns import Preparation
from headrace.data.prepare_split import OrderSplit, RandomSplit, Split
from headrace.data.prepared_files import input_files
from headrace.ranking.examples import Splits
from headrace.types import Batch

AT_RANDOM = RandomSplit({"train": 0.8, "valid": 0.1, "test": 0.1}, seed=0)
"""One split for all seeds: what differs between seeds is the model's, not the data's."""

IN_ORDER = OrderSplit({"train": 0.8, "valid": 0.1, "test": 0.1})
"""The newest rows are the test; for files in order of time."""


@dataclass(frozen=True, slots=True)
class PreparedPart:
    """One part of a prepared data set as an `ExampleSet`."""

    data: PreparedData
    part: str

    def __len__(self) -> int:
        return self.data.rows(self.part)

    def batches(self, rows: int, order: int | None = None) -> Iterator[Batch]:
        """Yield every example once; a random order is one of row groups, and of rows within a window of them."""
        return iter(self.data.batches(self.part, batch_rows=rows, seed=order))


@dataclass(frozen=True, slots=True)
class PreparedSplits:
    """Reads the parts `train`, `valid` and `test` of a prepared data set.

    Attributes:
        folder: Where it was prepared.
        made_of: Fingerprint of the preparation, for the run record.
        notes: What a report must say about the data.
    """

    folder: Path
    made_of: str
    notes: tuple[str, ...] = ()

    def __call__(self) -> Splits:
        """Open the three parts."""
        data = PreparedData(self.folder)
        train, valid, test = (PreparedPart(data, part) for part in ("train", "valid", "test"))
        sizes = f"{len(train)} examples to learn from, {len(valid)} to choose by, {len(test)} to judge"
        return Splits(train, valid, test, notes=(sizes, *self.notes))


def prepared(
    name: str, rows: Examples, plan: Preparation, split: Split, *, folder: Path | None = None, processes: int = 1
) -> PreparedData:
    """Prepare a data set, or find it prepared already.

    Args:
        name: Of the data set; names the folder.
        rows: What is prepared.
        plan: How.
        split: Which rows are `train`, `valid` and `test`.
        folder: Where; None: in the cache, by name and fingerprint of all that matters. Files that have changed since
            are prepared anew there; a folder of your own is refused then.
        processes: That work at once.
    """
    if folder is None:
        facts = fingerprint([plan, split, rows, input_files(rows.paths)])
        folder = cache_folder() / "prepared" / f"{name}-{facts}"
    return prepare(rows, plan, folder, split=split, processes=processes)
