"""Rounds: every contender has one block in each, and what is compared was measured in the same round."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from table_contenders.cases import Entry
from table_contenders.process import ContenderFailed, Process
from table_contenders.workload import Work

WARM_UP = 3
"""Steps before anything is timed; then contenders have to agree."""

Choose: TypeAlias = "Callable[[Rates], Sequence[Entry]]"


@dataclass
class Rates:
    """Ids per second in every round, by contender."""

    train: dict[str, list[float]] = field(default_factory=dict)
    lookup: dict[str, list[float]] = field(default_factory=dict)
    scaling: dict[str, list[float]] = field(default_factory=dict)
    """Training rate with all threads over that with one."""
    difference: dict[str, float] = field(default_factory=dict)
    """Largest difference of a sampled row to the first contender's, after the warm-up."""

    def fastest(self, entries: Iterable[Entry], kind: str = "train") -> str | None:
        """Return who of those that stayed longest is fastest at `train` or `lookup`; None when none was measured."""
        rates = self.train if kind == "train" else self.lookup
        names = [entry.name for entry in entries if entry.name in rates]
        return max(names, key=lambda name: (len(rates[name]), statistics.median(rates[name])), default=None)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """How blocks are measured.

    Attributes:
        steps: Steps per block, of each kind, for batches of 8192; more of smaller ones and fewer of larger ones.
        threads: Threads of every contender.
        together: Whether contenders stay resident.
        scaling: Contenders that are measured with one thread too.
    """

    steps: int
    threads: int
    together: bool = False
    scaling: tuple[Entry, ...] = ()

    def run(self, work: Work, entries: Sequence[Entry], rounds: int, choose: Choose | None = None) -> Rates:
        """Measure `rounds` times, every other round in reverse order; `choose` says who stays after the first."""
        rates, entries = Rates(), list(entries)
        with tempfile.TemporaryDirectory() as name, ExitStack() as resident:
            folder = Path(name)
            work.write(folder)
            agreement = _Agreement(folder, rates)
            started: dict[str, Process] = {}
            for number in range(rounds):
                for entry in entries if number % 2 == 0 else reversed(entries):
                    process = started.get(entry.name)
                    if process is None:
                        process = entry.start(folder, self.threads)
                        resident.callback(process.close)
                        agreement.check(process, entry)
                    self._block(process, entry, work, rates)
                    if self.together:
                        started[entry.name] = process
                    else:
                        process.close()
                if number == 0 and choose is not None:
                    entries = list(choose(rates))
        return rates

    def _block(self, process: Process, entry: Entry, work: Work, rates: Rates) -> None:
        steps = max(3, self.steps * 8192 // work.batch)

        def rate(kind: str) -> float:
            process.ask(kind, steps=1)
            seconds: list[float] = process.ask(kind, steps=steps)["seconds"]
            return work.ids_per_step / statistics.median(seconds)

        train = rate("train")
        rates.train.setdefault(entry.name, []).append(train)
        rates.lookup.setdefault(entry.name, []).append(rate("lookup"))
        if entry in self.scaling:
            process.ask("threads", count=1)
            rates.scaling.setdefault(entry.name, []).append(train / rate("train"))
            process.ask("threads", count=self.threads)


class _Agreement:
    """Compares what contenders have learned when they are warm."""

    def __init__(self, folder: Path, rates: Rates) -> None:
        ids = np.load(folder / "ids.npy", mmap_mode="r")
        self._ids: list[int] = np.unique(ids[:WARM_UP, 0, :100]).tolist()
        self._differences = rates.difference
        self._first: np.ndarray | None = None

    def check(self, process: Process, entry: Entry) -> None:
        """Warm a process up.

        Raises:
            ContenderFailed: If it learns something else than the first one.
        """
        process.ask("train", steps=WARM_UP)
        rows = np.array(process.ask("rows", feature=0, ids=self._ids)["rows"])
        self._first = rows if self._first is None else self._first
        difference = float(np.abs(rows - self._first).max())
        if not difference <= entry.tolerance:
            raise ContenderFailed(f"{entry.name}: rows differ by {difference} from the first contender's")
        self._differences[entry.name] = max(difference, self._differences.get(entry.name, 0.0))


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Return the ratio of every round in which both were measured; all take part from the first round on."""
    return [one / other for one, other in zip(above, below, strict=False)]
