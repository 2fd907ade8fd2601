"""A checkpoint without some users: their rows leave the tables, and what waits to be learned of them is dropped.

A learner is edited where it is at rest: in its checkpoint, which holds all of it. So the same lines serve a learner in
a process of its own, the embedded loop, the simple models beside it and whatever wraps one of them.
"""

from __future__ import annotations

import json
from collections.abc import Collection

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from headrace.data.join_ledger import CLOSED
from headrace.data.join_state import read_integers, read_rows, write_rows
from headrace.data.subjects import UserColumns
from headrace.errors import CorruptSnapshot
from headrace.types import Events, State, StateValue

_ROWS = ("ids", "rows", "slots", "times", "marks", "frequencies")
_PENDING = ("pending_ids", "pending_counts", "pending_times")
_REMOVED = ("removed_ids", "removed_marks")


def erased_state(state: State, users: UserColumns, names: Collection[str]) -> State:
    """Return a checkpoint's state without any mention of some users.

    Of a table go their rows with slots, times and counts, their counts towards admission, and the record of earlier
    removals; a count-min sketch holds no id and stays. Of a join go their pending impressions, of a collator the rows
    that wait for a whole batch. Dense weights stay: what they have learned from a user cannot be told apart.

    The next `changes` of the learner say nothing of it: whoever publishes removes the rows from the versions.

    Args:
        state: What `ManifestCheckpoint.load` returned; it is not changed.
        users: The columns that name a user, and their tables.
        names: The users.

    Raises:
        CorruptSnapshot: If a part of the state is not what its kind of part writes.
    """
    found = _erased(state, users, sorted(names))
    assert isinstance(found, dict)
    return found


def mentions(state: State, users: UserColumns, names: Collection[str]) -> list[str]:
    """Return the paths of the parts of a state that hold anything of some users."""
    paths: list[str] = []
    _compare(state, _erased(state, users, sorted(names)), "", paths)
    return paths


def _erased(value: StateValue, users: UserColumns, names: list[str]) -> StateValue:
    if isinstance(value, list):
        return [_erased(item, users, names) for item in value]
    if not isinstance(value, dict):
        return value
    if {"spec", *_ROWS, *_PENDING, *_REMOVED} <= set(value):
        return _table(value, users, names)
    if {"pending", "pending_ids", "columns"} <= set(value):
        return _join(value, users, names)
    if {"batch_rows", "rest"} <= set(value):
        return _collator(value, users, names)
    return {name: _erased(item, users, names) for name, item in value.items()}


def _table(state: State, users: UserColumns, names: list[str]) -> State:
    spec = state["spec"]
    name = json.loads(str(spec.get("name", "null"))) if isinstance(spec, dict) else None
    if name not in users.tables:
        return state
    gone = torch.tensor(sorted({one for user in names for one in users.ids(user)}), dtype=torch.int64)
    parts: State = {}
    for group in (_ROWS, _PENDING, _REMOVED):
        kept = ~torch.isin(_tensor(state, group[0]), gone)
        if not bool(kept.all()):
            parts |= {part: _tensor(state, part)[kept] for part in group}
    return {**state, **parts} if parts else state


def _join(state: State, users: UserColumns, names: list[str]) -> State:
    """Drop pending impressions; they are remembered as closed, so that they are duplicates if they come again."""
    pieces, ids = state["pending"], read_integers(_bytes(state, "pending_ids"))
    assert isinstance(pieces, list)
    kept_pieces: list[StateValue] = []
    kept_ids, gone_ids, gone_times, start = [ids[:0]], [ids[:0]], [ids[:0]], 0
    for piece in pieces:
        assert isinstance(piece, bytes)
        rows = read_rows(piece)
        mine, own = users.rows(rows, names), ids[start : start + rows.num_rows]
        start += rows.num_rows
        gone_ids.append(own[mine])
        gone_times.append(np.asarray(rows.column("event_time").to_numpy(zero_copy_only=False))[mine])
        kept_ids.append(own[~mine])
        if not mine.any():
            kept_pieces.append(piece)
        elif not mine.all():
            kept_pieces.append(write_rows(rows.take(pa.array(np.flatnonzero(~mine)))))
    gone = np.concatenate(gone_ids)
    if not len(gone):
        return state
    seen = np.concatenate([read_integers(_bytes(state, "seen_ids")), gone])
    times = np.concatenate([read_integers(_bytes(state, "seen_times")), *gone_times])
    fates = np.concatenate([np.frombuffer(_bytes(state, "seen_fates"), np.int8), np.full(len(gone), CLOSED, np.int8)])
    order = np.argsort(seen, kind="stable")
    counts = state["counts"]
    assert isinstance(counts, dict)
    return {
        **state, "pending": kept_pieces, "pending_ids": np.concatenate(kept_ids).tobytes(),
        "seen_ids": seen[order].tobytes(), "seen_times": times[order].tobytes(), "seen_fates": fates[order].tobytes(),
        "counts": {**counts, "erased": int(counts.get("erased", 0)) + len(gone)},  # type: ignore[arg-type]
    }  # fmt: skip


def _collator(state: State, users: UserColumns, names: list[str]) -> State:
    rest = _bytes(state, "rest")
    if not rest:
        return state
    events = Events.from_bytes(rest)
    mine = users.rows(events.batch, names)
    if not mine.any():
        return state
    kept = events.take(np.flatnonzero(~mine))
    return {**state, "rest": kept.to_bytes() if len(kept) else b""}


def _compare(before: StateValue, after: StateValue, path: str, paths: list[str]) -> None:
    if before is after:
        return
    if isinstance(before, dict) and isinstance(after, dict) and "removed_ids" not in before:
        for name, item in before.items():
            _compare(item, after.get(name), f"{path}/{name}", paths)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for place, item in enumerate(before):
            _compare(item, after[place], f"{path}/{place}", paths)
    elif isinstance(before, (dict, Tensor)) or before != after:
        paths.append(path)


def _tensor(state: State, name: str) -> Tensor:
    value = state.get(name)
    if not isinstance(value, Tensor):
        raise CorruptSnapshot(f"State of a table, '{name}'", got=type(value).__name__, expected="a tensor")
    return value


def _bytes(state: State, name: str) -> bytes:
    value = state.get(name)
    if not isinstance(value, bytes):
        raise CorruptSnapshot(f"State, '{name}'", got=type(value).__name__, expected="bytes")
    return value
