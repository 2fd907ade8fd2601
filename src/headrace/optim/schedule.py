"""Schedules: how the learning rate of a table changes from update to update.

A schedule is a `Schedule`: called with the number of an update (1, 2, ...), it gives the factor, 0 or more, that
multiplies the rule's rate. It keeps no state, so a table that is restored goes on where it was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from headrace.config import require
from headrace.protocols import Schedule


def _steps(what: str, steps: int) -> None:
    require(type(steps) is int and steps >= 1, what, got=steps,
            expected="a number of updates, at least 1")  # fmt: skip


def _part(what: str, value: float) -> None:
    require(0.0 <= value <= 1.0, what, got=value, expected="a number in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The same factor at every update.

    Attributes:
        factor: Multiplies the rate.
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        require(0.0 <= self.factor < math.inf, "Constant.factor", got=self.factor, expected="a number of at least 0")

    def __call__(self, step: int) -> float:
        """Return `factor`."""
        return self.factor


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """Rises in a straight line to 1 at update `steps` and stays there.

    Attributes:
        steps: The first update at the full rate.
        start: Where the line begins, at update 0.

    Example:
        >>> [Warmup(steps=4)(step) for step in (1, 2, 4, 100)]
        [0.25, 0.5, 1.0, 1.0]
    """

    steps: int
    start: float = 0.0

    def __post_init__(self) -> None:
        _steps("Warmup.steps", self.steps)
        _part("Warmup.start", self.start)

    def __call__(self, step: int) -> float:
        """Return the factor of update `step`."""
        return 1.0 if step >= self.steps else self.start + (1.0 - self.start) * (step / self.steps)


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Falls in a straight line from 1 at update 0 to `floor` at update `steps` and stays there.

    Attributes:
        steps: The first update at the floor.
        floor: The last factor.
    """

    steps: int
    floor: float = 0.0

    def __post_init__(self) -> None:
        _steps("Linear.steps", self.steps)
        _part("Linear.floor", self.floor)

    def __call__(self, step: int) -> float:
        """Return the factor of update `step`."""
        return self.floor if step >= self.steps else 1.0 - (1.0 - self.floor) * (step / self.steps)


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Falls along half a cosine from 1 at update 0 to `floor` at update `steps` and stays there.

    Attributes:
        steps: The first update at the floor.
        floor: The last factor.

    Source:
        Loshchilov, Hutter 2017, equation 5, without restarts.
    """

    steps: int
    floor: float = 0.0

    def __post_init__(self) -> None:
        _steps("Cosine.steps", self.steps)
        _part("Cosine.floor", self.floor)

    def __call__(self, step: int) -> float:
        """Return the factor of update `step`."""
        if step >= self.steps:
            return self.floor
        return self.floor + (1.0 - self.floor) * (0.5 * (1.0 + math.cos(math.pi * step / self.steps)))


@dataclass(frozen=True, kw_only=True)
class InverseSqrt:
    """Rises in a straight line to 1 at update `warmup`, then falls as the root: ``sqrt(warmup / step)``.

    Attributes:
        warmup: The update with the full rate.

    Source:
        Vaswani et al. 2017, equation 3, scaled to a peak of 1.
    """

    warmup: int

    def __post_init__(self) -> None:
        _steps("InverseSqrt.warmup", self.warmup)

    def __call__(self, step: int) -> float:
        """Return the factor of update `step`."""
        return step / self.warmup if step < self.warmup else math.sqrt(self.warmup / step)


@dataclass(frozen=True, kw_only=True)
class Stairs:
    """Multiplies by `factor` after every `every` updates, down to `floor`.

    Attributes:
        every: Updates on one stair.
        factor: From one stair to the next.
        floor: The least factor.
    """

    every: int
    factor: float
    floor: float = 0.0

    def __post_init__(self) -> None:
        _steps("Stairs.every", self.every)
        _part("Stairs.factor", self.factor)
        _part("Stairs.floor", self.floor)

    def __call__(self, step: int) -> float:
        """Return the factor of update `step`; the first `every` updates have 1."""
        stair = max(step - 1, 0) // self.every
        return float(max(self.floor, self.factor**stair))


@dataclass(frozen=True)
class Chain:
    """One schedule after another, each counting its updates from 1.

    Attributes:
        parts: (schedule, updates it lasts); the last one goes on for ever, whatever its number.

    Example:
        >>> warm_then_fall = Chain(((Warmup(steps=2), 2), (Linear(steps=4), 4)))
        >>> [warm_then_fall(step) for step in (1, 2, 3, 4, 6, 9)]
        [0.5, 1.0, 0.75, 0.5, 0.0, 0.0]
    """

    parts: tuple[tuple[Schedule, int], ...]

    def __post_init__(self) -> None:
        require(len(self.parts) > 0, "Chain.parts", got=self.parts, expected="at least one (schedule, updates)")
        for _, steps in self.parts:
            _steps("Chain.parts, updates of one", steps)

    def __call__(self, step: int) -> float:
        """Return the factor of update `step`."""
        for schedule, steps in self.parts[:-1]:
            if step <= steps:
                return schedule(step)
            step -= steps
        return self.parts[-1][0](step)


@dataclass(frozen=True)
class Product:
    """Several schedules at once: their factors are multiplied.

    Attributes:
        parts: The schedules.

    Example:
        >>> Product((Warmup(steps=10), Constant(factor=0.5)))(5)
        0.25
    """

    parts: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        require(len(self.parts) > 0, "Product.parts", got=self.parts, expected="at least one schedule")

    def __call__(self, step: int) -> float:
        """Return the factor of update `step`."""
        return math.prod(part(step) for part in self.parts)
