"""R5 with few rows in memory and the others in a file: how often a row is at hand, and what that is worth."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch

from headrace.learn import RankLearner
from headrace.papers.picasso.recipe import Work
from headrace.store import Disk, Storage, memory_for
from headrace.types import Batch

FILL = 8192
"""Rows assigned in one call."""


def storage(work: Work, share: float | None, folder: Path) -> Storage:
    """Return how a field's table keeps its rows: this share of them in memory, the others in a file; None: no file."""
    if share is None:
        return Storage()
    config = work.table("field_0")
    return Storage(disk=Disk(folder=str(folder), memory_bytes=max(memory_for(config, work.rows, share), 64 << 10)))


def filled(work: Work, share: float | None, folder: Path) -> RankLearner:
    """Return a learner whose tables hold all ids."""
    learner = work.learner(storage=storage(work, share, folder))
    draw = torch.Generator().manual_seed(work.seed)
    rows = torch.empty(work.rows, work.dim).uniform_(-0.01, 0.01, generator=draw)
    for table in learner.collection.tables.values():
        for start in range(0, work.rows, FILL):
            ids = torch.arange(start, min(start + FILL, work.rows))
            table.assign(ids, rows[ids], torch.zeros(len(ids), dtype=torch.int64))  # type: ignore[attr-defined]
    return learner


Times = dict[float | None, list[float]]
"""Seconds per step in every round, by the share of rows in memory."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What one cell gave with one seed.

    Attributes:
        paged: Times with the system's own cache of the file as it comes.
        disk: Times where the system's cache was given back before each step: every cold row is read from the disk.
        hits: Share of distinct rows of a step that were in memory, after the warm-up.
        differ: Largest difference of a row to that of a learner without a file.
    """

    paged: Times
    disk: Times
    hits: dict[float | None, float]
    differ: float


def tried(work: Work, shares: Sequence[float | None], folder: Path, rounds: int, disk_steps: int) -> Tried:
    """Measure one cell with every share in turn, by the clock on the wall.

    Every round has batches of its own, as a stream has: a cache that has seen the same ids before would look better
    than it is. What is timed begins after one round of warming up.
    """
    batches = iter(replace(work, batches=(work.batches + disk_steps) * (rounds + 1)).content())
    arms = {share: filled(work, share, folder) for share in shares}
    paged: Times = {share: [] for share in shares}
    disk: Times = {share: [] for share in shares}
    warm = list(islice(batches, work.batches))
    for learner in arms.values():
        learn(learner, warm)
    before = {share: found(learner) for share, learner in arms.items()}
    for number in range(rounds):
        for times, from_disk, count in ((paged, False, work.batches), (disk, True, disk_steps)):
            own = list(islice(batches, count))
            for share in shares if number % 2 else reversed(shares):
                times[share].append(learn(arms[share], own, from_disk=from_disk) / len(own))
    hits = {share: _rate(before[share], found(learner)) for share, learner in arms.items()}
    ids, plain = torch.arange(work.rows), arms[None]
    differ = max(float((learner.tables[name].lookup(ids) - plain.tables[name].lookup(ids)).abs().max())
                 for learner in arms.values() for name in work.names)  # fmt: skip
    return Tried(paged, disk, hits, differ)


def learn(learner: RankLearner, batches: Sequence[Batch], *, from_disk: bool = False) -> float:
    """Learn and return the seconds it took; `from_disk` gives the system's cache of the files back before each step."""
    spent = 0.0
    for batch in batches:
        for table in learner.collection.tables.values() if from_disk else ():
            table.release_pages()  # type: ignore[attr-defined]
        began = time.perf_counter()
        learner.learn(batch)
        spent += time.perf_counter() - began
    return spent


def found(learner: RankLearner) -> tuple[int, int]:
    """Return how many distinct rows the updates of all tables found in memory, and how many in the file."""
    tiers = [table.tier() for table in learner.collection.tables.values()]  # type: ignore[attr-defined]
    there = [tier for tier in tiers if tier is not None]
    return sum(tier.hits for tier in there), sum(tier.misses for tier in there)


def _rate(before: tuple[int, int], after: tuple[int, int]) -> float:
    hits, misses = after[0] - before[0], after[1] - before[1]
    return hits / (hits + misses) if hits + misses else 1.0
