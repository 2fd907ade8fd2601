"""Taking rows out of logs that are in use: entries are put again without them, at the same offset and row number.

A rewritten entry is safe for every consumer that will not read it again, and for those who read it for the first time:
they meet rows of kind `erased`, which say nothing. It is not safe for one that has to repeat what it did before with
this very entry; so a consumer's state is made durable behind an entry first (`headrace.online.erase`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.data.log import EmbeddedLog
from headrace.data.log_entry import Entry
from headrace.data.subjects import ERASED, Mask, UserColumns, integer_of, without_rows
from headrace.types import Events

GROUP_ENTRIES = 64
KEYED = ("impression", "prediction", "example")
"""Kinds of rows that carry a user's columns and give their key away."""


def rewrite_topic(
    log: EmbeddedLog, topic: str, edit: Callable[[Entry], bytes | None], *, start: int = 0, end: int | None = None
) -> int:
    """Put entries again as `edit` returns them; None leaves an entry as it is.

    Each entry that changes is one transaction, so that writers never wait long; asked again after a crash, it goes on
    where nothing is left to be done.

    Args:
        log: The log.
        topic: Its topic (partition 0).
        edit: Returns an entry's new payload, of as many rows.
        start: First offset.
        end: Offset to stop before; None: the end of the topic as it is now.

    Returns:
        Entries rewritten.
    """
    changed = 0
    for entry in entries_of(log, topic, start=start, end=end):
        payload = edit(entry)
        if payload is not None:
            with log.transaction() as write:
                write.replace(topic, entry.offset, payload)
            changed += 1
    return changed


def entries_of(log: EmbeddedLog, topic: str, *, start: int = 0, end: int | None = None) -> Iterator[Entry]:
    """Yield the entries of a topic that are kept, oldest first, up to its present end or `end`."""
    info = log.topic(topic)
    offset, limit = max(start, info.first_offset), info.next_offset if end is None else min(end, info.next_offset)
    while offset < limit:
        offset = max(offset, log.topic(topic).first_offset)  # somebody may trim meanwhile
        entries = log.read(topic, offset, limit=min(GROUP_ENTRIES, max(limit - offset, 1)))
        if not entries:
            return
        yield from (entry for entry in entries if entry.offset < limit)
        offset = entries[-1].offset + 1


def erase_rows(
    log: EmbeddedLog, topic: str, users: UserColumns, names: Collection[str], *, start: int = 0,
    end: int | None = None,
) -> int:  # fmt: skip
    """Erase users' rows from a topic of events or examples, and the rows that belong to the same request keys.

    An action names no user: it belongs to one by the key of an impression. So keys are collected first.

    Returns:
        Rows erased.

    Cost: reads every entry once to look for the ids as bytes, and once more, if there were any, for the keys.
    """
    needles = [needle for name in names for needle in needles_of(users, name)]
    keys: set[str] = set()
    for entry in entries_of(log, topic, start=start, end=end):
        if entry.rows and any(needle in entry.payload for needle in needles):
            events = entry.events
            mine = users.rows(events.batch, names) & _kind_is(events, KEYED)
            keys |= set(events.column("key").filter(pa.array(mine)).to_pylist())
    erased = 0

    def edit(entry: Entry) -> bytes | None:
        nonlocal erased
        if not entry.rows or not (keys or any(needle in entry.payload for needle in needles)):
            return None
        events = entry.events
        gone = users.rows(events.batch, names) | _is_one_of(events.column("key"), keys)
        gone &= ~_kind_is(events, (ERASED,))
        if not gone.any():
            return None
        erased += int(gone.sum())
        return without_rows(events, gone).to_bytes()

    rewrite_topic(log, topic, edit, start=start, end=end)
    return erased


def needles_of(users: UserColumns, name: str) -> list[bytes]:
    r"""Return byte strings one of which every entry holds that has a row of this user, in whatever column type.

    Example:
        >>> needles_of(UserColumns(("user",), {"user": 4}), "300")
        [b'300', b',\x01']
    """
    number = integer_of(name) if users.integers else None
    texts = [name.encode()] if users.texts or number is None else []
    if number is None:
        return texts
    # the narrowest form is how the wider ones begin
    width = next(w for w in (1, 2, 4, 8) if -(1 << (8 * w - 1)) <= number < 1 << (8 * w if number >= 0 else 8 * w - 1))
    return [*texts, number.to_bytes(width, "little", signed=number < 0)]


def _kind_is(events: Events, kinds: Collection[str]) -> Mask:
    return _is_one_of(events.column("kind"), kinds)


def _is_one_of(column: pa.Array, values: Collection[str]) -> Mask:
    found = pc.is_in(column, value_set=pa.array(list(values), pa.string()))
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.bool_)
