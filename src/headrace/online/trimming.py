"""Keeps the logs of events and examples from growing for ever: what nobody needs again, and is old enough, goes.

An entry goes only when both hold: every reader has said that it will not ask for it again, also not after a crash,
and it was accepted longer ago than the setting says. Staged changes go as soon as they are published.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from headrace.config import require
from headrace.data.log import EmbeddedLog
from headrace.errors import HeadraceError
from headrace.online.layout import RunFolder
from headrace.protocols import Checkpoint
from headrace.publish import Acknowledgement, AcknowledgementFolder
from headrace.publish.retention import remembered
from headrace.types import State

_log = logging.getLogger(__name__)
TRIM_ENTRIES = 64
"""Entries dropped in one transaction: a server's commit waits for one of them at most."""
PAUSE_SHARE = 3.0
"""Pause after a transaction, in its own durations: who waits for the log finds it free at most times."""
WORK_S, SAVE_WORK_S = 0.05, 0.25
"""How long the reader that trims may be held up by it at a time; how long a learner's save may."""
AGAIN_S = 0.5
LOOK_EVERY_S = 60.0


@dataclass(frozen=True, kw_only=True)
class LogRetention:
    """How long what was read is kept, in seconds of wall time since it was accepted.

    Attributes:
        events_s: Of events, after every joiner has passed them. None: for ever. Experiments, already-seen rules and
            new joins read events again, so keep what these look back on.
        examples_s: Of examples, after the oldest kept checkpoint of the learner has passed them. None: for ever. With
            all of them a learner can begin from the start; without, it needs one of its checkpoints.
        forget_after_s: Silence after which another reader of the events (see `keep_for`) is forgotten.

    Raises:
        ConfigError: If a value cannot work.
    """

    events_s: float | None = None
    examples_s: float | None = None
    forget_after_s: float = 7 * 86_400.0

    def __post_init__(self) -> None:
        for name in ("events_s", "examples_s"):
            value = getattr(self, name)
            require(value is None or value >= 0, name, got=value, expected="seconds, or None")
        require(self.forget_after_s > 0, "forget_after_s", got=self.forget_after_s, expected="a positive number")


def keep_for(folder: RunFolder, reader: str, offset: int) -> None:
    """Say that a further reader of the run's events may ask again for everything from entry `offset` on.

    To be said again now and then, and whenever it has moved on; a reader that is silent for longer than
    `LogRetention.forget_after_s` is forgotten.
    """
    _readers(folder).record(Acknowledgement(replica=reader, version=offset, time=time.time_ns() // 1000))


def needed_from(folder: RunFolder, forget_after_s: float) -> int | None:
    """Return the first entry of the events that a further reader may ask for; None when there is no such reader."""
    readers = remembered(_readers(folder), forget_after_s)
    return min((one.version for one in readers.values()), default=None)


def _readers(folder: RunFolder) -> AcknowledgementFolder:
    return AcknowledgementFolder(folder.root / "readers")


class LogTrimmer:
    """Drops old entries of one topic, a few at a time, at most once in `every_s`.

    Args:
        log: The log.
        topic: The topic.
        keep_s: Age from which on entries may go. None: none ever goes.
        needed: Returns the first entry that a reader may ask for again.
        every_s: Shortest time between two looks.
        work_s: How long a look may take; what is left goes with the next one, half a second later.
        now: The wall clock in µs.
    """

    def __init__(
        self, log: EmbeddedLog, topic: str, keep_s: float | None, needed: Callable[[], int], *,
        every_s: float = LOOK_EVERY_S, work_s: float = WORK_S, now: Callable[[], int] | None = None,
    ) -> None:  # fmt: skip
        self.log, self.topic, self.keep_s, self.needed = log, topic, keep_s, needed
        self.every_s, self.work_s, self.dropped = every_s, work_s, 0
        self._now, self._next, self._until = now or (lambda: time.time_ns() // 1000), 0.0, 0

    def if_due(self) -> int:
        """Drop what may go, if it is time to look; returns how many entries went."""
        if self.keep_s is None or time.monotonic() < self._next:
            return 0
        try:
            gone, done = self.trim()
        except (HeadraceError, OSError) as error:
            _log.warning("topic '%s' was not trimmed: %s", self.topic, error)
            gone, done = 0, True
        self._next = time.monotonic() + (self.every_s if done else AGAIN_S)
        return gone

    def trim(self) -> tuple[int, bool]:
        """Drop what may go now, for `work_s` at most; returns how many entries went, and whether that was all."""
        if self.keep_s is None:
            return 0, True
        first = self.log.topic(self.topic).first_offset
        if first >= self._until:
            old = self.log.offset_at(self.topic, self._now() - int(self.keep_s * 1e6))
            self._until = min(self.needed(), old)
        gone, ends = 0, time.monotonic() + self.work_s
        while first < self._until and time.monotonic() < ends:
            began = time.monotonic()
            first = min(first + TRIM_ENTRIES, self._until)
            gone += self.log.trim(self.topic, first)
            if first < self._until:
                time.sleep(PAUSE_SHARE * (time.monotonic() - began))  # whoever waits for the log gets it now
        self.dropped += gone
        return gone, first >= self._until


class TrimmedExamples:
    """A learner's checkpoint, after whose saves the examples go that no kept checkpoint needs; a `Checkpoint` itself.

    A learner may have to start again from the oldest checkpoint that is kept, so examples go only once so many were
    saved since this process began, and only what lies before the oldest of them.

    Args:
        checkpoint: Where states are saved.
        kept: How many of them are kept.
        log: The log of examples.
        topic: Its topic, partition 0.
        keep_s: Age from which on entries may go. None: none ever goes.
        every_s: Shortest time between two trims.
    """

    def __init__(
        self, checkpoint: Checkpoint, kept: int, log: EmbeddedLog, topic: str, keep_s: float | None, *,
        every_s: float = LOOK_EVERY_S,
    ) -> None:  # fmt: skip
        self.checkpoint = checkpoint
        self._rows: deque[int] = deque(maxlen=kept)
        self._log, self._topic = log, topic
        self.trimmer = LogTrimmer(log, topic, keep_s, self._needed, every_s=every_s, work_s=SAVE_WORK_S)

    def save(self, state: State) -> None:
        """Make the state durable; then drop examples if it is time."""
        self.checkpoint.save(state)
        position = state.get("position")
        row = position.get(f"{self._topic}/0") if isinstance(position, dict) else None
        self._rows.append(int(row) if isinstance(row, int) else 0)
        self.trimmer.if_due()

    def load(self) -> State | None:
        """Return the newest whole state, or None."""
        return self.checkpoint.load()

    def _needed(self) -> int:
        if len(self._rows) < (self._rows.maxlen or 1):
            return self._log.topic(self._topic).first_offset
        return self._log.locate(self._topic, self._rows[0])
