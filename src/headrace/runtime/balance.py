"""Whole rows for unequal workers: the split that makes the slowest of them as fast as possible."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headrace.config import require
from headrace.errors import ConfigError

Floats = npt.NDArray[np.float64]
PLANS_MAX = 100_000
"""Combinations of accumulation counts that are looked through at most."""


def share_batch(total: int, speeds: Sequence[float] | Floats, *, low: int = 1, high: int | None = None) -> list[int]:
    """Split a batch so that the longest of `rows / speed` is as short as it can be with whole rows.

    Args:
        total: Rows of the batch; the parts sum to it exactly.
        speeds: Rows a second of every worker, positive.
        low: Rows that every worker takes at least.
        high: Rows that a worker can take at most.

    Raises:
        ConfigError: If the limits leave no way to split.

    Example:
        >>> share_batch(3000, [4.0, 4.0, 1.0])
        [1334, 1333, 333]
    """
    rates = np.asarray(speeds, dtype=np.float64)
    require(bool(rates.size) and bool(np.isfinite(rates).all()) and bool((rates > 0).all()), "share_batch: speeds",
            got=list(speeds), expected="positive numbers")  # fmt: skip
    count = len(rates)
    tops = np.full(count, total if high is None else high, dtype=np.int64)
    return level_rows(total, 1.0 / rates, np.zeros(count), np.full(count, low, dtype=np.int64), tops)


def level_rows(
    total: int, row_s: Floats, fixed_s: Floats, low: npt.NDArray[np.int64], high: npt.NDArray[np.int64]
) -> list[int]:
    """Return whole rows per device that minimise the longest `fixed_s + row_s * rows` within limits.

    Water filling: the highest level under which all rows still fit is found by halving; what is left over goes, row by
    row, to the device that is finished first with one more.

    Shapes:
        row_s, fixed_s, low, high (N,).

    Cost:
        O(N log(range) + N log N).

    Raises:
        ConfigError: If the limits leave no way to split.
    """
    require(int(low.sum()) <= total <= int(high.sum()) and bool((low <= high).all()), "A batch's split",
            got=f"{total} rows for limits that allow {int(low.sum())} to {int(high.sum())}",
            expected="a batch within the limits", do="Change the batch or the limits of the devices.")  # fmt: skip

    def under(level: float) -> npt.NDArray[np.int64]:
        return np.clip(np.floor((level - fixed_s) / row_s), low, high).astype(np.int64)

    bottom, top = float(fixed_s.min()), float((fixed_s + row_s * high).max())
    for _ in range(80):
        middle = (bottom + top) / 2
        bottom, top = (middle, top) if under(middle).sum() <= total else (bottom, middle)
    rows = under(bottom) if under(bottom).sum() <= total else low.copy()
    queue = [(fixed_s[place] + row_s[place] * (rows[place] + 1), place)
             for place in range(len(rows)) if rows[place] < high[place]]  # fmt: skip
    heapq.heapify(queue)
    for _ in range(total - int(rows.sum())):
        _, place = heapq.heappop(queue)
        rows[place] += 1
        if rows[place] < high[place]:
            heapq.heappush(queue, (fixed_s[place] + row_s[place] * (rows[place] + 1), place))
    return [int(each) for each in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceClass:
    """Devices of one kind; a micro-batch of b rows takes `step_s + row_s * b` seconds on each of them.

    Attributes:
        count: How many there are.
        row_s: Seconds by row.
        step_s: Seconds of a micro-batch of any size.
        rows_min: Rows of a micro-batch below which the device is not busy.
        rows_max: Rows of a micro-batch that its memory takes.
    """

    count: int
    row_s: float
    step_s: float = 0.0
    rows_min: int = 1
    rows_max: int = 1 << 30

    def __post_init__(self) -> None:
        require(self.count >= 1, "DeviceClass: count", got=self.count, expected="at least one device")
        require(self.row_s > 0 and self.step_s >= 0, "DeviceClass: row_s, step_s", got=(self.row_s, self.step_s),
                expected="seconds, row_s above 0")  # fmt: skip
        require(1 <= self.rows_min <= self.rows_max, "DeviceClass: rows_min, rows_max",
                got=(self.rows_min, self.rows_max), expected="1 <= rows_min <= rows_max")  # fmt: skip


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """How mixed devices share a batch.

    Attributes:
        rows: Rows of every device of every class; devices of a class differ by one row at most.
        accumulation: Micro-batches of a class, of sizes that differ by one row at most.
        seconds: How long the slowest device takes.
    """

    rows: tuple[tuple[int, ...], ...]
    accumulation: tuple[int, ...]
    seconds: float


def plan_devices(classes: Sequence[DeviceClass], batch: int, *, accumulation_max: int = 8) -> DevicePlan:
    """Choose rows and accumulation counts so that all devices end together, with the batch exact.

    Only the last micro-batch of a step communicates, so accumulation costs `step_s` each time; it is there for memory.
    All combinations of counts are looked through, cheapest bound first; a combination whose bound is not below the best
    plan found ends the search.

    Args:
        classes: The kinds of devices.
        batch: Rows of a step, over all devices.
        accumulation_max: Micro-batches of a step at most.

    Raises:
        ConfigError: If no combination can take the batch.

    Source:
        AntDT-DD (arXiv 2404.09679), from our notes; the exact integer split is ours.

    Example:
        >>> plan_devices([DeviceClass(count=2, row_s=1.0), DeviceClass(count=2, row_s=3.0)], 80).rows
        ((30, 30), (10, 10))
    """
    require(len(classes) > 0, "plan_devices: classes", got="none", expected="at least one kind of device")
    require(accumulation_max >= 1, "plan_devices: accumulation_max", got=accumulation_max, expected="at least 1")
    require(accumulation_max ** len(classes) <= PLANS_MAX, "plan_devices", got=f"{len(classes)} kinds of devices",
            expected=f"at most {PLANS_MAX:,} combinations of accumulation counts",
            do="Join devices of like speed into one kind.")  # fmt: skip
    best: DevicePlan | None = None
    for bound, counts in sorted(_bounds(classes, batch, accumulation_max)):
        if best is not None and bound >= best.seconds:
            break
        plan = _with_counts(classes, batch, counts)
        if best is None or plan.seconds < best.seconds:
            best = plan
    if best is None:
        smallest = sum(kind.count * kind.rows_min for kind in classes)
        largest = sum(kind.count * kind.rows_max * accumulation_max for kind in classes)
        raise ConfigError("plan_devices: batch", got=batch, expected=f"{smallest:,} to {largest:,} rows",
                          do="Allow more accumulation or another batch.")  # fmt: skip
    return best


def _bounds(classes: Sequence[DeviceClass], batch: int, most: int) -> list[tuple[float, tuple[int, ...]]]:
    """Return combinations that can take the batch, each with the time that it takes at least (limits left out)."""
    speed = sum(kind.count / kind.row_s for kind in classes)
    found = []
    for counts in itertools.product(range(1, most + 1), repeat=len(classes)):
        pairs = list(zip(classes, counts, strict=True))
        if (sum(kind.count * kind.rows_min * times for kind, times in pairs) <= batch
                <= sum(kind.count * kind.rows_max * times for kind, times in pairs)):  # fmt: skip
            fixed = sum(kind.count * times * kind.step_s / kind.row_s for kind, times in pairs)
            least = max(times * (kind.step_s + kind.row_s * kind.rows_min) for kind, times in pairs)
            found.append((max((batch + fixed) / speed, least), counts))
    return found


def _with_counts(classes: Sequence[DeviceClass], batch: int, counts: Sequence[int]) -> DevicePlan:
    sizes = [kind.count for kind in classes]

    def each(values: Sequence[float]) -> Floats:
        return np.repeat(np.asarray(values, dtype=np.float64), sizes)

    row_s = each([kind.row_s for kind in classes])
    fixed_s = each([kind.step_s * times for kind, times in zip(classes, counts, strict=True)])
    low = each([kind.rows_min * times for kind, times in zip(classes, counts, strict=True)]).astype(np.int64)
    high = each([min(kind.rows_max * times, batch) for kind, times in zip(classes, counts, strict=True)])
    flat = np.asarray(level_rows(batch, row_s, fixed_s, low, high.astype(np.int64)))
    ends = np.cumsum(sizes)[:-1]
    return DevicePlan(
        tuple(tuple(int(one) for one in part) for part in np.split(flat, ends)), tuple(counts),
        float((fixed_s + row_s * flat).max()),
    )  # fmt: skip


def micro_batches(rows: int, count: int) -> list[int]:
    """Return the sizes of so many micro-batches that together are `rows`, the larger ones first.

    Example:
        >>> micro_batches(10, 3)
        [4, 3, 3]
    """
    require(1 <= count <= max(rows, 1), "micro_batches: count", got=count, expected=f"from 1 to {rows}")
    small, more = divmod(rows, count)
    return [small + (place < more) for place in range(count)]


def batch_scale(rows: int, before: int, rule: str = "linear") -> float:
    """Return the factor on learning rates when a global batch of `before` rows becomes one of `rows`.

    Example:
        >>> batch_scale(2048, 512), batch_scale(2048, 512, "sqrt"), batch_scale(2048, 512, "none")
        (4.0, 2.0, 1.0)
    """
    require(rule in ("linear", "sqrt", "none"), "batch_scale: rule", got=rule, expected="'linear', 'sqrt' or 'none'")
    ratio = rows / before
    return {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[rule]
