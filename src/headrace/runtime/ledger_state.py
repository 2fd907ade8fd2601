"""The ledger as plain values: as a snapshot of its log (leases and all) and as state of a manifest (leases folded)."""

from __future__ import annotations

from time import time_ns
from typing import Any

from headrace.errors import ConfigError, DataError
from headrace.runtime.ledger import Ledger
from headrace.runtime.ledger_parts import Book, Held, Part, Quarantined, QueueConfig, SourceEntry
from headrace.runtime.ledger_ranges import RangeSet

FORMAT = 1
FIELDS = {"format", "settings", "fence", "epochs", "last_step", "repeated", "arrivals", "sources", "books", "held",
          "marks"}  # fmt: skip
OF_SNAPSHOTS = {"done", "last_mark"}


def _pairs(ranges: RangeSet) -> list[list[int]]:
    return [[start, stop] for start, stop in ranges]


def _part(part: Part) -> list[Any]:
    return [part.source, part.epoch, part.first, part.last, _pairs(part.ranges), part.failures, part.losses]


def _read_part(values: list[Any], mark: int = 0) -> Part:
    source, epoch, first, last, ranges, failures, losses = values
    return Part(source, epoch, first, last, RangeSet(ranges), failures, losses, mark)


def capture(ledger: Ledger) -> dict[str, Any]:
    """Return all of a ledger as plain values, leases included; what `load` reads."""
    found = _capture(ledger)
    found["done"] = ledger.done_rows
    found["held"] = [
        [held.fence, held.worker, _part(held.part), _pairs(held.progress), held.moved, held.split]
        for held in ledger.held.values()
    ]
    found["marks"] = [[mark, *_part(part)] for mark, part in ledger.marks.items()]
    found["last_mark"] = ledger.last_mark  # records behind a snapshot name marks by their numbers
    return found


def manifest(ledger: Ledger) -> dict[str, Any]:
    """Return what a manifest keeps: as `capture`, but nobody holds anything, as it will be after a restore.

    What is held becomes free again, or dropped under at-most-once: whoever holds it may have trained on it.
    """
    found = _capture(ledger)
    marks = [_part(part) for part in ledger.marks.values()]
    books = {(book[0], book[1]): book for book in found["books"]}
    for held in ledger.held.values():
        part = held.part
        if ledger.config.mode == "at_most_once":
            book = books[part.source, part.epoch]
            dropped = RangeSet(book[3])
            dropped.update(part.ranges)
            book[3] = _pairs(dropped)
        elif part.failures or part.losses:
            free = Part(part.source, part.epoch, part.first, part.last, part.ranges.copy(), part.failures, part.losses)
            free.ranges.update(held.progress)
            marks.append(_part(free))
    found["marks"] = [[number, *part] for number, part in enumerate(marks, start=1)]
    return found


def _capture(ledger: Ledger) -> dict[str, Any]:
    return {
        "format": FORMAT, "settings": ledger.config.pinned(), "fence": ledger.fence, "epochs": ledger.epochs,
        "last_step": ledger.last_step, "repeated": ledger.repeated_rows, "arrivals": ledger.arrivals,
        "sources": [[entry.name, entry.stream, entry.start, entry.stop, entry.closed, [list(cut) for cut in entry.cuts]]
                    for entry in ledger.sources.values()],
        "books": [[source, epoch, _pairs(book.consumed), _pairs(book.dropped),
                   [[place, row.row, row.failures, row.error] for place, row in book.quarantined.items()]]
                  for (source, epoch), book in ledger.books.items()],
        "held": [], "marks": [],
    }  # fmt: skip


def check_state(found: object, config: QueueConfig) -> dict[str, Any]:
    """Return a state that belongs to a queue of this configuration.

    Raises:
        DataError: If it is no state of a queue.
        ConfigError: If it was taken with other pinned settings.
    """
    if not isinstance(found, dict) or set(found) - OF_SNAPSHOTS != FIELDS or found["format"] != FORMAT:
        got = sorted(found) if isinstance(found, dict) else type(found).__name__
        raise DataError("State of a ShardQueue", got=got, expected=f"the fields {sorted(FIELDS)}, format {FORMAT}")
    check_settings(found["settings"], config)
    return found


def check_settings(found: object, config: QueueConfig) -> None:
    """Raise ConfigError unless a log or a state was made with the pinned settings of this configuration."""
    if found != config.pinned():
        raise ConfigError(
            "Settings of the work queue", got=config.pinned(), expected=f"{found}, those it was begun with",
            do="With other settings the same ranges are other rows: keep them, or begin in another folder.",
        )  # fmt: skip


def load(found: dict[str, Any], config: QueueConfig) -> Ledger:
    """Return the ledger that `capture` or `manifest` wrote down."""
    ledger = Ledger(config)
    ledger.fence, ledger.epochs, ledger.last_step = found["fence"], found["epochs"], found["last_step"]
    ledger.repeated_rows, ledger.arrivals = found["repeated"], found["arrivals"]
    for name, stream, start, stop, closed, cuts in found["sources"]:
        entry = SourceEntry(name, len(ledger.sources), stream, start, stop, closed, [(cut[0], cut[1]) for cut in cuts])
        ledger.sources[name] = entry
    for source, epoch, consumed, dropped, quarantined in found["books"]:
        book = ledger.books[source, epoch] = Book(RangeSet(consumed), RangeSet(dropped))
        book.settled = book.consumed.copy()
        book.settled.update(book.dropped)
        for place, row, failures, error in quarantined:
            book.quarantine(place, Quarantined(source, epoch, row, failures, error))
            ledger.bad_rows.add((source, row))
        ledger.consumed_rows += book.consumed.rows
        ledger.dropped_rows += book.dropped.rows
        ledger.quarantined_rows += len(quarantined)
    for mark, *values in found["marks"]:
        ledger.marks[mark] = _read_part(values, mark)
    ledger.last_mark = found.get("last_mark", len(ledger.marks))
    for fence, worker, values, progress, moved, split in found["held"]:
        held = Held(fence, worker, _read_part(values), RangeSet(progress), moved, split)
        ledger.held[fence] = held
        ledger.by_worker.setdefault(worker, {})[fence] = held
    ledger.done_rows = found.get("done", ledger.consumed_rows)
    return ledger


def restored(state: dict[str, Any], live: Ledger) -> Ledger:
    """Return the ledger after a restore: the state's places, every fence above all that were ever given out.

    Where the log survived, the live ledger knows them. Where it was lost, the clock does: fences go on from the
    nanosecond of the restore, and none is given out faster than that, so a later restore is above all of an earlier.

    What a live stream has grown by stays known, rows quarantined since stay so, and under at-most-once whatever was
    handed out since is dropped, because it may have been trained on.
    """
    ledger = load(state, live.config)
    ledger.fence = max(live.fence + 1, ledger.fence + 1, time_ns())
    ledger.arrivals = max(ledger.arrivals, live.arrivals)
    for entry in live.sources.values():
        mine = ledger.sources.get(entry.name)
        if mine is None:
            ledger.apply(["source", entry.name, entry.stream, entry.start, entry.stop, entry.closed])
            continue
        if entry.stop > mine.stop:
            mine.stop, mine.cuts = entry.stop, list(entry.cuts)
        mine.closed = mine.closed or entry.closed
    while live.config.mode == "at_most_once" and ledger.epochs < live.epochs:
        ledger.apply(["epoch", ledger.epochs])
    for (source, epoch), old in live.books.items():
        book = ledger.books.get((source, epoch))
        if book is None:
            continue
        for place, row in old.quarantined.items():
            if not book.settled.covers(place, place + 1):
                book.quarantine(place, row)
                ledger.quarantined_rows += 1
                ledger.bad_rows.add((source, row.row))
        if live.config.mode == "at_most_once":
            given = [*old.consumed, *old.dropped]
            given += [pair for held in live.held.values() if (held.part.source, held.part.epoch) == (source, epoch)
                      for pair in held.part.ranges]  # fmt: skip
            for start, stop in given:
                for lo, hi in list(book.settled.gaps(start, stop)):
                    book.drop(lo, hi)
                    ledger.dropped_rows += hi - lo
    _trim_marks(ledger)
    return ledger


def _trim_marks(ledger: Ledger) -> None:
    """Take out of the marked parts what is settled."""
    for mark, part in list(ledger.marks.items()):
        settled = ledger.books[part.source, part.epoch].settled
        part.ranges = RangeSet([gap for start, stop in part.ranges for gap in settled.gaps(start, stop)])
        if not part.ranges:
            del ledger.marks[mark]
