"""A ledger that is kept: every record goes to the log before the answer leaves, and a failed write takes it back."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headrace.errors import LeaseLost, StoreError, VersionError
from headrace.runtime.ledger import Ledger
from headrace.runtime.ledger_file import REMEMBERED, Durability, LedgerFile
from headrace.runtime.ledger_grants import Listed, judged
from headrace.runtime.ledger_parts import Part, QueueConfig
from headrace.runtime.ledger_state import capture, check_settings, check_state, load

SNAPSHOT_RECORDS = 20_000
"""Records after which a snapshot takes the place of those before it."""
REMEMBERED_CHARACTERS = 64 << 20
"""Of steps and their notes together; beyond it the oldest are forgotten."""


class KeptLedger:
    """A ledger, the log below it, and the steps it remembers.

    Args:
        path: The log's file; None keeps nothing.
        config: Settings of the queue.
        durability: See `LedgerFile`.
        rebuilt: Called with the ledger whenever it was read anew.

    Thread-safety: `together` is the lock; `do` and what reads `ledger` are called inside it.
    """

    def __init__(
        self, path: Path | str | None, config: QueueConfig, durability: Durability, rebuilt: Callable[[Ledger], None]
    ) -> None:
        self.config, self._rebuilt = config, rebuilt
        self.lock, self._depth, self._failures = threading.RLock(), 0, 0
        self._file = None if path is None else LedgerFile(path, durability)
        self.ledger, self.steps, self._remembered = Ledger(config), dict[int, str](), 0
        self._seq = self._snapshot_seq = 0
        self._stale = True
        self._reload()

    def _reload(self) -> None:
        """Begin at the last durable moment; where the log cannot be read, nothing is answered until it can be."""
        self._stale = True
        ledger, steps = Ledger(self.config), list[tuple[int, str]]()
        end = since = 0
        if self._file is not None:
            found = self._file.replay()
            if found.snapshot is not None:
                ledger = load(check_state(found.snapshot, self.config), self.config)
            steps += found.earlier_steps
            for step, body in found.records:
                record = json.loads(body)
                if record[0] == "settings":
                    check_settings(record[1], self.config)
                elif step is None:
                    ledger.apply(record)
                else:
                    steps.append((step, body))
                    ledger.apply([*record, step])
            end, since = self._file.end, self._file.end - len(found.records)
            if end == 0:
                end = 1
                self._file.append(1, json.dumps(["settings", self.config.pinned()]))
                self._file.flush(1)
        self.ledger, self.steps, self._remembered = ledger, {}, 0
        self._seq, self._snapshot_seq = end, since
        for step, body in steps:
            self._remember(step, body)
        self._stale = False
        self._rebuilt(ledger)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make the changes of a block durable with one write, at its end; other threads wait for the block only.

        Raises:
            StoreError: If a write failed, now or before, and the log could not be read since; nothing is kept of it.
        """
        with self.lock:
            if self._stale:
                self._reload()
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
            outermost = self._depth == 0 and self._file is not None
            if outermost and self._seq - self._snapshot_seq >= SNAPSHOT_RECORDS:
                self.snapshot(forget=False)
            seq, failures = self._seq, self._failures
        if outermost:
            self._make_durable(seq, failures)

    def _make_durable(self, seq: int, failures: int) -> None:
        assert self._file is not None
        try:
            if failures == self._failures:
                self._file.flush(seq)
        except (StoreError, LeaseLost):
            with self.lock:
                if failures == self._failures:
                    self._failures += 1
                    self._reload()
            raise
        if failures != self._failures:
            raise StoreError(f"Log {self._file.path}", got="a write that failed", expected="a durable record",
                             do="Nothing of the call was kept; repeat it.")  # fmt: skip

    def do(self, *record: Any, step: int | None = None) -> list[Part]:
        """Carry out a change and record it; return the parts that became free."""
        body = json.dumps(record, separators=(",", ":"))
        freed = self.ledger.apply(list(record) if step is None else [*record, step])
        self._seq += 1
        if step is not None:
            self._remember(step, body)
        if self._file is not None:
            self._file.append(self._seq, body, step)
        return freed

    def _remember(self, step: int, body: str) -> None:
        self.steps[step] = body
        self._remembered += len(body)
        while len(self.steps) > REMEMBERED or self._remembered > REMEMBERED_CHARACTERS:
            self._remembered -= len(self.steps.pop(next(iter(self.steps))))

    def commit(self, step: int, listed: list[Listed], note: str) -> list[bool]:
        """Record a step if each of its contributions may be; a step that is decided keeps its answer.

        Raises:
            VersionError: If it was decided with other contributions.
        """
        known = self.decision(step)
        if known is None:
            answers = judged(self.ledger, listed)
            if all(answers):
                self.do("commit", listed, note, step=step)
            return answers
        if known[0] != listed:
            raise VersionError(
                f"Step {step}", got="other contributions than those it was committed with",
                expected=f"{len(known[0])} contributions, the first {known[0][:1]}",
                do="It is decided: apply what `recorded(step)` says.",
            )  # fmt: skip
        return [True] * len(listed)

    def decision(self, step: int) -> tuple[list[Listed], str] | None:
        """Return contributions and note of a step, None if it is not remembered."""
        body = self.steps.get(step)
        if body is None:
            return None
        _, listed, note = json.loads(body)
        return [(shard, fence, start, stop) for shard, fence, start, stop in listed], note

    def replace(self, ledger: Ledger) -> None:
        """Put another ledger in the place of this one; the steps are forgotten."""
        self.ledger, self.steps, self._remembered = ledger, {}, 0
        self._seq += 1
        self._rebuilt(ledger)
        self.snapshot(forget=True)

    def snapshot(self, *, forget: bool) -> None:
        """Write the whole ledger down, so that the records before it are needed no more."""
        self._snapshot_seq = self._seq
        if self._file is not None:
            body = json.dumps(capture(self.ledger), separators=(",", ":"))
            self._file.append_snapshot(self._seq, body, forget=forget)

    def close(self) -> None:
        """Close the log's file."""
        if self._file is not None:
            self._file.close()
