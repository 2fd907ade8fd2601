"""What a join reads from events: impressions and actions in columns, checked before anything is changed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.data.hashing import example_ids
from headrace.data.join_config import JoinConfig
from headrace.data.join_waiting import Actions
from headrace.errors import JoinError
from headrace.types import Events

Integers = npt.NDArray[np.int64]
TIME_LIMIT = 1 << 60
"""Times beyond +-2^60 µs (36,000 years) are refused: sums with the window must not overflow."""


@dataclass(slots=True)
class Arrived:
    """One push, taken apart. `ids` are the impressions' example ids; `newest` is None when no row counts."""

    impressions: pa.RecordBatch
    ids: Integers
    actions: Actions
    newest: int | None
    other_rows: int = 0
    ahead_rows: int = 0


def take_apart(parts: tuple[Events, ...], config: JoinConfig) -> Arrived:
    """Return impressions and positive actions of one push.

    Raises:
        JoinError: If an impression or action has no key, no item or no usable time.
    """
    arrived = [_arrived(part.batch, config) for part in parts]
    first = arrived[0]
    for other in arrived[1:]:
        _add(first, other)
    return first


def _arrived(rows: pa.RecordBatch, config: JoinConfig) -> Arrived:
    times = _times(rows)
    rows, times, ahead = _without_ahead(rows, times, config)
    newest = int(times.max()) if len(times) else None
    kinds = rows.column(rows.schema.get_field_index("kind"))
    impressions = _of(rows, pc.equal(kinds, "impression"))
    if impressions.num_rows == rows.num_rows:
        return Arrived(impressions, _ids(impressions, "Impressions"), Actions.none(), newest, 0, ahead)
    actions = _of(rows, pc.is_in(kinds, value_set=pa.array(config.positive, pa.string())))
    other = rows.num_rows - impressions.num_rows - actions.num_rows
    return Arrived(impressions, _ids(impressions, "Impressions"), _actions(actions, config), newest, other, ahead)


def _add(arrived: Arrived, more: Arrived) -> None:
    if not len(arrived.ids):
        arrived.impressions = more.impressions
    elif len(more.ids):
        arrived.impressions = _joined(arrived.impressions, more.impressions)
    arrived.ids = np.concatenate([arrived.ids, more.ids])
    arrived.actions = Actions.concat(arrived.actions, more.actions)
    newest = [time for time in (arrived.newest, more.newest) if time is not None]
    arrived.newest = max(newest, default=None)
    arrived.other_rows += more.other_rows
    arrived.ahead_rows += more.ahead_rows


def _joined(first: pa.RecordBatch, second: pa.RecordBatch) -> pa.RecordBatch:
    try:
        return Events.concat([Events(first), Events(second)]).batch
    except pa.ArrowException as error:
        raise JoinError("Impressions", got=str(error), expected="one type per column",
                        do="Cast the column before the events are appended.") from error  # fmt: skip


def accepted_times(rows: pa.RecordBatch) -> Integers:
    """Return when rows were accepted, (N,) int64 µs, 0 where unknown."""
    index = rows.schema.get_field_index("accepted_time")
    if index < 0:
        return np.zeros(rows.num_rows, dtype=np.int64)
    column = rows.column(index).cast(pa.int64())
    return np.asarray(pc.fill_null(column, 0).to_numpy(zero_copy_only=False), dtype=np.int64)


def _of(rows: pa.RecordBatch, chosen: pa.Array) -> pa.RecordBatch:
    if not chosen.null_count and pc.all(chosen, min_count=0).as_py():
        return rows
    return rows.filter(chosen)


def _actions(rows: pa.RecordBatch, config: JoinConfig) -> Actions:
    if not rows.num_rows:
        return Actions.none()
    kinds = pc.index_in(rows.column(rows.schema.get_field_index("kind")), value_set=pa.array(config.positive))
    return Actions(
        _ids(rows, "Actions"), _column_times(rows), accepted_times(rows),
        np.asarray(kinds.to_numpy(zero_copy_only=False), dtype=np.int64), _values(rows, config.value),
    )  # fmt: skip


def _values(rows: pa.RecordBatch, name: str) -> npt.NDArray[np.float64]:
    """Return what becomes the labels of the actions' examples, (N,)."""
    if not name:
        return np.ones(rows.num_rows)
    index = rows.schema.get_field_index(name)
    column = None if index < 0 else rows.column(index)
    numbers = column is not None and (pa.types.is_floating(column.type) or pa.types.is_integer(column.type))
    if column is None or not numbers or column.null_count:
        got = "no such column" if column is None else f"{column.type} with {column.null_count} nulls"
        raise JoinError(f"Actions, column '{name}'", got=got, expected="a number for every action",
                        do="JoinConfig.value names the column that becomes the label.")  # fmt: skip
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)


def _ids(rows: pa.RecordBatch, what: str) -> Integers:
    if not rows.num_rows:
        return np.zeros(0, dtype=np.int64)
    columns = []
    for name in ("key", "item"):
        index = rows.schema.get_field_index(name)
        if index < 0:
            raise JoinError(
                f"{what}, column '{name}'", got=f"columns {rows.schema.names}", expected="a string column",
                do="The join needs key, item and event_time of every impression and action.",
            )  # fmt: skip
        column = rows.column(index)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
            raise JoinError(f"{what}, column '{name}'", got=str(column.type), expected="a string column",
                            do="Cast it; items are named by strings.")  # fmt: skip
        if column.null_count:
            row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
            raise JoinError(f"{what}, column '{name}', row {row}", got="null", expected="a string",
                            do="An event that names no request and item cannot be joined; leave it out.")  # fmt: skip
        columns.append(column)
    return example_ids(columns[0], columns[1])


def _column_times(rows: pa.RecordBatch) -> Integers:
    column = rows.column(rows.schema.get_field_index("event_time"))
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.int64)


def _times(rows: pa.RecordBatch) -> Integers:
    column = rows.column(rows.schema.get_field_index("event_time"))
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise JoinError(f"Events, column 'event_time', row {row}", got="null", expected="µs since the epoch",
                        do="Every event needs its time.")  # fmt: skip
    times = _column_times(rows)
    if len(times) and (times.max() > TIME_LIMIT or times.min() < -TIME_LIMIT):
        row = int(np.argmax(np.abs(times.astype(np.float64))))
        raise JoinError(f"Events, column 'event_time', row {row}", got=int(times[row]),
                        expected="µs since the epoch, below 2^60", do="Check the unit of the times.")  # fmt: skip
    return times


def _without_ahead(rows: pa.RecordBatch, times: Integers, config: JoinConfig) -> tuple[pa.RecordBatch, Integers, int]:
    if config.max_ahead_s is None or not len(times):
        return rows, times, 0
    accepted = accepted_times(rows)
    ahead = (accepted > 0) & (times > accepted + round(config.max_ahead_s * 1e6))
    if not ahead.any():
        return rows, times, 0
    return rows.filter(pa.array(~ahead)), times[~ahead], int(ahead.sum())
