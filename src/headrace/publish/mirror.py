"""Carries published versions from the publisher's log to where replicas of other machines can read them."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from headrace.data.log import EmbeddedLog
from headrace.errors import HeadraceError, StaleError, StoreError
from headrace.publish.acknowledgements import Acknowledger
from headrace.publish.publisher import ChangeReader
from headrace.types import Change, Version

_log = logging.getLogger(__name__)
RUN = "run/id"
POLL_S = 0.01
SNAPSHOT_TRIES = 5
OTHER_PAST = ("The log was restored from an older copy, or a power cut took versions that the copy has (durability "
              "'power' prevents it). Give the copy a new place.")  # fmt: skip
BACKOFF_S = 1.0


class ChangeTarget(Protocol):
    """A place that takes published versions in order: a folder of files, a Kafka topic."""

    def last(self) -> Version:
        """Return the newest version that the place has; number -1 when there is none."""
        ...

    def checksum(self, number: int) -> str:
        """Return the checksum of a version's change; empty where only a snapshot of it is there, or nothing."""
        ...

    def append(self, change: Change) -> bool:
        """Add the next change durably; returns False if its version is there already."""
        ...

    def begin(self, snapshot: Change) -> None:
        """Go on from a full change, where those before it are no longer to be had."""
        ...

    def keep(self, snapshot: Change) -> None:
        """Add a snapshot of a version that is there, and drop what nobody needs any more."""
        ...


def run_id(log: EmbeddedLog) -> str:
    """Return the name of the run whose published versions a log holds; made up at the first call, the same for ever."""
    known = log.state(RUN)
    if known is None:
        with log.transaction() as write:
            known = write.state(RUN)
            if known is None:
                known = uuid.uuid4().hex.encode()
                write.put_state(RUN, known)
    return known.decode()


class Mirror:
    """Follows a publisher's log and puts every version into another place, each once and in order.

    The publisher's log stays the authority: publishing never waits for the other place, and what that place lacks is
    read from the log when it can be reached again. The mirror acknowledges like a replica, so the log is kept for it
    within the bounds of `Retention`; if it falls behind them, the other place goes on from a snapshot.

    It may be killed at any instant: the place itself says what it has.

    Args:
        source: The publisher's log and snapshots.
        target: The other place.
        acknowledger: Says to the publisher how far the place is; None: says nothing.
        poll_s: Pause between two looks at the log.

    Raises:
        StoreError: From `step`, if the place has versions that the log lacks, or has with other content.
    """

    def __init__(
        self, source: ChangeReader, target: ChangeTarget, *, acknowledger: Acknowledger | None = None,
        poll_s: float = POLL_S,
    ) -> None:  # fmt: skip
        self.source, self.target, self.acknowledger, self.poll_s = source, target, acknowledger, poll_s
        self.copied, self.error = 0, ""
        self._snapshot, self._verified = -1, False
        self._stop, self._busy = threading.Event(), threading.RLock()
        self._thread: threading.Thread | None = None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Copy nothing for the length of the block, for whoever rewrites what the place has."""
        with self._busy:
            yield

    def step(self) -> int:
        """Copy what is new and return how many versions that were.

        Raises:
            StoreError: If the place cannot be reached, or has versions that the log lacks.
            OSError: If the place does not take it.
        """
        with self._busy:
            return self._step()

    def _step(self) -> int:
        held, newest = self.target.last().number, self.source.last().number
        if held > newest:
            self._verified = False
            raise StoreError(f"Copy of {self.source.changes.log.path}", got=f"version {held}",
                             expected=f"at most {newest}, the newest version published", do=OTHER_PAST)  # fmt: skip
        if not self._verified:
            self._verify(held)
            self._verified = True
        copied = 0 if held == newest else self._copy(held)
        self._copy_snapshot()
        self.copied += copied
        if self.acknowledger is not None:
            self.acknowledger.tell(self.target.last())
        return copied

    def _verify(self, held: int) -> None:
        """Refuse to go on from a version that the log has with other content; deltas on top of it would be wrong."""
        theirs = self.target.checksum(held) if held >= 0 else ""
        try:
            ours = self.source.changes.checksum(held) if theirs else ""
        except StaleError:
            return  # too long ago to be remembered
        if theirs != ours:
            raise StoreError(f"Copy of {self.source.changes.log.path}, version {held}", got=f"checksum {theirs[:16]}",
                             expected=f"{ours[:16]}, as it was published", do=OTHER_PAST)  # fmt: skip

    def _copy(self, held: int) -> int:
        copied = 0
        if held < 0 and (first := self.source.snapshot()) is not None:
            self.target.begin(first)
            copied, held = 1, first.version.number
        for _ in range(SNAPSHOT_TRIES):  # the publisher may trim while we read
            try:
                for change in self.source.read_since(held):
                    copied += self.target.append(change)
                    held = change.version.number
                    if self._stop.is_set():
                        break
                return copied
            except StaleError:
                snapshot = self.source.snapshot()
                if snapshot is None or snapshot.version.number <= held:
                    raise
                held = snapshot.version.number
                _log.warning("the copy fell behind what the log keeps and goes on from version %d", held)
                self.target.begin(snapshot)
                copied += 1
        return copied

    def _copy_snapshot(self) -> None:
        """Copy the newest snapshot once the place has come as far."""
        numbers = self.source.snapshots.numbers()
        if not numbers or not self._snapshot < numbers[-1] <= self.target.last().number:
            return
        snapshot = self.source.snapshot()
        if snapshot is not None and snapshot.version.number > self._snapshot:
            self.target.keep(snapshot)
            self._snapshot = snapshot.version.number

    def start(self) -> None:
        """Copy in a thread from now on."""
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._thread.start()

    def stop(self, *, finish: bool = False) -> None:
        """End the thread; with `finish`, try once more to copy everything that was published."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if finish:
            self._stop.clear()
            self._try()
        if self.acknowledger is not None and not self.error:
            self.acknowledger.tell(self.target.last(), final=True)

    def _run(self) -> None:
        while not self._stop.wait(BACKOFF_S if self.error else self.poll_s):
            self._try()

    def _try(self) -> None:
        try:
            self.step()
        except Exception as error:  # noqa: BLE001  whatever a place does, publishing goes on
            if str(error) != self.error:
                known = isinstance(error, (HeadraceError, OSError))
                _log.error("published versions could not be copied: %s", error, exc_info=not known)
            self.error = str(error) or type(error).__name__
            return
        if self.error:
            _log.warning("published versions are copied again, up to version %d", self.target.last().number)
            self.error = ""
