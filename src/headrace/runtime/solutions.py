"""Solutions decide from a view of all nodes; here is what one is, and the known ways that ours is compared with."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from headrace.config import require, tree
from headrace.errors import ConfigError
from headrace.runtime.actions import AdjustBatch, Backup, Decision, Nothing
from headrace.runtime.balance import share_batch
from headrace.runtime.monitor import View


@runtime_checkable
class Solution(Protocol):
    """Decides what to do about slow nodes; a frozen dataclass without state of its own.

    What it must remember (when it last changed something, what it tried) the controller remembers for it.
    """

    def decide(self, view: View) -> Sequence[Decision]:
        """Return what to do now, with numbers and reasons; `Nothing` says why not."""
        ...


@dataclass(frozen=True, kw_only=True)
class Hysteresis:
    """What keeps noise from becoming changes.

    Attributes:
        ratio: A node is out of line when it takes so many times the mean, or the mean so many times what it takes.
        min_change: A change must move somebody's rows by this share.
        min_interval: Steps between two changes, unless the newer one gains more than `urgent`.
        urgent: Gain (time now over time then, less one) that waits for no interval.
        patience: Samples of a node before it is judged.
        doubts: Standard errors by which a ratio must be passed.
    """

    ratio: float = 1.3
    min_change: float = 0.05
    min_interval: int = 10
    urgent: float = 0.5
    patience: int = 3
    doubts: float = 2.0

    def __post_init__(self) -> None:
        require(self.ratio > 1, "Hysteresis: ratio", got=self.ratio, expected="a number above 1")
        require(0 <= self.min_change < 1, "Hysteresis: min_change", got=self.min_change, expected="a share below 1")
        require(self.min_interval >= 0 and self.patience >= 1, "Hysteresis: min_interval, patience",
                got=(self.min_interval, self.patience), expected="steps from 0, samples from 1")  # fmt: skip

    def out_of_line(
        self, times: np.ndarray[Any, np.dtype[np.float64]], noise: np.ndarray[Any, np.dtype[np.float64]],
        samples: np.ndarray[Any, np.dtype[np.int64]],
    ) -> np.ndarray[Any, np.dtype[np.bool_]]:  # fmt: skip
        """Return which times are too long or too short for their mean, beyond doubt."""
        away = np.abs(np.log(times / times.mean()))
        doubt = self.doubts * noise / np.sqrt(np.maximum(samples, 1))
        found: np.ndarray[Any, np.dtype[np.bool_]] = (away > np.log(self.ratio) + doubt) & (samples >= self.patience)
        return found


@dataclass(frozen=True, kw_only=True)
class Static:
    """Bulk-synchronous training as it is: equal parts, and everybody waits for the slowest."""

    def decide(self, view: View) -> Sequence[Decision]:
        """Return that nothing is done."""
        return (Decision(Nothing("equal parts, by choice"), "Static changes nothing"),)


@dataclass(frozen=True, kw_only=True)
class Asp:
    """Asynchronous training as it is: nobody waits for anybody, shards go to whoever asks."""

    asynchronous: bool = True

    def decide(self, view: View) -> Sequence[Decision]:
        """Return that nothing is done."""
        return (Decision(Nothing("no step to balance" if self.asynchronous else "equal parts"), "Asp changes nothing"),)


@dataclass(frozen=True, kw_only=True)
class BackupWorkers:
    """A step takes the first workers to finish and does not wait for `count` of them; their rows are learned later.

    Source:
        Chen et al. 2016 (arXiv 1604.00981); there the late gradients' samples are lost, here they go back to the queue.
    """

    backs_up: ClassVar[bool] = True
    count: int = 1

    def __post_init__(self) -> None:
        require(self.count >= 1, "BackupWorkers: count", got=self.count, expected="at least 1")

    def decide(self, view: View) -> Sequence[Decision]:
        """Return the number of backup workers, once; fewer when fewer would be left."""
        count = min(self.count, max(len(view.workers.names) - 1, 0))
        if count == view.backup:
            return (Decision(Nothing("as many backup workers as wanted"), "nothing to change"),)
        return (Decision(Backup(count), f"steps do not wait for the slowest {count}",
                         {"workers": len(view.workers.names)}),)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LbBsp:
    """Equal times by unequal batches, over and over; the load-balanced BSP that ours is compared with.

    Attributes:
        every: Steps between two adjustments.
        rows_min: Rows that every worker takes at least.

    Source:
        Chen et al. 2020, semi-dynamic load balancing: sizes follow the predicted speeds at step borders. Here the
        prediction is the mean of the short window.
    """

    every: int = 5
    rows_min: int = 1

    def __post_init__(self) -> None:
        require(self.every >= 1, "LbBsp: every", got=self.every, expected="at least 1 step")
        require(self.rows_min >= 1, "LbBsp: rows_min", got=self.rows_min, expected="at least 1 row")

    def decide(self, view: View) -> Sequence[Decision]:
        """Return sizes that follow the speeds."""
        workers = view.workers
        if view.since_change < self.every or not workers.known().all() or len(workers.names) < 2:
            return (Decision(Nothing("not yet"), f"{view.since_change} steps since the last adjustment"),)
        rows = share_batch(view.batch, workers.speeds(), low=self.rows_min)
        sizes = dict(zip(workers.names, rows, strict=True))
        if sizes == dict(view.sizes):
            return (Decision(Nothing("balanced"), "sizes follow the speeds already"),)
        return (Decision(AdjustBatch(sizes), "sizes follow the speeds", {"row_s": rounded(workers.row_s)}),)


@dataclass(frozen=True, kw_only=True)
class Together:
    """Several solutions; each sees the same view, and all that they want is done.

    Attributes:
        solutions: In the order in which they decide.
    """

    solutions: tuple[Solution, ...]

    def decide(self, view: View) -> Sequence[Decision]:
        """Return the decisions of all."""
        return tuple(decision for solution in self.solutions for decision in solution.decide(view))


def backs_up(solution: object) -> bool:
    """Return whether a solution, or one inside it, says that it orders backup workers (`backs_up = True`).

    Example:
        >>> backs_up(Together(solutions=(Static(), BackupWorkers()))), backs_up(LbBsp())
        (True, False)
    """
    inside = getattr(solution, "solutions", ())
    return bool(getattr(solution, "backs_up", False)) or any(backs_up(one) for one in inside)


def rounded(values: Sequence[float] | np.ndarray[Any, np.dtype[np.float64]]) -> list[float | None]:
    """Return numbers with five digits for a log; None for what is not known."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values]


def solution_json(solution: Solution) -> dict[str, Any]:
    """Return a solution as plain values, with the name to import it by.

    Example:
        >>> solution_json(BackupWorkers(count=2))
        {'type': 'headrace.runtime.solutions:BackupWorkers', 'count': 2}
    """
    plain = tree(solution)
    if not isinstance(plain, dict):
        raise ConfigError("Solution", got=repr(solution), expected="a frozen dataclass")
    return plain


def solution_from_json(plain: Mapping[str, Any]) -> Any:
    """Read what `solution_json` returned; a name is an import, so solutions of other packages work as well.

    Raises:
        ConfigError: If there is no such class, or it has other fields.
    """
    name = str(plain.get("type", ""))
    home, _, kind_name = name.partition(":")
    try:
        kind = getattr(importlib.import_module(home), kind_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError("Solution", got=repr(name), expected="module:Class that can be imported") from error
    require(isinstance(kind, type) and is_dataclass(kind), "Solution", got=repr(name), expected="a dataclass")
    known = {each.name for each in fields(kind)}
    given = {key: _value(value) for key, value in plain.items() if key != "type"}
    require(
        set(given) <= known, f"Solution {kind_name}", got=sorted(set(given) - known), expected=f"of {sorted(known)}"
    )
    return kind(**given)


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        own = {key: _value(each) for key, each in value.items()}
        return solution_from_json(value) if "type" in value else own
    return tuple(_value(each) for each in value) if isinstance(value, list) else value
