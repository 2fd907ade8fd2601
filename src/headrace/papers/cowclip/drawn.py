"""Drawn rows as the splits of a fit: drawn once into a folder, read by every process from there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from headrace.config import fingerprint
from headrace.papers.cowclip.generator import ClickLaw, draw
from headrace.ranking import Splits
from headrace.types import Batch, Jagged


@dataclass(frozen=True, slots=True)
class DrawnRows:
    """Some of the drawn rows, as an `ExampleSet`.

    Shapes: ids (rows, fields) int32; labels (rows,).
    """

    names: tuple[str, ...]
    ids: npt.NDArray[np.int32]
    labels: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, rows: int, order: int | None = None) -> Iterator[Batch]:
        """Yield every row once, in batches of `rows`; a random order is one of all rows."""
        places = np.arange(len(self)) if order is None else np.random.default_rng(order).permutation(len(self))
        for start in range(0, len(self), rows):
            yield self._batch(places[start : start + rows])

    def _batch(self, places: npt.NDArray[np.int64]) -> Batch:
        count = len(places)
        columns = torch.from_numpy(np.ascontiguousarray(self.ids[places].T).astype(np.int64))
        offsets, ones, zeros = torch.arange(count + 1), torch.ones(count), torch.zeros(count, dtype=torch.int64)
        return Batch(
            ids={name: Jagged(columns[place], offsets) for place, name in enumerate(self.names)},
            dense=torch.zeros(count, 0), labels=torch.from_numpy(self.labels[places]), weights=ones,
            event_times=zeros, accepted_times=zeros, example_ids=torch.from_numpy(places),
            predictions=torch.full((count,), float("nan")), versions=zeros - 1, sample_rates=ones,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class DrawnSplits:
    """Draws rows from a law, or finds them drawn; the first are learned from.

    Attributes:
        law: What they are drawn from.
        train, valid, test: Numbers of rows.
        seed: Of the rows.
        folder: Where they lie.
    """

    law: ClickLaw
    train: int
    valid: int
    test: int
    seed: int
    folder: Path

    def __call__(self) -> Splits:
        """Return the three parts; their ids stay on disk and are mapped."""
        where = self.folder / f"rows-{fingerprint((self.law, self.train, self.valid, self.test, self.seed))}"
        if not (where.with_suffix(".labels.npy")).exists():
            self._draw(where)
        ids = np.load(where.with_suffix(".ids.npy"), mmap_mode="r", allow_pickle=False)
        labels = np.load(where.with_suffix(".labels.npy"), allow_pickle=False)
        cuts = [0, self.train, self.train + self.valid, self.train + self.valid + self.test]
        train, valid, test = (DrawnRows(self.law.names, ids[a:b], labels[a:b]) for a, b in pairwise(cuts))
        note = f"{self.train} drawn rows to learn from, {self.valid} to choose by, {self.test} to judge"
        return Splits(train, valid, test, notes=(note,))

    def _draw(self, where: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        clicks = draw(self.law, self.train + self.valid + self.test, self.seed)
        for suffix, array in ((".ids.npy", clicks.ids), (".labels.npy", clicks.labels)):  # the labels last: they tell
            unfinished = where.with_suffix(f".{os.getpid()}.npy")
            np.save(unfinished, array, allow_pickle=False)
            os.replace(unfinished, where.with_suffix(suffix))
