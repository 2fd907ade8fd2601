"""Rounds: contenders are measured in turn, block by block, and what is compared was measured in the same round."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from table_contenders.process import Process

from pipeline_contenders.cases import Entry

WARM_UP = 2
"""Steps of a process before its first block."""


@dataclass
class Rates:
    """Examples per second in every round, by contender, and what its process said of itself."""

    batch: int
    rates: dict[str, list[float]] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def fastest(self, entries: Iterable[Entry]) -> str | None:
        """Return who of those that were measured most often is fastest; None when none was measured."""
        names = [entry.name for entry in entries if entry.name in self.rates]
        return max(names, key=lambda name: (len(self.rates[name]), statistics.median(self.rates[name])), default=None)

    def against(self, ours: str, other: str) -> list[float]:
        """Return our rate over another's, in every round that both took part in."""
        return [one / two for one, two in zip(self.rates[ours], self.rates[other], strict=False)]

    def rows(self) -> tuple[tuple[str, ...], ...]:
        """Return a table's rows: contender, weights of its network, examples/s, ms a step, rounds."""
        rows = []
        for name, values in self.rates.items():
            rate, weights = statistics.median(values), self.facts[name]["weights"]
            step_ms = f"{1e3 * self.batch / rate:,.1f}"
            rows.append((name, f"{weights:,}" if weights else "–", f"{rate:,.0f}", step_ms, str(len(values))))
        return tuple(rows)


COLUMNS = ("contender", "weights of the network", "examples/s", "ms a step", "rounds")
"""Of the table that `Rates.rows` fills."""


class Bench:
    """Measures blocks; contenders that stay are started once, the others for each block.

    Args:
        folder: Of the case.
        batch: Its batch.
        threads: Of every contender.
    """

    def __init__(self, folder: Path, batch: int, threads: int) -> None:
        self.found = Rates(batch)
        self._folder, self._threads = folder, threads
        self._resident: dict[str, Process] = {}
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def round(self, number: int, entries: Sequence[Entry], steps: int, found: Rates | None = None) -> None:
        """Measure everyone once, all resident; every other round goes in reverse order."""
        for entry in entries if number % 2 == 0 else reversed(entries):
            process = self._resident.get(entry.name)
            if process is None:
                process = self._resident[entry.name] = self._start(entry)
                self._open.callback(process.close)
            self._block(process, entry, steps, found or self.found)

    def visit(self, entry: Entry, steps: int, found: Rates) -> None:
        """Measure a contender once, in a process of its own that is gone afterwards."""
        process = self._start(entry)
        try:
            self._block(process, entry, steps, found)
        finally:
            process.close()

    def _start(self, entry: Entry) -> Process:
        process = entry.start(self._folder, self._threads)
        self.found.facts[entry.name] = process.opened
        process.ask("train", steps=WARM_UP if entry.place == "product" else 1)
        return process

    def _block(self, process: Process, entry: Entry, steps: int, found: Rates) -> None:
        seconds = process.ask("train", steps=steps)["seconds"]
        found.facts[entry.name] = self.found.facts[entry.name]
        found.rates.setdefault(entry.name, []).append(steps * found.batch / seconds)
