"""What the learner remembers about published versions, so that `changes(since)` can say what happened after each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from headrace.errors import StaleError
from headrace.types import NO_VERSION, State


@dataclass(frozen=True, slots=True)
class Mark:
    """Where the learner stood when a version was made.

    Attributes:
        tables: Table name to the table's own mark; None when the change after it has to be a full one: at the very
            beginning, and after a change of schema.
        examples: Examples learned.
        positives, negatives: How many of them had a known accepted time.
        loss_sum: Sum of their losses.
    """

    tables: Mapping[str, int] | None = None
    examples: int = 0
    positives: int = 0
    negatives: int = 0
    loss_sum: float = 0.0

    def state(self) -> State:
        """Return the mark as plain values."""
        return {"tables": None if self.tables is None else dict(self.tables), "examples": self.examples,
                "positives": self.positives, "negatives": self.negatives, "loss_sum": self.loss_sum}  # fmt: skip

    @staticmethod
    def from_state(state: State) -> Mark:
        """Read what `state` returned."""
        return Mark(**cast(dict[str, object], state))  # type: ignore[arg-type]


class TimeLog:
    """A growing list of times (µs) of which the old end can be forgotten; places count from the beginning of time."""

    def __init__(self) -> None:
        self._start, self._parts = 0, [torch.zeros(0, dtype=torch.int64)]

    def __len__(self) -> int:
        return self._start + sum(part.numel() for part in self._parts)

    def add(self, times: Tensor) -> None:
        """Append times (N,) int64."""
        if times.numel():
            self._parts.append(times.detach().clone())

    def since(self, place: int) -> Tensor:
        """Return the times at `place` and after it."""
        return self._whole()[max(place - self._start, 0) :].clone()

    def forget(self, place: int) -> None:
        """Drop the times before `place`."""
        if place > self._start:
            self._parts = [self._whole()[place - self._start :].clone()]
            self._start = place

    def state(self) -> State:
        """Return times kept and where they start."""
        return {"start": self._start, "times": self._whole().clone()}

    def restore(self, state: State) -> None:
        """Continue."""
        self._start, self._parts = cast(int, state["start"]), [cast(Tensor, state["times"]).clone()]

    def _whole(self) -> Tensor:
        if len(self._parts) > 1:
            self._parts = [torch.cat(self._parts)]
        return self._parts[0]


class VersionMarks:
    """Marks of the newest published versions; the version before the first, -1, is the beginning.

    Args:
        keep: How many to keep.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._marks: dict[int, Mark] = {NO_VERSION: Mark()}

    def base(self, number: int) -> Mark:
        """Return the mark of a version.

        Raises:
            StaleError: If the version is not known here: made by another learner, in the future, or too long ago.
        """
        if number not in self._marks:
            raise StaleError(
                f"Changes since version {number}", got="a version that this learner has no mark of",
                expected=f"one of {sorted(self._marks)}",
                do="Restore the learner's checkpoint that belongs to this change log, or start an empty log.",
            )  # fmt: skip
        return self._marks[number]

    def set(self, number: int, mark: Mark) -> None:
        """Record where version `number` stands; marks after it belong to a future that did not happen.

        The predecessor stays, because the version may have to be made again; of earlier ones the newest stay.
        """
        kept = sorted(other for other in self._marks if other < number)[-self._keep :]
        self._marks = {other: self._marks[other] for other in kept} | {number: mark}

    @property
    def oldest(self) -> Mark:
        """The mark of the oldest version that changes can still be asked for."""
        return self._marks[min(self._marks)]

    @property
    def oldest_tables(self) -> Mapping[str, int] | None:
        """The oldest table marks that changes can still be asked for; None while every change would be full."""
        return next((mark.tables for _, mark in sorted(self._marks.items()) if mark.tables is not None), None)

    @property
    def newest(self) -> int:
        """The newest version that has a mark."""
        return max(self._marks)

    def state(self) -> State:
        """Return all marks."""
        return {str(number): mark.state() for number, mark in sorted(self._marks.items())}

    def restore(self, state: State) -> None:
        """Continue."""
        self._marks = {int(number): Mark.from_state(cast(State, mark)) for number, mark in state.items()}
