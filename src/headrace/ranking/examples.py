"""What a ranker is fitted on: examples that can be read again and again, in another order each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from headrace.config import require
from headrace.data import Schema, collate
from headrace.types import Batch, Events, Jagged


class ExampleSet(Protocol):
    """Labelled examples of one split."""

    def __len__(self) -> int:
        """Return the number of examples."""
        ...

    def batches(self, rows: int, order: int | None = None) -> Iterator[Batch]:
        """Yield every example once, in batches of `rows` (the last one may be smaller).

        Args:
            rows: Examples per batch.
            order: Seed of a random order, a function of nothing else; None: as they stand.
        """
        ...


@dataclass(frozen=True, slots=True)
class InMemory:
    """Examples that were collated once and stay in memory.

    Attributes:
        batch: All of them.

    Cost: a batch in a random order is one gather per column.

    Example:
        >>> from headrace.testing.toy import Toy, ToyConfig
        >>> from headrace.data import IdFeature
        >>> schema = Schema(features=(IdFeature("user", 4), IdFeature("item", 4)))
        >>> examples = InMemory.from_events(Toy(ToyConfig()).events(0, 10), schema)
        >>> [len(batch) for batch in examples.batches(4, order=7)]
        [4, 4, 2]
    """

    batch: Batch

    @staticmethod
    def from_events(events: Events, schema: Schema) -> InMemory:
        """Collate labelled rows."""
        return InMemory(collate(events, schema))

    def __len__(self) -> int:
        return len(self.batch)

    def batches(self, rows: int, order: int | None = None) -> Iterator[Batch]:
        """Yield every example once; see `ExampleSet`."""
        require(rows >= 1, "InMemory.batches, rows", got=rows, expected="a positive integer")
        if order is None:
            yield from self.batch.split(rows)
            return
        places = torch.from_numpy(np.random.default_rng(order).permutation(len(self)))
        for start in range(0, len(self), rows):
            yield taken(self.batch, places[start : start + rows])


@dataclass(frozen=True, slots=True)
class Splits:
    """Examples to learn from, to choose by, and to judge once.

    Attributes:
        train: Learned from.
        valid: Chooses the epoch, and whatever else is chosen.
        test: Judged at what was chosen; nothing is chosen by it.
        files: What was read; their SHA-256 goes into the run record.
        notes: What a report must say about the data.
    """

    train: ExampleSet
    valid: ExampleSet
    test: ExampleSet
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


ReadSplits = Callable[[], Splits]


def taken(batch: Batch, places: Tensor) -> Batch:
    """Return the examples at the given places, in that order.

    Shapes: places (N,) int64 in 0..len(batch).

    Example:
        >>> from headrace.testing.toy import Toy, ToyConfig
        >>> from headrace.data import IdFeature
        >>> events = Toy(ToyConfig()).events(0, 10)
        >>> batch = collate(events, Schema(features=(IdFeature("user", 4),)))
        >>> bool((taken(batch, torch.tensor([3, 0])).labels == batch.labels[[3, 0]]).all())
        True
    """
    return replace(
        batch, ids={name: _rows(jagged, places) for name, jagged in batch.ids.items()},
        dense=batch.dense[places], labels=batch.labels[places], weights=batch.weights[places],
        event_times=batch.event_times[places], accepted_times=batch.accepted_times[places],
        example_ids=batch.example_ids[places], predictions=batch.predictions[places],
        versions=batch.versions[places], sample_rates=batch.sample_rates[places],
        extra={name: value[places] for name, value in batch.extra.items()},
    )  # fmt: skip


def _rows(jagged: Jagged, places: Tensor) -> Jagged:
    if len(jagged.values) == len(jagged) and bool(jagged.offsets[-1] == len(jagged)) and _single(jagged):
        return Jagged(jagged.values[places], torch.arange(len(places) + 1))
    starts = jagged.offsets[places]
    lengths = jagged.offsets[places + 1] - starts
    offsets = torch.zeros(len(places) + 1, dtype=torch.int64)
    torch.cumsum(lengths, 0, out=offsets[1:])
    within = torch.arange(int(offsets[-1])) - torch.repeat_interleave(offsets[:-1], lengths)
    return Jagged(jagged.values[torch.repeat_interleave(starts, lengths) + within], offsets)


def _single(jagged: Jagged) -> bool:
    """Return whether every row has exactly one id."""
    return bool((jagged.offsets[1:] - jagged.offsets[:-1] == 1).all())


def cut(events: Events, valid: float, test: float, *, seed: int | None) -> tuple[Events, Events, Events]:
    """Split rows into train, validation and test.

    Args:
        events: Labelled rows.
        valid: Share of the validation rows.
        test: Share of the test rows.
        seed: Of a random split; None cuts by the order of the rows: the newest are the test.

    Raises:
        ConfigError: If the shares leave a part without rows.
    """
    rows = len(events)
    tests, valids = round(rows * test), round(rows * valid)
    trains = rows - tests - valids
    require(min(trains, tests, valids) >= 1, "Shares of validation and test", got=(valid, test),
            expected=f"at least one of {rows} rows in each part")  # fmt: skip
    if seed is None:
        return events.slice(0, trains), events.slice(trains, valids), events.slice(trains + valids)
    places = np.random.default_rng(seed).permutation(rows)
    parts = np.split(places, [trains, trains + valids])
    train, held, judged = (events.take(np.sort(part)) for part in parts)
    return train, held, judged
