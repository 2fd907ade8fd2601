"""What became of every version, and how an earlier one's content is found again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice, takewhile

import torch
from torch import Tensor

from headrace.data.log import EmbeddedLog, Transaction
from headrace.errors import CorruptSnapshot, StaleError, VersionError
from headrace.publish.agreement import RELOAD
from headrace.publish.change_log import ChangeLog
from headrace.publish.pending import ERASURE, folded, without_rows, without_times
from headrace.publish.snapshots import FOLD_CHANGES, Snapshots, fold
from headrace.types import NO_VERSION, Change, RowChange, Version

ROLLBACK = "rollback_to"
"""Note of a version that brings an earlier one's content back: that one's number, (1,) int64."""
REMEMBER = 1_000_000
READ_RECORDS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRecord:
    """One thing that happened to the versions.

    Attributes:
        kind: `learned`, `rollback`, `release` (what waited went out), `erase`; without a version: `refused` (by the
            guard), `hold`, `unhold`, `erased` (the learner forgot what was erased), `failed` (an order that could
            not be carried out).
        version: The version that was published; -1 if none was.
        parent: Its parent.
        staged: The learner's newest change in it (or in what was refused); -1 if there is none.
        put, removed: Rows put and removed, over all tables.
        to: Of a rollback: the version whose content came back.
        order: Name of the order that asked for it; empty when nobody did.
        reason: For people: of a hold or a failure.
        verdict: What the guard said of it; None if nothing was judged.
        time: Wall-clock µs at which it became durable; filled in when it is read.
    """

    kind: str
    version: int = NO_VERSION
    parent: int = NO_VERSION
    staged: int = NO_VERSION
    put: int = 0
    removed: int = 0
    to: int = NO_VERSION
    order: str = ""
    reason: str = ""
    verdict: dict[str, object] | None = None
    time: int = 0

    @staticmethod
    def of(kind: str, change: Change, *, staged: int, **more: object) -> VersionRecord:
        """Return the record of a change that is being published."""
        put = sum(int(rows.ids.numel()) for rows in change.tables.values())
        removed = sum(int(rows.removed.numel()) for rows in change.tables.values())
        return VersionRecord(kind=kind, version=change.version.number, parent=change.version.parent, staged=staged,
                             put=put, removed=removed, **more)  # type: ignore[arg-type]  # fmt: skip


class VersionRecords:
    """The records in a topic beside the versions, written in the transactions that they tell of.

    Args:
        log: The log of the versions.
        topic: The versions' topic; the records go to `<topic>-records`.
        remember: How many are kept.
    """

    def __init__(self, log: EmbeddedLog, topic: str = "changes", *, remember: int = REMEMBER) -> None:
        self.log, self.topic, self.remember = log, f"{topic}-records", remember

    def append(self, write: Transaction, record: VersionRecord) -> None:
        """Write a record within a transaction."""
        values = {name: value for name, value in asdict(record).items() if name != "time"}
        write.append_bytes(self.topic, json.dumps(values, sort_keys=True).encode())

    def newest(self, count: int) -> list[VersionRecord]:
        """Return the newest records, oldest first."""
        info = self.log.topic(self.topic)
        return list(self.since(max(info.next_offset - count, info.first_offset)))

    def since(self, offset: int) -> Iterator[VersionRecord]:
        """Yield the records from an offset on.

        Raises:
            CorruptSnapshot: If an entry is no record.
        """
        while entries := self.log.read(self.topic, offset, limit=READ_RECORDS):
            for entry in entries:
                try:
                    yield VersionRecord(**json.loads(entry.payload) | {"time": entry.accepted_time})
                except (ValueError, TypeError) as error:
                    raise CorruptSnapshot(f"Topic '{self.topic}', entry {entry.offset}", got=str(error),
                                          expected="a record of this release") from error  # fmt: skip
            offset = entries[-1].offset + 1

    def of_order(self, name: str, *, since: int) -> VersionRecord | None:
        """Return the record of an order that was carried out, or None; looks at the records from an offset on."""
        return next((record for record in self.since(since) if record.order == name), None)

    def learned_to(self, version: int) -> int | None:
        """Return the learner's newest change that a version has; None if no record tells it."""
        first = self.log.topic(self.topic).first_offset
        found = {record.version: record for record in self.since(first) if record.version >= 0}
        while version in found and found[version].kind in ("rollback", "erase"):
            record = found[version]
            version = record.to if record.kind == "rollback" else record.parent
        return found[version].staged if version in found else None

    def end(self) -> int:
        """Return the offset that the next record gets."""
        return self.log.end(self.topic)

    def trim(self) -> None:
        """Forget the oldest records, a few at a time."""
        info = self.log.topic(self.topic)
        forgotten = info.next_offset - self.remember
        if forgotten > info.first_offset + self.remember // 8:
            self.log.trim(self.topic, forgotten)


@dataclass(frozen=True, slots=True)
class Rollback:
    """A rollback that is worked out: the version to publish, and what it takes back, which becomes pending."""

    change: Change
    taken_back: Change


def reachable(changes: ChangeLog, snapshots: Snapshots) -> range:
    """Return the versions whose content can be found again: from the oldest snapshot (or change) kept to the newest."""
    first, last = changes.first(), changes.last().number
    kept = [number for number in snapshots.numbers() if first - 1 <= number <= last]
    oldest = 0 if first == 0 and last >= 0 else min(kept, default=last + 1)
    return range(oldest, last + 1)


def content(changes: ChangeLog, snapshots: Snapshots, to: int) -> Change:
    """Return the whole content of version `to` as a full change.

    Raises:
        StaleError: If what it is made of is no longer kept.

    Cost: reads one snapshot and the changes from it to the version; memory of twice the rows.
    """
    for number in [*sorted((n for n in snapshots.numbers() if n <= to), reverse=True), NO_VERSION]:
        try:
            base = snapshots.read(number) if number >= 0 else None
            until = takewhile(lambda change: change.version.number <= to, changes.read_since(number))
            whole = fold(base, until)
        except (CorruptSnapshot, FileNotFoundError, StaleError):
            continue  # an older snapshot may do
        if whole is not None:
            return whole
    kept = reachable(changes, snapshots)
    raise StaleError(f"Version {to}", got="a version whose content is no longer kept",
                     expected=f"one from {kept.start} to {kept.stop - 1}" if kept else "a version",
                     do="Keep more snapshots and changes, and roll back earlier next time.")  # fmt: skip


def work_out_rollback(
    changes: ChangeLog, snapshots: Snapshots, to: int, erased: Sequence[Mapping[str, Tensor]] = ()
) -> Rollback:
    """Return the change that brings version `to`'s content back on top of the newest version, and what it undoes.

    A delta where only rows of known ids differ; a full change where a change since then was full. Ids that were erased
    since then, and those of `erased` (by table), stay away.

    Raises:
        VersionError: If `to` is not older than the newest version, or of another specification, which no server that
            holds the newest version could take.
        StaleError: If its content is no longer kept.
    """
    last = changes.last().number
    if not 0 <= to < last:
        raise VersionError(f"Rollback to version {to}", got=f"version {last} as the newest one",
                           expected="an older one that was published",
                           do="`headrace versions FOLDER list` shows them.")  # fmt: skip
    there = content(changes, snapshots, to)
    since = _Since(erased)
    try:
        since.read(changes.read_since(to), Version(last, to))
    except StaleError as error:
        kept = reachable(changes, snapshots)
        raise StaleError(f"Version {to}", got="changes after it that are no longer kept",
                         expected=f"one from {kept.start} to {last}") from error  # fmt: skip
    if dict(there.spec) != dict(since.spec):
        raise VersionError(
            f"Rollback to version {to}", got="a version of another specification",
            expected=f"tables, schema and objective of version {last}, which servers have",
            do="Serve a copy of the run from before the change with the recipe of that time.",
        )  # fmt: skip
    assert since.taken_back is not None
    taken_back, gone = _plain(since.taken_back), since.erased()
    version = Version(last + 1, last)
    notes = {**_plain(there).notes, ROLLBACK: torch.tensor([to])}
    if taken_back.full:
        change = replace(without_rows(there, gone), version=version, notes=notes, full=True)
    else:
        tables = {name: _restored(rows, there.tables.get(name), gone.get(name))
                  for name, rows in taken_back.tables.items()}  # fmt: skip
        change = Change(version=version, tables=tables, dense=there.dense, notes=notes, spec=there.spec)
    return Rollback(change, taken_back)


def _plain(change: Change) -> Change:
    """Return the change without the notes that were true of it only when it was new."""
    notes = {name: note for name, note in change.notes.items() if name not in ("loss", ERASURE, RELOAD, ROLLBACK)}
    return without_times(replace(change, notes=notes))


class _Since:
    """What happened after a version: everything as one change, the ids that were erased, and the newest spec."""

    def __init__(self, erased: Sequence[Mapping[str, Tensor]]) -> None:
        self.taken_back: Change | None = None
        self.spec: Mapping[str, str] = {}
        self._erased: dict[str, list[Tensor]] = {}
        for tables in erased:
            self._add(tables)

    def read(self, changes: Iterator[Change], version: Version) -> None:
        """Merge the changes a few at a time, because each of them holds all dense tensors."""
        while part := list(islice(changes, FOLD_CHANGES)):
            for change in part:
                if ERASURE in change.notes:
                    self._add({name: rows.removed for name, rows in change.tables.items()})
            self.taken_back = folded(part if self.taken_back is None else [self.taken_back, *part], version)
            self.spec = part[-1].spec

    def erased(self) -> dict[str, Tensor]:
        """Return the erased ids (N,) by table."""
        return {name: torch.cat(parts) for name, parts in self._erased.items()}

    def _add(self, tables: Mapping[str, Tensor]) -> None:
        for name, ids in tables.items():
            self._erased.setdefault(name, []).append(ids)


def _restored(since: RowChange, there: RowChange | None, erased: Tensor | None) -> RowChange:
    """Return what brings the touched ids of a table back to what they were."""
    touched = torch.cat([since.ids, since.removed]).sort().values
    if there is None or not len(there.ids):
        return RowChange(touched[:0], since.rows[:0], touched)
    known = torch.isin(there.ids, touched)
    if erased is not None:
        known &= torch.isin(there.ids, erased, invert=True)
    ids = there.ids[known]
    return RowChange(ids, there.rows[known], touched[torch.isin(touched, ids, invert=True)])
