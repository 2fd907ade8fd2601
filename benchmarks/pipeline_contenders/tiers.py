"""Tables larger than memory: training steps with cold rows in a file, and with all rows in memory.

A table is filled, then learns fresh batches of Zipf ids until it knows which rows are hot, then is measured in blocks,
every arm in turn. First the tables' own work: look up, sum gradients, update; no network hides it. Then whole steps of
DLRM, with the system's page cache as it comes, and with the file's pages given back first, so that cold rows are read
from the disk, beside the network (`fetch_ahead`).
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from table_contenders.figures import Figures

from headrace.evaluate.claims import ClaimTable, Goal
from headrace.learn import LearnerConfig, RankLearner
from headrace.nn import DLRM
from headrace.objectives import LogLoss
from headrace.store import (
    Adagrad,
    Disk,
    EmbeddingCollection,
    FeatureLookup,
    NativeTable,
    Storage,
    TableConfig,
    memory_for,
    open_table,
)
from headrace.types import Batch, Jagged
from pipeline_contenders.cases import Plan

FILL = 65_536
NAME = "larger_than_memory_vs_in_memory"
GOAL = Goal(">=", 0.4)
PERCENTS = (0, 1, 5, 20)
WHOLE, FIFTH = "all rows", "a fifth of all bytes"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured: tables and ids of each; the network; steps to warm up, blocks, and steps of a block."""

    tables: int = 26
    ids: int = 384_000
    dim: int = 16
    batch: int = 4096
    skew: float = 1.05
    numbers: int = 13
    bottom: tuple[int, ...] = (512, 256, 64)
    top: tuple[int, ...] = (512, 256)
    warm: int = 60
    blocks: int = 7
    steps: int = 4


SIZES = {
    "tiny": Size(tables=2, ids=3000, batch=64, warm=3, blocks=2, steps=2, bottom=(8,), top=(8,)),
    "quick": Size(tables=4, ids=200_000, warm=20, blocks=3, steps=3),
}


class Draws:
    """Batches of Zipf ids, never twice the same."""

    def __init__(self, size: Size, seed: int = 1) -> None:
        self._size, self._random, self._now = size, np.random.default_rng(seed), 0
        self._shares = np.cumsum(np.arange(1, size.ids + 1, dtype=np.float64) ** -size.skew)
        self._names = [f"t{number}" for number in range(size.tables)]
        self._spread = self._random.permutation(size.ids)

    def take(self, count: int) -> list[Batch]:
        """Return so many fresh batches."""
        return [self._one() for _ in range(count)]

    def _one(self) -> Batch:
        size, self._now = self._size, self._now + 1
        offsets, rows = torch.arange(size.batch + 1), size.batch
        ids = {}
        for name in self._names:
            ranks = np.searchsorted(self._shares, self._random.random(rows) * self._shares[-1])
            ids[name] = Jagged(torch.from_numpy(self._spread[np.minimum(ranks, size.ids - 1)]), offsets)
        zeros, numbers = torch.zeros(rows), torch.zeros(rows, dtype=torch.int64)
        return Batch(
            ids=ids, dense=torch.zeros(rows, size.numbers), labels=zeros, weights=zeros + 1.0,
            event_times=numbers + self._now, accepted_times=numbers, example_ids=numbers,
            predictions=zeros, versions=numbers, sample_rates=zeros + 1.0,
        )  # fmt: skip


class Arm:
    """Tables that hold all ids, so much memory for each; None: all in memory. And a network over them."""

    def __init__(self, size: Size, folder: str, memory_bytes: int | None, *, network: bool = False) -> None:
        config = TableConfig(name="t", dim=size.dim, rule=Adagrad(lr=0.05))
        if memory_bytes is not None:
            config = replace(config, storage=Storage(disk=Disk(folder=folder, memory_bytes=memory_bytes)))
        self.tables: dict[str, NativeTable] = {}
        for number in range(size.tables):
            table = open_table(replace(config, name=f"t{number}"))
            assert isinstance(table, NativeTable)
            for start in range(0, size.ids, FILL):
                ids = torch.arange(start, min(start + FILL, size.ids))
                table.assign(ids, torch.full((len(ids), size.dim), 0.01), torch.zeros_like(ids))
            self.tables[table.config.name] = table
        names = list(self.tables)
        self._embed = EmbeddingCollection(self.tables, [FeatureLookup(feature=name, table=name) for name in names])
        self._grad = torch.randn(size.batch, size.dim, generator=torch.Generator().manual_seed(1)) * 0.01
        self._learner: RankLearner | None = None
        if network:
            model = DLRM(self._embed, names, size.numbers, size.top, bottom=size.bottom)
            optimizer = torch.optim.Adagrad(model.parameters(), lr=0.01)
            self._learner = RankLearner(model, self._embed, optimizer, LogLoss(), LearnerConfig(freshness=False))

    def steps(self, batches: Sequence[Batch], *, from_disk: bool = False) -> float:
        """Do the tables' work of steps, and return its seconds; `from_disk`: no cold row is cached before a step."""
        spent = 0.0
        for batch in batches:
            self._release(from_disk)
            began = time.perf_counter()
            outputs = self._embed(batch)
            torch.autograd.backward(list(outputs.values()), [self._grad] * len(outputs))
            self._embed.apply_gradients(batch)
            spent += time.perf_counter() - began
        return spent

    def whole_steps(self, batches: Sequence[Batch], *, from_disk: bool = False) -> float:
        """Make whole steps, the cold rows of the next batch read beside them, and return their seconds.

        `from_disk`: no cold row is cached when they begin, but those of the first batch.
        """
        assert self._learner is not None
        self._release(from_disk)
        self._embed.fetch_ahead(batches[0])
        time.sleep(0.5 * from_disk)
        began = time.perf_counter()
        with ThreadPoolExecutor(1) as beside:
            for batch, later in zip(batches, [*batches[1:], None], strict=True):
                if later is not None:
                    beside.submit(self._embed.fetch_ahead, later)
                self._learner.learn(batch)
        return time.perf_counter() - began

    def _release(self, wanted: bool) -> None:
        for table in self.tables.values() if wanted else ():
            table.release_pages()

    def found(self) -> tuple[int, int]:
        """Return rows found in memory and in the file, so far."""
        tiers = [tier for table in self.tables.values() if (tier := table.tier()) is not None]
        return sum(tier.hits for tier in tiers), sum(tier.misses for tier in tiers)

    @property
    def memory(self) -> int:
        """Bytes that the tables hold in memory."""
        stats = [table.stats() for table in self.tables.values()]
        return sum(one.bytes if one.tier is None else one.tier.memory_bytes for one in stats)


def budgets(size: Size, whole: int) -> Iterator[tuple[str, int]]:
    """Yield memory for each table by name of the arm; `whole` is what all tables take in memory."""
    yield FIFTH, whole // size.tables // 5
    config = TableConfig(name="t", dim=size.dim, rule=Adagrad(lr=0.05))
    for percent in PERCENTS:
        yield f"{percent} % of the rows", memory_for(config, size.ids, percent / 100)


def measure(figures: Figures, plan: Plan, threads: int, folder: Path | None = None) -> None:
    """Record `larger_than_memory_vs_in_memory` and `caching/<percent>`, and print tables.

    Args:
        figures: Where to.
        plan: Its `size` says how much.
        threads: Of the tables and the network.
        folder: On the disk to measure; None: where temporary files go.
    """
    torch.set_num_threads(threads)
    size = SIZES.get(plan.size, Size())
    with tempfile.TemporaryDirectory(dir=folder) as place:
        draws, whole = Draws(size), Arm(size, place, None, network=True)
        rows = []
        for name, memory in budgets(size, whole.memory):  # one at a time: only so much of a file may be unwritten
            arm = Arm(size, place, memory, network=name == FIFTH)
            os.sync()  # what filling has written would be written beside the first steps
            seconds, rate = _table_work(size, draws, {WHOLE: whole, name: arm})
            gains, own = _against(seconds, name), [(WHOLE, whole, 1.0)] if not rows else []
            figures.add(
                NAME if name == FIFTH else f"caching/{name.split()[0]}", gains, goal=GOAL if name == FIFTH else None
            )
            figures.notes.append(f"tables larger than memory, {name}: {rate:.1%} of the rows were in memory")
            for label, one, found in (*own, (name, arm, rate)):
                rows.append((label, f"{one.memory / 1e6:,.0f}", f"{found:.1%}",
                             f"{1e3 * statistics.median(seconds[label]):.1f}",
                             f"{statistics.median(_against(seconds, label)):.2f}x"))  # fmt: skip
            if name == FIFTH:
                _whole_steps(figures, size, draws, {WHOLE: whole, FIFTH: arm})
            del arm
        figures.tables.append(ClaimTable(
            f"Tables larger than memory, their own work: {size.tables} x {size.ids:,} ids x {size.dim}, Adagrad, "
            f"batch {size.batch}, Zipf {size.skew}",
            ("in memory", "MB", "rows found there", "ms a step", "speed of all in memory"), tuple(rows),
            ("Look-up, sums and updates; no network. MB: ids and maps too. Rows: distinct ids of a step.",
             "Cold rows: in the file; the system's page cache holds what it has memory for, here all of it."),
        ))  # fmt: skip


def _in_turn(number: int, names: Iterable[str]) -> list[str]:
    order = list(names)
    return order[number % len(order) :] + order[: number % len(order)]


def _table_work(size: Size, draws: Draws, both: dict[str, Arm]) -> tuple[dict[str, list[float]], float]:
    """Return seconds of a step in every block by arm, and the share of rows that the last arm found in memory."""
    *_, last = both.values()
    for _ in range(size.warm):
        batches = draws.take(1)
        for arm in both.values():
            arm.steps(batches)
    before, seconds = last.found(), {name: list[float]() for name in both}
    for number in range(size.blocks):
        batches = draws.take(size.steps)
        for name in _in_turn(number, both):
            seconds[name].append(both[name].steps(batches) / size.steps)
    return seconds, _rate(before, last.found())


def _whole_steps(figures: Figures, size: Size, draws: Draws, both: dict[str, Arm]) -> None:
    cached: dict[str, list[float]] = {name: [] for name in both}
    disk: dict[str, list[float]] = {name: [] for name in both}
    apart: dict[str, list[float]] = {name: [] for name in both}
    for name, arm in both.items():
        arm.steps(draws.take(1), from_disk=name == FIFTH)  # so that it knows of the disk
        arm.whole_steps(draws.take(2))
    for number in range(size.blocks):
        for seconds, from_disk in ((cached, False), (disk, True)):
            batches = draws.take(size.steps)
            for name in _in_turn(number, both):
                seconds[name].append(both[name].whole_steps(batches, from_disk=from_disk) / size.steps)
        batches = draws.take(1)
        for name in _in_turn(number, both):
            apart[name].append(both[name].steps(batches, from_disk=True))
    rows = []
    kinds = (("a step of DLRM", "whole", cached), ("a step of DLRM, cold rows from the disk", "whole_from_disk", disk),
             ("the tables' own work, cold rows from the disk", "from_disk", apart))  # fmt: skip
    for label, name, seconds in kinds:
        gains = _against(seconds, FIFTH)
        figures.add(f"{NAME}/{name}", gains)
        rows.append((label, *(f"{1e3 * statistics.median(seconds[one]):.0f}" for one in (WHOLE, FIFTH)),
                     f"{statistics.median(gains):.2f}x"))  # fmt: skip
    figures.tables.append(ClaimTable(
        "Tables of five times their memory in a training step",
        ("what is timed", "ms, all in memory", "ms, a fifth", "speed"), tuple(rows),
        ("From the disk: the page cache of the file is emptied before the block; a step of DLRM reads the cold rows",
         "of the next batch beside the network, the tables alone read those of their own."),
    ))  # fmt: skip


def _rate(before: tuple[int, int], after: tuple[int, int]) -> float:
    hits, misses = after[0] - before[0], after[1] - before[1]
    return hits / (hits + misses) if hits + misses else 1.0


def _against(seconds: dict[str, list[float]], name: str) -> list[float]:
    return [whole / own for whole, own in zip(seconds[WHOLE], seconds[name], strict=True)]
