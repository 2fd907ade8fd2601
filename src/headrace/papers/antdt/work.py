"""One size of the comparison: rows, steps and processes, and what each pattern of slowness means for it."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.runtime import simulate_patterns as patterns

IDS_BY_ROW = 26.0


@dataclass(frozen=True, kw_only=True)
class Work:
    """One size of the comparison.

    Attributes:
        rows: Rows of the log; 80 % are learned, once. 0: as many as a pattern needs.
        batch_rows: Rows of a step over all workers.
        step_s: Seconds of sleep that a healthy step of equal parts takes.
        workers, servers: Processes.
        seed: Of weights and order.
    """

    rows: int = 20_000
    batch_rows: int = 80
    step_s: float = 0.1
    workers: int = 4
    servers: int = 2
    seed: int = 0

    @property
    def trained(self) -> int:
        """Rows that are learned."""
        return self.rows * 8 // 10

    def pattern(self, name: str) -> patterns.Pattern:
        """Return a pattern with this work's seconds by row; where a server is slow, look-ups take half of a step."""
        row_s = self.step_s * self.workers / self.batch_rows
        # a row asks each server for half of its 26 categories
        share = row_s / 2 / (IDS_BY_ROW / self.servers)
        return {
            "none": patterns.no_stragglers(worker_row_s=row_s),
            "persistent_worker": patterns.persistent_worker(worker_row_s=row_s, factor=6.0),
            "transient_worker": patterns.transient_worker(worker_row_s=row_s, factor=4.0, share=1 / 3),
            "persistent_server": patterns.persistent_server(worker_row_s=row_s / 2, server_row_s=share, factor=6.0),
            "mixed_devices": patterns.mixed_devices(worker_row_s=row_s, factors=(1.0, 1.0, 3.0, 3.0)),
        }[name]
