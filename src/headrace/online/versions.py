"""The versions of a run, for people: what became of each, and orders to hold, release or roll back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice

from headrace.config import require
from headrace.data import EmbeddedLog
from headrace.errors import StaleError, VersionError
from headrace.online.build import with_preparation
from headrace.online.changes import acknowledged_in
from headrace.online.config import OnlineConfig
from headrace.online.guarding import examples_of, open_guard
from headrace.online.layout import CHANGES, EXAMPLES, RunFolder
from headrace.publish import (
    Acknowledgement,
    AcknowledgementFolder,
    ChangeLog,
    ChangeReader,
    LogPublisher,
    Sluice,
    Standing,
    VersionRecord,
    VersionRecords,
    place,
    publishing,
    reachable,
)
from headrace.publish.guard import describe

POLL_S = 0.05
LOOK_BACK = 4
NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class VersionList:
    """The newest things that happened to a run's versions, oldest first.

    Attributes:
        newest: The newest version; -1 when there is none.
        reach: The versions that can be rolled back to, and the newest one.
        standing: Whether they are on hold, what waits, what was refused.
        records: What happened.
        replicas: What each replica says it holds.
    """

    newest: int
    reach: range
    standing: Standing
    records: tuple[VersionRecord, ...]
    replicas: dict[str, Acknowledgement]

    def holders(self, version: int) -> list[str]:
        """Return the replicas that serve a version now."""
        return sorted(name for name, one in self.replicas.items() if version >= 0 and one.version == version)

    def facts(self) -> dict[str, object]:
        """Return everything as plain values."""
        standing = self.standing
        rows = [
            {**asdict(record), "acknowledged_by": sorted(
                name for name, one in self.replicas.items() if 0 <= record.version <= one.version)}
            for record in self.records
        ]  # fmt: skip
        return {
            "version": self.newest, "rollback_from": self.reach.start if self.reach else None,
            "hold": None if standing.hold is None else asdict(standing.hold), "staged": standing.following - 1,
            "pending_changes": standing.pending_changes, "refused": standing.refused,
            "verdict": describe(standing.verdict), "records": rows,
            "replicas": {name: {"version": one.version, "time": one.time} for name, one in self.replicas.items()},
        }  # fmt: skip


def list_versions(folder: RunFolder, *, count: int = 20) -> VersionList:
    """Return the newest versions of a run and what became of them.

    Args:
        folder: The run's folder.
        count: How many things that happened to return.

    Raises:
        VersionError: If nothing was ever published there.
    """
    with _changes(folder) as log:
        reader = ChangeReader(log, folder.snapshots)
        records = VersionRecords(log).newest(count)
        if len(records) < count:
            known = min((record.version for record in records if record.version >= 0), default=reader.last().number + 1)
            records = [*_without_records(reader.changes, known, count - len(records)), *records]
        return VersionList(
            reader.last().number, reachable(reader.changes, reader.snapshots), reader.standing(), tuple(records),
            AcknowledgementFolder(folder.acknowledgements).newest(),
        )  # fmt: skip


def order_versions(
    folder: RunFolder, kind: str, *, config: OnlineConfig | None = None, to: int = -1, unchecked: bool = False,
    reason: str = "", wait_s: float = 60.0,
) -> VersionRecord | None:  # fmt: skip
    """Hold, release or roll back the versions of a run, and return what came of it.

    The order is durable before anything is done. If a publisher runs, it carries it out; else this process does, and
    if it dies meanwhile, the next publisher that starts does.

    Args:
        folder: The run's folder.
        kind: `hold`, `release` or `rollback`.
        config: The run, if it is known: a release can then judge and publish what waits. Without it, this is left to
            the run's publisher, unless `unchecked`.
        to: Of a rollback: the version whose content comes back.
        unchecked: Of a release: publish what waits without judging it.
        reason: For people.
        wait_s: How long to wait for a publisher that runs.

    Returns:
        The record of what was done; None if the publisher that runs has not come to it within `wait_s`.

    Raises:
        VersionError: If it cannot be done; nothing was changed.
    """
    with _changes(folder) as log:
        if kind == "rollback":
            _check_reach(ChangeReader(log, folder.snapshots), to)
        records = VersionRecords(log)
        since = records.end()
        order = place(log, kind, to=to, unchecked=unchecked, reason=reason)
        deadline = time.monotonic() + wait_s
        while True:
            with publishing(log) as alone:
                if alone:
                    _carry_out(log, folder, config)
            done = records.of_order(order.name, since=since)
            if done is not None and done.kind == "failed":
                raise VersionError(f"Order to {kind}", got=done.reason)
            if done is not None or time.monotonic() > deadline:
                return done
            time.sleep(POLL_S)


def _carry_out(log: EmbeddedLog, folder: RunFolder, config: OnlineConfig | None) -> None:
    """Stand in for a publisher that is not running."""
    if config is None:
        publisher = LogPublisher(log, folder.snapshots, snapshot_every=NEVER)
        Sluice(publisher, deputy=True).obey()
        return
    publisher = LogPublisher(
        log, folder.snapshots, snapshot_every=config.snapshot_every, keep=config.retention.snapshots,
        retention=config.retention, acknowledgements=acknowledged_in(config, folder),
    )  # fmt: skip
    guard = None
    if config.guard is not None:
        judged, joined = with_preparation(config, folder), folder.log(EXAMPLES).exists()
        guard = open_guard(judged, examples_of(judged, folder) if joined else lambda rows: [])
    Sluice(publisher, guard=guard).obey()


@contextmanager
def _changes(folder: RunFolder) -> Iterator[EmbeddedLog]:
    path = folder.log(CHANGES)
    require(path.is_file(), f"Run folder {folder.root}", got="no change log", expected="one in which was published",
            do="Give the folder of a run.")  # fmt: skip
    with EmbeddedLog(path) as log:
        yield log


def _check_reach(reader: ChangeReader, to: int) -> None:
    """Refuse a rollback that cannot be done, before anybody is asked for it."""
    kept = reachable(reader.changes, reader.snapshots)
    if to not in kept[:-1]:
        can = f"one from {kept.start} to {kept.stop - 2}" if len(kept) > 1 else "more than one version that is kept"
        raise VersionError(f"Rollback to version {to}", got=f"version {reader.last().number} as the newest one",
                           expected=can, do="OnlineConfig.retention says how far back versions are kept.")  # fmt: skip


def _without_records(changes: ChangeLog, before: int, count: int) -> Sequence[VersionRecord]:
    """Return what can be said of versions that were published without a record, from the changes themselves."""
    start = max(before - min(count, LOOK_BACK), changes.first())
    if start >= before:
        return []
    try:
        found = list(islice(changes.read_since(start - 1), before - start))
    except StaleError:
        return []  # trimmed while we looked
    return [VersionRecord.of("learned", one, staged=one.version.number, time=changes.published_at(one.version.number))
            for one in found]  # fmt: skip
