"""Decides what of the learner's changes becomes a published version, and when: guard, hold, release, rollback, erasure.

Two numberings meet here. The learner numbers its changes 0, 1, 2, ...; versions are numbered without gaps as they go
out. As long as nothing was refused, held, rolled back or erased the two are the same, and so are the bytes.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from headrace.errors import GapError, HeadraceError, VersionError, nearest
from headrace.publish.agreement import TABLE
from headrace.publish.guard import Guard, Verdict
from headrace.publish.orders import Order, orders_topic
from headrace.publish.pending import ERASURE, folded, without_rows
from headrace.publish.publisher import LogPublisher
from headrace.publish.standing import Cut, Hold, Standing
from headrace.publish.standing_log import MovedError, StandingLog
from headrace.publish.versions import VersionRecord, work_out_rollback
from headrace.types import NO_VERSION, Change, RowChange, Version

_log = logging.getLogger(__name__)
SAY_EVERY_S = 10.0
"""Pause between two log lines on refused candidates; every one of them has a record."""


class Sluice:
    """The `Publisher` that lets changes through, or keeps them until they may go out.

    `publish` takes the learner's next change and returns it once it is durable: as a version, or as pending. Then one
    of three things has happened: it was published as it is; it was published together with what was pending before
    it; or it waits, because the versions are on hold or the guard refused the candidate.

    Everything that belongs together (a version, its record, what is pending, which orders are done) is written in one
    transaction of the versions' log. So the process may be killed at any instant; what was asked for is done once.

    Args:
        publisher: Who writes versions; nobody else may write to its log.
        guard: Judges candidates; None lets everything pass.
        deputy: Stands in for a publisher that is not running, and may not know its guard: what is pending is left to
            that one, unless a release says that it goes out unchecked.

    Raises:
        VersionError: If versions were published around this class, so that it is not known what they hold.

    Attributes:
        published: Versions that went out since somebody last took them from here, oldest first.

    Thread-safety: none; one thread owns it. Other processes give orders (`headrace.publish.orders`).
    """

    def __init__(self, publisher: LogPublisher, *, guard: Guard | None = None, deputy: bool = False) -> None:
        self.publisher, self.guard, self.deputy = publisher, guard, deputy
        self.durable = StandingLog(publisher)
        self.published: deque[Change] = deque()
        self._orders, self._say_again = orders_topic(self.durable.topic), 0.0

    @property
    def standing(self) -> Standing:
        """How things stand."""
        return self.durable.standing

    def last(self) -> Version:
        """Return the newest of the learner's changes that was taken; number -1 when there is none."""
        number = self.standing.following - 1
        return Version(number, number - 1) if number >= 0 else Version(NO_VERSION)

    def publish(self, change: Change) -> Change:
        """Take the learner's next change and return it once it is durable; a repeated one is compared and kept once.

        Orders that wait are carried out before.

        Raises:
            GapError: If its number is not the next one, or its content differs from what had its number.
            StaleError: If it is too old to be compared.
        """
        self.obey()
        number, parent = change.version.number, change.version.parent
        following = self.standing.following
        if number < following:
            self.durable.compare(change)
            return change
        if number > following or parent != following - 1:
            raise GapError(f"The learner's change {number}", got=f"number {number}, parent {parent}",
                           expected=f"number {following}, parent {following - 1}",
                           do="Publish the changes in between first; the learner regenerates them.")  # fmt: skip
        verdict: Verdict | None = None
        if self.durable.plain:
            verdict = self._judge([change])
            if verdict is None or verdict.passed:
                self._take_plain(change, verdict)
                return change
        piece = change
        if ERASURE in change.notes:
            self.erase({name: rows.removed for name, rows in change.tables.items() if len(rows.removed)})
            piece = replace(change, notes={name: note for name, note in change.notes.items() if name != ERASURE})
            verdict = None
        for cut in self.standing.cuts:
            if cut.through is None or number <= cut.through:
                piece = without_rows(piece, _ids(cut.tables))
        self._take(change, piece, verdict)
        return change

    def obey(self) -> int:
        """Carry out the orders that wait, in order, each exactly once; returns how many there were."""
        done, log = 0, self.durable.log
        while log.end(self._orders) > self.standing.orders:
            self.durable.check_unmoved()
            place = self.standing.orders
            self._obey(Order.from_bytes(log.read(self._orders, place, limit=1)[0].payload), place)
            done += 1
        if done:
            log.trim(self._orders, self.standing.orders)
            self.durable.tidy()
        return done

    def retry(self) -> bool:
        """Publish what is pending if it may go out now; returns whether it did. For a publisher that starts."""
        if self.standing.hold is not None or not self.durable.pending.pieces:
            return False
        return self._release(None, unchecked=False)

    def erase(self, erased: Mapping[str, Tensor], *, order: str = "") -> None:
        """Publish at once, past every hold and without being judged, a version from which the ids are gone.

        They are cut out of everything that is pending, too, and no rollback brings them back. What the learner says
        of them afterwards is taken as a new beginning; an order `erase` keeps them out until one `erased` says so.

        Args:
            erased: Table name to ids (N,) int64.
            order: Name of the order that asked for it; the ids then stay out.

        Raises:
            VersionError: If a table is not one of the versions'.
        """
        ids = _ids({name: rows.tolist() for name, rows in erased.items() if len(rows)})
        last = self.publisher.last().number
        spec = self._spec(last)
        known = [name.removeprefix(TABLE) for name in spec if name.startswith(TABLE)]
        for name in sorted(set(ids) - set(known)) if known else ():
            raise VersionError(f"Erasure, table '{name}'", got="nothing of that name", expected=nearest(name, known))
        pieces = [without_rows(piece, ids) for piece in self.durable.pending.pieces]
        cuts = (Cut(tables={name: rows.tolist() for name, rows in ids.items()}),) if order else ()
        after = replace(self.standing, orders=self.standing.orders + bool(order),
                        cuts=self.standing.cuts + cuts, erasures=self.standing.erasures + 1)  # fmt: skip
        if last < 0 or not ids:
            self.durable.write(after, pieces, VersionRecord(kind="erase", order=order))
            return
        tables = {name: RowChange(rows[:0], torch.zeros(0, 0), rows) for name, rows in ids.items()}
        change = Change(version=Version(last + 1, last), tables=tables, spec=spec,
                        notes={ERASURE: torch.ones(1, dtype=torch.int64)})  # fmt: skip
        record = VersionRecord.of("erase", change, staged=NO_VERSION, order=order)
        self.durable.write(after, pieces, record, publish=change)
        self._went_out(change)

    def status(self) -> dict[str, object]:
        """Return how the versions stand, as plain values."""
        standing = self.standing
        return {
            "version": self.publisher.last().number, "staged": standing.following - 1,
            "pending": standing.pending_changes, "pending_rows": self.durable.pending.rows, "refused": standing.refused,
            "hold": None if standing.hold is None else standing.hold.reason, "verdict": standing.verdict,
        }  # fmt: skip

    # ------------------------------------------------------------------------------------------- taking changes

    def _take_plain(self, change: Change, verdict: Verdict | None) -> None:
        """Publish a change under its own number."""
        facts = None if verdict is None else verdict.facts()
        record = VersionRecord.of("learned", change, staged=change.version.number, verdict=facts)
        self.durable.publish_plain(change, record)
        self._went_out(change, verdict)

    def _take(self, change: Change, piece: Change, verdict: Verdict | None) -> None:
        """Take a change when the numberings differ, something waits, or it was refused."""
        number, standing = change.version.number, self.standing
        pieces = [*self.durable.pending.pieces, piece]
        checksum = bytes.fromhex(change.checksum())
        after = replace(standing, following=number + 1, pending_changes=standing.pending_changes + 1,
                        cuts=_needed(standing.cuts, number + 1))  # fmt: skip
        if standing.hold is not None and self.publisher.last().number >= 0:  # the first one: nothing else can be served
            self.durable.write(after, pieces, checksum=checksum, added=True)
            return
        verdict = verdict or self._judge(pieces)
        if verdict is None or verdict.passed:
            kind = "learned" if len(pieces) == 1 else "release"
            self._go_out(after, pieces, kind, number, verdict, checksum=checksum)
            return
        facts = verdict.facts()
        if time.monotonic() >= self._say_again:
            self._say_again = time.monotonic() + SAY_EVERY_S
            _log.warning("change %d of the learner is not published, %s; training goes on", number, verdict)
        after = replace(after, refused=standing.refused + 1, verdict=facts)
        record = VersionRecord.of("refused", folded([piece], self._next()), staged=number, verdict=facts)
        record = replace(record, version=NO_VERSION, parent=self.publisher.last().number)
        self.durable.write(after, pieces, record, checksum=checksum, added=True)

    # --------------------------------------------------------------------------------------------------- orders

    def _obey(self, order: Order, place: int) -> None:
        """Carry out one order; one that cannot be carried out is done as well, and its record says why."""
        try:
            if order.kind == "rollback":
                self._roll_back(order)
            elif order.kind == "hold":
                hold = Hold(reason=order.reason or "held", since=time.time_ns() // 1000)
                self._note(order, "hold", hold=hold)
            elif order.kind == "release":
                self._release(order, unchecked=order.unchecked)
            elif order.kind == "erase":
                self.erase(_ids(order.tables), order=order.name)
            else:
                self._learner_erased(order)
        except HeadraceError as error:
            if isinstance(error, MovedError) or self.standing.orders > place:
                raise
            _log.error("order %s (%s) cannot be carried out: %s", order.name, order.kind, error)
            self._note(order, "failed", reason=str(error), hold=self.standing.hold)

    def _note(self, order: Order, kind: str, *, hold: Hold | None, reason: str = "") -> None:
        after = replace(self.standing, orders=self.standing.orders + 1, hold=hold)
        record = VersionRecord(kind=kind, order=order.name, reason=reason or order.reason)
        self.durable.write(after, self.durable.pending.pieces, record)

    def _learner_erased(self, order: Order) -> None:
        """Take notice that the learner's changes after `through` may put erased ids again."""
        wanted = {name: set(ids) for name, ids in order.tables.items()}
        cuts = tuple(
            replace(cut, through=order.through) if {n: set(ids) for n, ids in cut.tables.items()} == wanted else cut
            for cut in self.standing.cuts
        )
        after = replace(self.standing, orders=self.standing.orders + 1, cuts=_needed(cuts, self.standing.following))
        self.durable.write(after, self.durable.pending.pieces, VersionRecord(kind="erased", order=order.name))

    def _roll_back(self, order: Order) -> None:
        """Publish an earlier version's content anew, and hold; what it undoes waits before what waited already."""
        with self.publisher.compactor.alone():
            erased = [_ids(cut.tables) for cut in self.standing.cuts]
            done = work_out_rollback(self.publisher.changes, self.publisher.snapshots, order.to, erased)
        reason = f"rolled back to version {order.to}" + (f": {order.reason}" if order.reason else "")
        standing, learned = self.standing, self.durable.records.learned_to(order.to)
        learned = min(order.to, standing.following - 1) if learned is None else learned
        after = replace(standing, orders=standing.orders + 1, pending_changes=standing.following - 1 - learned,
                        hold=Hold(reason=reason, since=time.time_ns() // 1000))  # fmt: skip
        pieces = [done.taken_back, *self.durable.pending.pieces]
        record = VersionRecord.of("rollback", done.change, staged=NO_VERSION, to=order.to, order=order.name,
                                  reason=order.reason)  # fmt: skip
        self.durable.write(after, pieces, record, publish=done.change)
        self._went_out(done.change)

    def _release(self, order: Order | None, *, unchecked: bool) -> bool:
        """End the hold, and publish what waits if it passes; returns whether it was published."""
        standing = self.standing
        pieces = self.durable.pending.pieces
        ended = replace(standing, hold=None, orders=standing.orders + (order is not None))
        name, reason = ("", "") if order is None else (order.name, order.reason)
        if not pieces or (self.deputy and not unchecked):
            self.durable.write(ended, pieces, VersionRecord(kind="unhold", order=name, reason=reason))
            return False
        verdict = None if unchecked else self._judge(pieces)
        if verdict is None or verdict.passed:
            self._go_out(ended, pieces, "release", standing.following - 1, verdict, order=name, reason=reason)
            return True
        facts = verdict.facts()
        _log.warning("what is pending is not published, %s; training goes on", verdict)
        refused = VersionRecord(kind="refused", order=name, reason=reason, staged=standing.following - 1, verdict=facts)
        self.durable.write(replace(ended, refused=standing.refused + 1, verdict=facts), pieces, refused)
        return False

    # -------------------------------------------------------------------------------------------------- writing

    def _go_out(
        self, after: Standing, pieces: Sequence[Change], kind: str, staged: int, verdict: Verdict | None, *,
        checksum: bytes | None = None, order: str = "", reason: str = "",
    ) -> None:  # fmt: skip
        """Publish all that is pending as one version."""
        change = folded(pieces, self._next())
        facts = None if verdict is None else verdict.facts()
        record = VersionRecord.of(kind, change, staged=staged, verdict=facts, order=order, reason=reason)
        after = replace(after, pending_changes=0, verdict=None)
        self.durable.write(after, [], record, publish=change, checksum=checksum)
        self._went_out(change, verdict)

    def _went_out(self, change: Change, verdict: Verdict | None = None) -> None:
        """Tell of a version; the guard's models know what is in it only if it is what they judged."""
        self.published.append(change)
        if self.guard is not None and verdict is not None:
            self.guard.published(change)
        elif self.guard is not None:
            self.guard.reset()

    def _judge(self, pieces: Sequence[Change]) -> Verdict | None:
        return None if self.guard is None else self.guard.judge(self.publisher, pieces)

    def _next(self) -> Version:
        last = self.publisher.last().number
        return Version(last + 1, last)

    def _spec(self, last: int) -> Mapping[str, str]:
        """Return what the newest version says about itself."""
        newest = next(self.publisher.read_since(last - 1), None) if last >= 0 else None
        return {} if newest is None else newest.spec


def _ids(tables: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Return the ids of each table once and ascending, (N,)."""
    return {name: torch.tensor(sorted(set(ids)), dtype=torch.int64) for name, ids in tables.items()}


def _needed(cuts: Sequence[Cut], following: int) -> tuple[Cut, ...]:
    """Return the erasures that changes from `following` on may still go against."""
    return tuple(cut for cut in cuts if cut.through is None or following <= cut.through)
