"""Where the time of a step goes: seconds per stage on the learning thread, and beside it.

A stage's time is its own: what a stage inside it takes is not counted twice, so that stages add up to the whole.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch

from headrace.types import State

STAGES = (
    "read", "wait", "predict", "feedback", "join", "judge", "lookup", "forward", "backward", "dense update",
    "table update", "checks", "publish", "save", "other",
)  # fmt: skip
"""In the order in which a step goes through them."""

BESIDE = ("read", "publish", "save")
"""What other threads may do at the same time."""


class StageTimes:
    """Seconds per stage. One thread learns and enters stages; others add what they did beside it.

    Example:
        >>> times = StageTimes()
        >>> with times.stage("forward"):
        ...     with times.stage("lookup"):
        ...         pass
        >>> times.count()
        >>> sorted(times.seconds), times.steps
        (['forward', 'lookup'], 1)
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.beside: dict[str, float] = {}
        self.steps = 0
        self._inside: list[str] = []
        self._since = 0.0
        self._lock = threading.Lock()

    @property
    def inside(self) -> bool:
        """Whether a stage is being timed."""
        return bool(self._inside)

    def enter(self, name: str) -> None:
        """Begin a stage; the one around it rests."""
        now = time.perf_counter()
        if self._inside:
            self._add(self._inside[-1], now - self._since)
        self._inside.append(name)
        self._since = now

    def leave(self) -> None:
        """End the innermost stage."""
        now = time.perf_counter()
        self._add(self._inside.pop(), now - self._since)
        self._since = now

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside; an error that leaves stages open inside closes them."""
        depth = len(self._inside)
        self.enter(name)
        try:
            yield
        finally:
            while len(self._inside) > depth:
                self.leave()

    def add_beside(self, name: str, seconds: float) -> None:
        """Count time that another thread spent."""
        with self._lock:
            self.beside[name] = self.beside.get(name, 0.0) + seconds

    def count(self) -> None:
        """Count a step."""
        self.steps += 1

    def watch(self, part: object, method: str, stage: str) -> None:
        """Time a method of a part from now on, as a stage."""
        inner = getattr(part, method)

        def timed(*arguments: Any, **named: Any) -> Any:
            with self.stage(stage):
                return inner(*arguments, **named)

        setattr(part, method, timed)

    def totals(self) -> State:
        """Return the times so far, to be kept with a run or shown."""
        with self._lock:
            return {"steps": self.steps, "seconds": dict(self.seconds), "beside": dict(self.beside)}

    def go_on(self, totals: Mapping[str, object]) -> None:
        """Go on counting from earlier times."""
        self.steps = int(cast(int, totals["steps"]))
        self.seconds = dict(cast(dict[str, float], totals["seconds"]))
        with self._lock:
            self.beside = dict(cast(dict[str, float], totals["beside"]))

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


def lookups_timed(times: StageTimes) -> tuple[Callable[..., None], Callable[..., None]]:
    """Return a hook before and one after the forward pass of a collection; they time lookups inside a step only."""

    def before(*_: object) -> None:
        if times.inside and _learning():
            times.enter("lookup")

    def after(*_: object) -> None:
        if times.inside and _learning():
            times.leave()

    return before, after


def _learning() -> bool:
    """Return whether this thread computes gradients; threads that score beside it do not."""
    return torch.is_grad_enabled()
