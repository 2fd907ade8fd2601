"""Injected slowness: which node is slow, by how much and when; one definition for real runs and for the simulator."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from headrace.config import known_name, require
from headrace.errors import ConfigError

Kind = Literal["worker", "server"]


@dataclass(frozen=True, kw_only=True)
class Slow:
    """One node that is slow for a part of a job.

    Attributes:
        kind: `worker` or `server`.
        index: Which one, from 0.
        factor: How many times slower.
        start, stop: From which share of the job's rows to which.
        heals: Whether a node started in its place is healthy. False for hardware that is slow by kind.
    """

    kind: Kind = "worker"
    index: int = 0
    factor: float = 1.0
    start: float = 0.0
    stop: float = 1.0
    heals: bool = True

    def __post_init__(self) -> None:
        known_name("Slow: kind", self.kind, ("worker", "server"))
        require(self.index >= 0, "Slow: index", got=self.index, expected="a number from 0")
        require(self.factor >= 1, "Slow: factor", got=self.factor, expected="a number of at least 1")
        require(0 <= self.start < self.stop <= 1, "Slow: start, stop", got=(self.start, self.stop),
                expected="shares of the job, the first below the second")  # fmt: skip

    def acts(self, progress: float, generation: int) -> bool:
        """Return whether the node is slow at this share of the job, after it was replaced so many times."""
        # the end of a job is a part of its last stretch
        inside = self.start <= progress < self.stop or (self.stop == 1.0 and progress >= 1.0)
        return inside and not (self.heals and generation > 0)


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """How long work takes: seconds by row, and who is slower than that.

    Sleeps of these lengths stand for compute on machines that we do not have; they are exact, and they take no
    core, so that four workers run on two cores as they would on four machines.

    Attributes:
        name: For tables and logs.
        worker_row_s: Seconds of compute that a healthy worker needs for a row.
        worker_step_s: Seconds of a healthy worker for a batch of any size.
        server_row_s: Seconds that a healthy server needs for a row of a look-up.
        slow: Who is slow, and when.

    Example:
        >>> pattern = persistent_worker(worker_row_s=0.001)
        >>> round(pattern.worker_s(0, rows=100, progress=0.5, generation=0), 3)
        0.6
        >>> pattern.worker_s(0, rows=100, progress=0.5, generation=1), pattern.worker_s(1, rows=100)
        (0.1, 0.1)
    """

    name: str = "none"
    worker_row_s: float = 0.0
    worker_step_s: float = 0.0
    server_row_s: float = 0.0
    slow: tuple[Slow, ...] = ()

    def __post_init__(self) -> None:
        for name in ("worker_row_s", "worker_step_s", "server_row_s"):
            require(getattr(self, name) >= 0, f"Pattern: {name}", got=getattr(self, name), expected="seconds")

    def factor(self, kind: Kind, index: int, progress: float = 0.0, generation: int = 0) -> float:
        """Return how many times slower than a healthy one a node is."""
        product = 1.0
        for each in self.slow:
            if (each.kind, each.index) == (kind, index) and each.acts(progress, generation):
                product *= each.factor
        return product

    def worker_s(self, index: int, rows: int, progress: float = 0.0, generation: int = 0) -> float:
        """Return how many seconds a worker's compute takes for one batch.

        Args:
            index: Which worker.
            rows: Rows of the batch.
            progress: Committed rows over all rows of the job, the newest that is known.
            generation: How often this worker was replaced.
        """
        own = self.worker_step_s + self.worker_row_s * rows
        return own * self.factor("worker", index, progress, generation)

    def server_s(self, index: int, rows: int, progress: float = 0.0, generation: int = 0) -> float:
        """Return how many seconds a server takes for one look-up of so many rows."""
        return self.server_row_s * rows * self.factor("server", index, progress, generation)

    def to_json(self) -> dict[str, Any]:
        """Return the pattern as plain values."""
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any] | str) -> Pattern:
        """Read what `to_json` returned, or its text.

        Raises:
            ConfigError: If it is no pattern.
        """
        plain = json.loads(value) if isinstance(value, str) else value
        try:
            return Pattern(**{**plain, "slow": tuple(Slow(**each) for each in plain.get("slow", ()))})
        except (TypeError, AttributeError) as error:
            raise ConfigError(
                "Pattern", got=str(error), expected="the object that `Pattern.to_json` returns"
            ) from error


def no_stragglers(*, worker_row_s: float = 0.0, server_row_s: float = 0.0) -> Pattern:
    """Return the pattern in which all are equally fast."""
    return Pattern(worker_row_s=worker_row_s, server_row_s=server_row_s)


def persistent_worker(
    *, worker_row_s: float, server_row_s: float = 0.0, factor: float = 6.0, index: int = 0
) -> Pattern:
    """Return the pattern in which one worker is slow from beginning to end."""
    return Pattern(name="persistent_worker", worker_row_s=worker_row_s, server_row_s=server_row_s,
                   slow=(Slow(index=index, factor=factor),))  # fmt: skip


def transient_worker(
    *, worker_row_s: float, server_row_s: float = 0.0, factor: float = 4.0, share: float = 1 / 3, start: float = 1 / 3,
    index: int = 0,
) -> Pattern:  # fmt: skip
    """Return the pattern in which one worker is slow for a share of the job and then as fast as before."""
    own = Slow(index=index, factor=factor, start=start, stop=min(start + share, 1.0), heals=False)
    return Pattern(name="transient_worker", worker_row_s=worker_row_s, server_row_s=server_row_s, slow=(own,))


def persistent_server(*, worker_row_s: float, server_row_s: float, factor: float = 6.0, index: int = 0) -> Pattern:
    """Return the pattern in which one table server is slow from beginning to end."""
    return Pattern(name="persistent_server", worker_row_s=worker_row_s, server_row_s=server_row_s,
                   slow=(Slow(kind="server", index=index, factor=factor),))  # fmt: skip


def mixed_devices(
    *, worker_row_s: float, server_row_s: float = 0.0, factors: Sequence[float] = (1.0, 1.0, 3.0, 3.0)
) -> Pattern:
    """Return the pattern in which workers run on devices of different speed; starting one again does not help."""
    slow = tuple(Slow(index=index, factor=factor, heals=False) for index, factor in enumerate(factors) if factor > 1)
    return Pattern(name="mixed_devices", worker_row_s=worker_row_s, server_row_s=server_row_s, slow=slow)
