"""The joiner as a process: one log of events in, one log of examples out, exactly once.

The examples of every entry, the input offset and a running checksum of all example ids are committed in one
transaction of the example log; now and then the join's whole state goes with them. After a crash the join starts from
the last state, reads the entries since then again with its output held back, and must arrive at the same checksum
before it goes on. So the example log is a function of the event log alone, whenever and however often the process dies.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from headrace.data.join import EventJoin
from headrace.data.join_erasures import JoinErasures
from headrace.data.join_state import decode_state, encode_state
from headrace.data.log import EmbeddedLog, Transaction
from headrace.data.log_entry import Entry, EntryLog
from headrace.errors import ConfigError, CorruptSnapshot, JoinError
from headrace.types import Events, State, StateValue

GROUP_ENTRIES = 64
GROUP_ROWS = 16_384

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JoinProgress:
    """Where a joiner process stands.

    Attributes:
        offset: The next entry of the event log.
        rows: Rows of events read in all.
        examples: Examples emitted in all.
        digest: Running checksum (hex) of the emitted example ids, in order.
        ended: Whether the event topic was closed and everything is flushed.
    """

    offset: int = 0
    rows: int = 0
    examples: int = 0
    digest: str = ""
    ended: bool = False

    def after(self, entry: Entry | None, rows: int, examples: Events | None) -> JoinProgress:
        """Return the progress after one more entry (None: the flush) and the examples that it gave."""
        following = replace(self, offset=self.offset if entry is None else entry.offset + 1, rows=self.rows + rows)
        if examples is None:
            return following
        ids = examples.column("example_id").to_numpy(zero_copy_only=False).astype("<i8", copy=False)
        digest = hashlib.blake2b(bytes.fromhex(self.digest) + ids.tobytes(), digest_size=16).hexdigest()
        return replace(following, examples=self.examples + len(examples), digest=digest)

    def to_bytes(self) -> bytes:
        """Return the progress as JSON."""
        names = ("offset", "rows", "examples", "digest", "ended")
        return json.dumps({name: getattr(self, name) for name in names}).encode()

    @staticmethod
    def from_bytes(data: bytes | None) -> JoinProgress:
        """Return what `to_bytes` wrote; the beginning for None."""
        if data is None:
            return JoinProgress()
        try:
            return JoinProgress(**json.loads(data))
        except (ValueError, TypeError) as error:
            raise CorruptSnapshot("Joiner's progress", got=str(error), expected="JSON of a JoinProgress") from error


def join_log(
    events: EntryLog,
    in_topic: str,
    examples: EmbeddedLog,
    out_topic: str,
    join: EventJoin,
    *,
    consumer: str = "joiner",
    snapshot_every: int = 200,
    stop: Callable[[], bool] | None = None,
    on_progress: Callable[[JoinProgress], None] | None = None,
    idle_s: float = 0.02,
    erasures: JoinErasures | None = None,
) -> JoinProgress:
    """Join a topic of events into a topic of examples until it is closed and drained, or `stop` says so.

    Entries are pushed one at a time, in order, and each one's examples are one entry of the example topic. When the
    event topic is closed, what is pending is flushed and the example topic closed, in one transaction.

    The event log must keep the entries from the last state on: trim it only below `retained_from(examples)`.

    Args:
        events: The log that is read; nothing is written to it.
        in_topic: Its topic (partition 0).
        examples: The log that is written; offset, progress and state are kept in it.
        out_topic: Its topic; nobody else may append to it.
        join: A fresh join; its settings must be those of earlier runs over the same logs.
        consumer: Name under which offset, progress and state are kept.
        snapshot_every: Entries between two states. When much is pending they are fewer: a state is written only after
            at least as many rows have been read as it holds, so that states cost at most about as much as the rows.
        stop: Asked between transactions.
        on_progress: Called after every transaction, and while waiting.
        idle_s: Sleep when there is nothing to read.
        erasures: Users to be forgotten; None: rows of kind `erasure` mean nothing.

    Raises:
        JoinError: If the event log no longer gives the examples that were emitted, if somebody else wrote to the
            example topic, or if a second joiner runs under the same name.
        ConfigError: If the state was written with other settings of the join.
        StaleError: If entries that are needed were trimmed.
    """
    if snapshot_every < 1:
        raise ConfigError("snapshot_every", got=snapshot_every, expected="a positive number of entries")
    process = _JoinerProcess(events, in_topic, examples, out_topic, join,
                             _Settings(consumer, snapshot_every, erasures))  # fmt: skip
    process.recover()
    while not process.progress.ended and not (stop and stop()):
        if erasures is not None:
            erasures.announce(events, in_topic)
        entries = events.read(in_topic, process.progress.offset, limit=GROUP_ENTRIES)
        if entries:
            process.take(entries)
        elif events.is_closed(in_topic) and not events.read(in_topic, process.progress.offset, limit=1):
            process.end()
        else:
            time.sleep(idle_s)
        if on_progress is not None:
            on_progress(process.progress)
    process.pause()
    return process.progress


def retained_from(examples: EmbeddedLog, consumer: str = "joiner") -> int:
    """Return the offset of the event log that a restarted joiner reads first; what is below may be trimmed."""
    recorded = JoinProgress.from_bytes(examples.state(f"{consumer}/progress"))
    if recorded.ended:
        return recorded.offset
    kept = examples.state(f"{consumer}/retained")
    if kept is not None:
        return int(kept)
    data = examples.state(f"{consumer}/state")  # of an earlier release
    return 0 if data is None else _progress_in(decode_state(data)).offset


@dataclass(frozen=True, slots=True)
class _Settings:
    consumer: str
    snapshot_every: int
    erasures: JoinErasures | None


class _JoinerProcess:
    def __init__(
        self, events: EntryLog, in_topic: str, examples: EmbeddedLog, out_topic: str, join: EventJoin,
        settings: _Settings,
    ) -> None:  # fmt: skip
        self.events, self.in_topic, self.examples, self.out_topic = events, in_topic, examples, out_topic
        self.join, self.settings = join, settings
        self.progress = JoinProgress()
        self._snapshot = JoinProgress()
        self._begun: list[int] = []

    def recover(self) -> None:
        """Bring the join to where the example log stands, and check that it is the same place."""
        name = self.settings.consumer
        recorded = JoinProgress.from_bytes(self.examples.state(f"{name}/progress"))
        saved = self.examples.state(f"{name}/state")
        if recorded.ended:
            self.progress = recorded
            return
        if saved is not None:
            state = decode_state(saved)
            inner = state["join"]
            assert isinstance(inner, dict)
            self.join.restore(inner)
            self.progress = self._snapshot = _progress_in(state)
            if self.settings.erasures is not None:
                self.settings.erasures.restore(_numbers(state.get("erased", [])))
        while self.progress.offset < recorded.offset:
            wanted = min(GROUP_ENTRIES, recorded.offset - self.progress.offset)
            entries = self.events.read(self.in_topic, self.progress.offset, limit=wanted)
            if not entries or entries[-1].offset >= recorded.offset:
                raise self._differs(recorded)
            for entry in entries:
                self._step(entry)
        if self.progress != recorded:
            raise self._differs(recorded)
        if self.examples.rows(self.out_topic) != recorded.examples:
            raise JoinError(
                f"Example topic '{self.out_topic}'", got=f"{self.examples.rows(self.out_topic)} rows",
                expected=f"the {recorded.examples} that joiner '{name}' wrote", do="Give each joiner its own topic.",
            )  # fmt: skip
        if self.settings.erasures is not None:
            self._begun = self.settings.erasures.unmarked()
            self._mark()
        if recorded.offset:
            _log.info("joiner '%s' goes on at entry %d after %d examples", name, recorded.offset, recorded.examples)

    def take(self, entries: list[Entry]) -> None:
        """Push entries one by one and commit what they give together."""
        before, made = self.progress, list[Events]()
        for entry in entries:
            examples = self._step(entry)
            if examples is not None:
                made.append(examples)
            if self.progress.rows - before.rows >= GROUP_ROWS:
                break
        with self.examples.transaction() as write:
            self._claim(write, before)
            for examples in made:
                write.append(self.out_topic, examples)
            self._record(write)
            if self._snapshot_due():
                self._keep_state(write)
        self._mark()

    def _mark(self) -> None:
        """Tell the book what has been passed, now that it is durable here."""
        if self._begun and self.settings.erasures is not None:
            self.settings.erasures.passed(self._begun, self.progress.offset)
            self._begun = []

    def end(self) -> None:
        """Flush the join and close the example topic."""
        before, examples = self.progress, self.join.flush()
        self.progress = replace(before.after(None, 0, examples), ended=True)
        with self.examples.transaction() as write:
            self._claim(write, before)
            if examples is not None:
                write.append(self.out_topic, examples)
            write.close_topic(self.out_topic)
            self._record(write)
            write.drop_state(f"{self.settings.consumer}/state")  # nobody starts from it any more
        self.join.close()
        self._mark()

    def pause(self) -> None:
        """Keep the state at an orderly stop, so that the next start reads nothing again."""
        if self.progress.ended or self.progress == self._snapshot:
            return
        with self.examples.transaction() as write:
            self._claim(write, self.progress)
            self._keep_state(write)

    def _step(self, entry: Entry) -> Events | None:
        try:
            rows = entry.stamped()
            kept = self._without_erased(rows)
            examples = self.join.push(kept) if len(kept) or not len(rows) else None
        except JoinError as error:
            raise JoinError(
                f"Topic '{self.in_topic}', entry {entry.offset}: {error.what}", got=error.got, expected=error.expected,
                do=error.do,
            ) from error  # fmt: skip
        self.progress = self.progress.after(entry, len(rows), examples)
        return examples

    def _without_erased(self, rows: Events) -> Events:
        """Return the rows that may be joined; where an erasure begins, the join drops what it holds of the user."""
        if self.settings.erasures is None:
            return rows
        kept, begun = self.settings.erasures.take(rows)
        if begun:
            self.join.erase(self.settings.erasures.chosen)
            self._begun += begun
        return kept

    def _claim(self, write: Transaction, before: JoinProgress) -> None:
        # Inside the transaction, so that of two joiners under one name only one can ever go on.
        found = JoinProgress.from_bytes(write.state(f"{self.settings.consumer}/progress"))
        if found != before:
            raise JoinError(
                f"Joiner '{self.settings.consumer}'", got=f"progress at entry {found.offset} in the example log",
                expected=f"entry {before.offset}, where this process left it", do="Run one joiner per name and log.",
            )  # fmt: skip

    def _record(self, write: Transaction) -> None:
        write.commit_offset(self.settings.consumer, self.in_topic, 0, self.progress.offset)
        write.put_state(f"{self.settings.consumer}/progress", self.progress.to_bytes())

    def _snapshot_due(self) -> bool:
        if self._begun:
            return True  # the earlier state, and the entries behind it, hold what was just forgotten
        if self.progress.offset - self._snapshot.offset < self.settings.snapshot_every:
            return False
        return self.progress.rows - self._snapshot.rows >= self.join.stats().pending

    def _keep_state(self, write: Transaction) -> None:
        state: State = {"join": self.join.state(), "progress": self.progress.to_bytes()}
        if self.settings.erasures is not None:
            active: list[StateValue] = [*sorted(self.settings.erasures.active)]
            state["erased"] = active
        write.put_state(f"{self.settings.consumer}/state", encode_state(state))
        write.put_state(f"{self.settings.consumer}/retained", str(self.progress.offset).encode())
        self._snapshot = self.progress

    def _differs(self, recorded: JoinProgress) -> JoinError:
        return JoinError(
            f"Joiner '{self.settings.consumer}', entries {self._snapshot.offset} to {recorded.offset} read again",
            got=f"{self.progress.examples} examples up to entry {self.progress.offset}, checksum "
            f"{self.progress.digest}", expected=f"{recorded.examples}, checksum {recorded.digest}",
            do="The event log is not the one that was read before, or the join's settings changed.",
        )  # fmt: skip


def _numbers(value: object) -> list[int]:
    assert isinstance(value, list)
    return [int(number) for number in value]


def _progress_in(state: State) -> JoinProgress:
    data = state["progress"]
    assert isinstance(data, bytes)
    return JoinProgress.from_bytes(data)
