"""The joiner: impressions meet their later actions, in event time, and become labelled examples.

The watermark is the newest event time seen minus the allowed lateness. A positive is emitted as soon as its impression
and an action within the attribution window have met; a negative when the watermark reaches the end of the window.
Which examples come out (id, features, label) does not depend on the order or repetition of the input as long as every
event comes in while it is newer than the watermark; their order is a function of the sequence of pushes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.data.event_joiner import EventJoiner
from headrace.data.hashing import cross_ids
from headrace.data.join_columns import Columns
from headrace.data.join_config import JoinConfig, JoinCounts, JoinStats
from headrace.data.join_input import Arrived, accepted_times, take_apart
from headrace.data.join_ledger import CLOSED, PENDING, POSITIVE, Ledger
from headrace.data.join_state import (
    actions_state,
    columns_state,
    pending_state,
    read_actions,
    read_columns,
    read_integers,
    read_rows,
    values_state,
)
from headrace.data.join_waiting import Actions, WaitingActions
from headrace.data.spill import DiskTier
from headrace.errors import ConfigError
from headrace.types import Events, State

__all__ = ["EventJoin", "EventJoiner", "JoinConfig", "JoinStats"]

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
NO_TIME = -(1 << 62)
ERASE_ROWS = 1 << 16
EMPTY: Integers = np.zeros(0, dtype=np.int64)


class EventJoin:
    """The keyed join of impressions with actions in event time.

    Rows pushed together are taken as having arrived together: all impressions first, then all actions, then the
    watermark moves. Rules, with t the impression's time, a the action's, W the window and w the watermark before the
    push:

    - An impression is pending until t + W <= w. One that arrives after that is late: counted, dropped. One whose
      example id is pending, or was emitted less than another W ago, is a duplicate: counted, dropped.
    - An action on a pending impression with t <= a <= t + W makes it positive, once; further ones are duplicates.
      With a > t + W, or after the impression was closed, it is late. With a < t it is an orphan.
    - An action without an impression waits until a + W <= w, which no impression that is accepted can miss; then it is
      an orphan. Its repeats (same example, kind and time) are duplicates.
    - Rows of other kinds are counted; their times move the watermark too, so a heartbeat ends a quiet stream's windows.
    - Examples of one push come out ordered by impression time, then by arrival. Hence, when an example of impression
      time T has come out, every example with t + W + lateness <= T has come out before it.

    Args:
        config: The settings.

    Cost: about 2 µs per impression in memory, most of it the hash of its id. Memory: the rows of at most
        `memory_rows` pending impressions, and about 120 bytes per impression of the last two windows.

    Example:
        >>> join = EventJoin(JoinConfig(window_s=10, lateness_s=0))
        >>> shown = {"key": ["r", "r"], "kind": ["impression"] * 2, "event_time": [0, 0], "item": ["a", "b"]}
        >>> join.push(Events.from_columns(shown)) is None
        True
        >>> click = {"key": ["r"], "kind": ["click"], "event_time": [3_000_000], "item": ["b"]}
        >>> join.push(Events.from_columns(click)).column("item").to_pylist()
        ['b']
        >>> join.flush().column("label").to_pylist()
        [0.0]
    """

    def __init__(self, config: JoinConfig) -> None:
        self.config = config
        self.counts = JoinCounts()
        self._newest, self._floor = NO_TIME, NO_TIME
        self._columns, self._waiting = Columns(), WaitingActions()
        self._ledger = self._fresh_ledger(self._columns)

    def _fresh_ledger(self, columns: Columns) -> Ledger:
        disk = DiskTier(self.config.spill) if self.config.spill is not None else None
        return Ledger(columns, self.config.memory_rows, disk)

    @property
    def watermark(self) -> int:
        """The event time up to which everything is taken as arrived; below all times before the first event."""
        return max(self._newest - self.config.lateness, self._floor) if self._newest > NO_TIME else self._floor

    def push(self, events: Events, *more: Events) -> Events | None:
        """Take rows that arrived together and return the examples that are complete now, or None.

        Args:
            events: Impressions, actions, or both.
            *more: Further rows of the same moment.

        Raises:
            JoinError: If a key, item or time is missing, or a column changed its type; nothing was changed.
        """
        arrived = take_apart((events, *more), self.config)
        self._columns.admit(self._columns.checked(arrived.impressions))  # the last check: from here nothing is refused
        self.counts.other_rows += arrived.other_rows
        self.counts.ahead_rows += arrived.ahead_rows
        shown = self._add_impressions(arrived)
        positives, actions = self._meet(Actions.concat(self._waiting.claim(shown), arrived.actions))
        if arrived.newest is not None:
            self._newest = max(self._newest, arrived.newest)
        return self._emit(positives, actions)

    def flush(self) -> Events | None:
        """End of stream: return the examples still pending, as if the watermark had passed everything."""
        if self._newest > NO_TIME:
            self._floor = max(self._floor, self._newest + self.config.window)
        return self._emit(EMPTY, Actions.none())

    def stats(self) -> JoinStats:
        """Return where the join stands."""
        counts, ledger, seen = self.counts, self._ledger, self._newest > NO_TIME
        oldest = min((chunk.first_open for chunk in ledger.chunks if chunk.open_rows), default=-1)
        return JoinStats(
            pending=ledger.pending, in_memory=ledger.in_memory, on_disk=ledger.spilled, waiting=len(self._waiting),
            positives=counts.positives, negatives=counts.negatives, sampled_out=counts.sampled_out,
            late=counts.late_impressions + counts.late_actions, orphan=counts.orphan_actions,
            duplicate=counts.duplicate_impressions + counts.duplicate_actions,
            other=counts.other_rows + counts.ahead_rows, watermark=self.watermark if seen else -1,
            newest=self._newest if seen else -1, oldest_pending=oldest, erased=counts.erased,
        )  # fmt: skip

    def erase(self, chosen: Callable[[pa.RecordBatch], Mask]) -> int:
        """Drop the pending impressions that `chosen` picks, and every copy of their rows, on disk as well.

        They count as closed: an action on one of them is late, and the same impression again a duplicate.

        Args:
            chosen: Given rows of impressions, returns which of them (N,) go.

        Returns:
            Impressions dropped.

        Cost: reads and writes the rows of all pending impressions once.
        """
        numbers, gone = self._ledger.pending_numbers(), [EMPTY]
        for start in range(0, len(numbers), ERASE_ROWS):
            part = numbers[start : start + ERASE_ROWS]
            gone.append(part[chosen(self._ledger.rows(part))])
        dropped = np.concatenate(gone)
        self._ledger.mark(dropped, CLOSED)
        self.counts.erased += len(dropped)
        self.restore(self.state())  # a chunk keeps rows until all of it is closed; a fresh ledger has the pending only
        return len(dropped)

    def close(self) -> None:
        """Delete the disk tier's files; the join cannot be used afterwards."""
        self._ledger.close()

    def _add_impressions(self, arrived: Arrived) -> Integers:
        """Put the new ones among the arrived impressions into the ledger and return their ids."""
        ids, rows = arrived.ids, arrived.impressions
        if not len(ids):
            return EMPTY
        rows = self._columns.conform(rows)
        times = np.asarray(rows.column(rows.schema.get_field_index("event_time")).to_numpy(zero_copy_only=False))
        known = self._find(ids)[0]
        first = np.zeros(len(ids), dtype=bool)
        first[np.unique(ids, return_index=True)[1]] = True
        fresh = first & (known < 0)
        late = fresh & (times + self.config.window <= self.watermark)
        self.counts.duplicate_impressions += int(len(ids) - fresh.sum())
        self.counts.late_impressions += int(late.sum())
        kept = fresh & ~late
        if not kept.any():
            return EMPTY
        if not kept.all():
            ids, rows = ids[kept], rows.filter(pa.array(kept))
        self._ledger.add(ids, rows)
        return ids

    def _find(self, ids: Integers) -> tuple[Integers, Integers, npt.NDArray[np.int8]]:
        """Return numbers (-1 = not known), times and fates; what is old enough to be forgotten is not known."""
        numbers = self._ledger.find(ids)
        times, fates = np.zeros(len(ids), dtype=np.int64), np.full(len(ids), CLOSED, dtype=np.int8)
        known = np.flatnonzero(numbers >= 0)
        times[known], fates[known] = self._ledger.times_and_fates(numbers[known])
        forgotten = (fates != PENDING) & (times <= self._forget_until())
        return np.where(forgotten, -1, numbers), times, fates

    def _forget_until(self) -> int:
        return max(self.watermark - 2 * self.config.window, NO_TIME)

    def _meet(self, actions: Actions) -> tuple[Integers, Actions]:
        """Decide every action; return the numbers of impressions that became positive, and their actions."""
        counts, window = self.counts, self.config.window
        if not len(actions):
            return EMPTY, actions
        numbers, times, fates = self._find(actions.ids)
        unknown = numbers < 0
        can_wait = unknown & (actions.times + window > self.watermark)
        counts.orphan_actions += int((unknown & ~can_wait).sum())
        counts.duplicate_actions += self._waiting.add(actions.take(can_wait))
        early = ~unknown & (actions.times < times)
        counts.orphan_actions += int(early.sum())
        late = ~unknown & ~early & ((actions.times > times + window) | (fates == CLOSED))
        counts.late_actions += int(late.sum())
        within = np.flatnonzero(~unknown & ~early & ~late)
        meets = within[fates[within] == PENDING]
        meets = np.sort(meets[np.unique(numbers[meets], return_index=True)[1]])  # an impression's first action counts
        counts.duplicate_actions += len(within) - len(meets)
        self._ledger.mark(numbers[meets], POSITIVE)
        counts.positives += len(meets)
        return numbers[meets], actions.take(meets)

    def _emit(self, positives: Integers, actions: Actions) -> Events | None:
        """Move on to the present watermark and return its examples."""
        watermark, window = self.watermark, self.config.window
        negatives = self._ledger.close_until(watermark - window) if watermark > NO_TIME else EMPTY
        self.counts.orphan_actions += self._waiting.expire(watermark - window)
        examples = self._examples(positives, actions, negatives)
        self._ledger.settle(self._forget_until())
        return examples

    def _examples(self, positives: Integers, actions: Actions, negatives: Integers) -> Events | None:
        rate = self.config.negative_rate
        if self.config.value:
            self.counts.sampled_out += len(negatives)
            negatives = EMPTY  # nobody said what they are worth
        if rate < 1 and len(negatives):
            kept = negatives[self._keeps(self._ledger.ids(negatives))]
            self.counts.sampled_out += len(negatives) - len(kept)
            negatives = kept
        self.counts.negatives += len(negatives)
        numbers = np.concatenate([positives, negatives])
        if not len(numbers):
            return None
        order = np.lexsort((numbers, self._ledger.times_and_fates(numbers)[0]))
        rows = self._ledger.rows(numbers[order])
        is_positive = order < len(positives)
        padded = np.zeros(len(negatives), dtype=np.int64)
        action_times = np.concatenate([actions.times, padded])[order]
        accepted = np.concatenate([actions.accepted, padded])[order]
        columns: dict[str, pa.Array] = {name: rows.column(place) for place, name in enumerate(rows.schema.names)}
        head = {"key": columns.pop("key"), "kind": pa.array(["example"]).take(pa.array(np.zeros(len(order), np.int8)))}
        written = {
            "label": pa.array(np.concatenate([actions.values, np.zeros(len(negatives))])[order].astype(np.float32)),
            "example_id": pa.array(self._ledger.ids(numbers[order])),
            "sample_rate": pa.array(np.where(is_positive, 1.0, rate).astype(np.float32)),
            "action_time": pa.array(action_times),
            "accepted_time": pa.array(np.where(is_positive, accepted, accepted_times(rows))),
        }
        return Events.from_columns(head | columns | written)

    def _keeps(self, ids: Integers) -> npt.NDArray[np.bool_]:
        mixed = cross_ids([np.full(len(ids), self.config.seed, dtype=np.int64), ids]).view(np.uint64)
        kept: npt.NDArray[np.bool_] = (mixed >> np.uint64(11)) * 2.0**-53 < self.config.negative_rate
        return kept

    def state(self) -> State:
        """Return everything pending, waiting and remembered, the watermark and the counts.

        Rows on disk are part of it, so the disk tier need not survive anything.
        """
        ids, times, fates = self._ledger.remembered(self._forget_until())
        return {
            "settings": self._settings(), "newest": self._newest, "floor": self._floor,
            "columns": columns_state(self._columns), "pending": pending_state(self._ledger),
            "pending_ids": self._ledger.ids(self._ledger.pending_numbers()).tobytes(),
            "seen_ids": ids.tobytes(), "seen_times": times.tobytes(), "seen_fates": fates.tobytes(),
            "waiting": actions_state(self._waiting.actions), "values": values_state(self._waiting.actions),
            "counts": dict(self.counts.to_dict()),
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue from a state.

        Raises:
            ConfigError: If it was written with other settings; nothing was changed.
        """
        settings, own = state["settings"], self._settings()
        if settings != own:
            raise ConfigError("Join state", got=str(settings), expected=f"the settings of this join, {own}",
                              do="Restore with the settings it was written with.")  # fmt: skip
        columns, waiting = read_columns(_bytes(state["columns"])), WaitingActions()
        waiting.add(read_actions(_bytes(state["waiting"]), _bytes(state.get("values", b""))))
        seen = [read_integers(_bytes(state[name])) for name in ("seen_ids", "seen_times")]
        fates = np.frombuffer(_bytes(state["seen_fates"]), dtype=np.int8).copy()
        pending, ids = state["pending"], read_integers(_bytes(state["pending_ids"]))
        assert isinstance(pending, list)
        assert isinstance(state["counts"], dict)
        pieces = [read_rows(_bytes(piece)) for piece in pending]
        self._ledger.close()
        ledger = self._fresh_ledger(columns)
        ledger.remember(seen[0], seen[1], fates)
        for piece in pieces:
            ledger.add(ids[: piece.num_rows], piece)
            ids = ids[piece.num_rows :]
            ledger.settle(NO_TIME)  # spills as it fills
        self._columns, self._waiting, self._ledger = columns, waiting, ledger
        self._newest, self._floor = int(state["newest"]), int(state["floor"])  # type: ignore[arg-type]
        self.counts = JoinCounts(**{item.name: int(state["counts"].get(item.name, 0)) for item in fields(JoinCounts)})  # type: ignore[arg-type]

    def _settings(self) -> State:
        config = self.config
        return {
            "window": config.window, "lateness": config.lateness, "positive": list(config.positive),
            "negative_rate": config.negative_rate, "seed": config.seed, "max_ahead_s": config.max_ahead_s,
            **({"value": config.value} if config.value else {}),
        }  # fmt: skip


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value
