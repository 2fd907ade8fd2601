"""Erased ids leave the versions that were published before: change log and snapshots are put again without them.

The version that removes the ids holds them, too, until it is put again. A replica that had not passed it by then could
not know any more what to remove; so what stands in its place says `reload`, and such a replica loads a snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from headrace.data.log import EmbeddedLog
from headrace.data.log_entry import Entry
from headrace.data.rewrite import rewrite_topic
from headrace.errors import CorruptSnapshot
from headrace.publish.agreement import RELOAD
from headrace.publish.change import decode, encode
from headrace.publish.pending import ERASURE
from headrace.publish.publisher import LogPublisher
from headrace.publish.snapshots import Snapshots
from headrace.types import Change, RowChange

Ids = Mapping[str, Sequence[int]]


def scrubbed(change: Change, ids: Ids) -> Change | None:
    """Return the change without any mention of some ids, or None if it mentions none.

    Args:
        change: A published or staged change, or a snapshot.
        ids: Table name to the ids.

    Example:
        >>> from headrace.types import Version
        >>> rows = RowChange(torch.tensor([3, 7]), torch.ones(2, 1), torch.tensor([9]))
        >>> cut = scrubbed(Change(version=Version(1, 0), tables={"user": rows}), {"user": [7, 9]})
        >>> cut.tables["user"].ids.tolist(), cut.tables["user"].removed.tolist()
        ([3], [])
    """
    tables, told = dict(change.tables), False
    for name in set(tables) & set(ids):
        rows, gone = tables[name], torch.tensor(sorted(ids[name]), dtype=torch.int64)
        put, removed = torch.isin(rows.ids, gone), torch.isin(rows.removed, gone)
        if bool(put.any()) or bool(removed.any()):
            told |= bool(removed.any())
            tables[name] = RowChange(rows.ids[~put], rows.rows[~put], rows.removed[~removed])
    if not tables or all(tables[name] is rows for name, rows in change.tables.items()):
        return None
    notes: dict[str, Tensor] = dict(change.notes)
    if told and ERASURE in notes:
        notes[RELOAD] = torch.ones(1, dtype=torch.int64)
    return replace(change, tables=tables, notes=notes)


def scrub_topic(log: EmbeddedLog, topic: str, ids: Ids) -> int:
    """Put the changes of a topic again without some ids; returns how many were. Their checksums stay as they were.

    The checksums are of what was published, so that a writer that repeats it is still recognised.

    Cost: every entry is searched for the ids as bytes; only those that hold one are read.
    """
    needles = [one.to_bytes(8, "little", signed=True) for rows in ids.values() for one in rows]

    def edit(entry: Entry) -> bytes | None:
        if not any(needle in entry.payload for needle in needles):
            return None
        change = scrubbed(decode(entry.payload), ids)
        return None if change is None else encode(change)

    return rewrite_topic(log, topic, edit)


def scrub_snapshots(snapshots: Snapshots, ids: Ids) -> int:
    """Put snapshots again without some ids, each whole or not at all; returns how many were.

    A damaged file is removed: nobody could say what it holds.
    """
    return sum(_scrub_snapshot(snapshots, number, ids) for number in snapshots.numbers())


def _scrub_snapshot(snapshots: Snapshots, number: int, ids: Ids) -> bool:
    try:
        change = scrubbed(snapshots.read(number), ids)
    except FileNotFoundError:
        return False  # the writer removed it since we looked
    except CorruptSnapshot:
        (snapshots.folder / f"{number:012d}.snapshot").unlink(missing_ok=True)
        return True
    if change is not None:
        snapshots.write(change)
    return change is not None


def scrub_versions(publisher: LogPublisher, ids: Ids, *, erased_in: int) -> int:
    """Take ids out of everything that a publisher keeps: snapshots first, then the log.

    Args:
        publisher: Whose log and snapshots; it may go on publishing meanwhile.
        ids: Table name to the ids.
        erased_in: The version that removes them. A snapshot at least as new is written first, because replicas that
            have not passed that version will need one.

    Returns:
        Snapshots and changes that were put again.

    Raises:
        OSError: If the disk does not take a snapshot.
    """
    with publisher.compactor.alone():
        if max(publisher.snapshots.numbers(), default=-1) < erased_in:
            publisher.write_snapshot()
        changed = scrub_snapshots(publisher.snapshots, ids)
        return changed + scrub_topic(publisher.changes.log, publisher.changes.topic, ids)
