"""Real samples as tasks: too few rows to show parity, shown beside the drawn ones without a goal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from headrace.data import PreparedData
from headrace.data.datasets import criteo as criteo_data
from headrace.data.datasets import movielens_tag as tag_data
from headrace.data.features import Schema
from headrace.optim import Rates
from headrace.papers.cowclip.recipe import Task
from headrace.ranking import ExampleSet, Splits
from headrace.ranking.examples import ReadSplits
from headrace.ranking.prepared import AT_RANDOM, PreparedSplits, prepared
from headrace.types import Batch, Jagged

DIM, BASE_ROWS, EPOCHS, PATIENCE = 8, 128, 4, 2
BASELINE = Rates(dense_lr=1e-3, row_lr=3e-4, l2=1e-8, init_std=1e-4)
COWCLIP = replace(BASELINE, init_std=1e-2)


def criteo_task() -> Task:
    """Criteo's first 80,000 rows, split at random 8:1:1; numbers in bins, values seen once share an id.

    Raises:
        DataError: If the file is missing.
    """
    return _task("criteo", prepared("criteo", criteo_data.examples(), criteo_data.preparation(min_count=2), AT_RANDOM),
                 prior=0.22)  # fmt: skip


def movielens_task() -> Task:
    """The first 200,000 rows of MovieLens tags, split at random 8:1:1.

    Raises:
        DataError: If the file is missing.
    """
    return _task("movielens_tag", prepared("movielens_tag", tag_data.examples(), tag_data.preparation(), AT_RANDOM),
                 prior=0.33)  # fmt: skip


def in_one_table(task: Task) -> Task:
    """Return the task with the rows of all its features in one table, for clips of their common norm."""
    features = tuple(replace(feature, table="all") for feature in task.schema.id_features)
    schema = Schema(features=features, label=task.schema.label)
    return replace(task, name=f"{task.name}, one table", schema=schema, data=Apart(task.data, task.schema.id_names))


@dataclass(frozen=True, slots=True)
class Apart:
    """Reads splits whose features number their ids each from 0, with ids that no two features share.

    Attributes:
        data: Reads them.
        names: The features.
    """

    data: ReadSplits
    names: tuple[str, ...]

    def __call__(self) -> Splits:
        """Return the three parts."""
        splits = self.data()
        train, valid, test = (_ApartRows(part, self.names) for part in (splits.train, splits.valid, splits.test))
        return Splits(train, valid, test, files=splits.files, notes=splits.notes)


@dataclass(frozen=True, slots=True)
class _ApartRows:
    rows: ExampleSet
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, rows: int, order: int | None = None) -> Iterator[Batch]:
        for batch in self.rows.batches(rows, order):
            moved = {name: Jagged(batch.ids[name].values + (place << 32), batch.ids[name].offsets)
                     for place, name in enumerate(self.names)}  # fmt: skip
            yield replace(batch, ids=moved)


def _task(name: str, data: PreparedData, prior: float) -> Task:
    schema = data.schema(dim=DIM)
    return Task(
        name=name, data=PreparedSplits(data.folder, data.fingerprint), schema=schema, train=data.rows("train"),
        prior=prior, batch_rows=BASE_ROWS, baseline=BASELINE, cowclip=COWCLIP, epochs=EPOCHS, patience=PATIENCE,
    )  # fmt: skip
