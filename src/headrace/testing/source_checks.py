"""The contracts of `Source`, `Feedback` and `WorkQueue`, as checks: where work comes from and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headrace.errors import LeaseLost, SourceEnded
from headrace.protocols import Feedback, Lease, Resumable, Source, WorkQueue
from headrace.testing.contract import CONTRACTS, Contract, Verdict
from headrace.testing.equivalence import first_difference
from headrace.testing.plain import copied_state
from headrace.types import Events, Position

CONTRACTS["Source"] = {
    1: "read returns Events of at most `limit` rows, or None when there is nothing yet",
    2: "the rows do not depend on how many are asked for at a time",
    3: "position is a plain dict of names to whole numbers, does not move by itself, and is not changed by later reads",
    4: "seek to a position repeats the rows after it, the same ones in the same order",
    5: "a fresh source continues at a position of another one",
    6: "seek to {} is the beginning",
    7: "a finite source ends with SourceEnded, every time it is asked, and can still seek back",
    8: "seek does not keep the caller's dict: changing it later moves nothing",
}
CONTRACTS["Feedback"] = {
    1: "answers are Events, or None when there are none",
    2: "every answer belongs to a request that was collected, and to an item of it",
    3: "an answer is given once, and not before it has happened",
    4: "the same requests and predictions get the same answers",
    5: "restore(state()) continues exactly (for Feedback that is Resumable)",
}
CONTRACTS["WorkQueue"] = {
    1: "a lease goes to one worker at a time; None when no shard is free",
    2: "fences only grow",
    3: "a finished shard is never leased again",
    4: "expire frees exactly the leases that ended before the time, and says how many",
    5: "an expired shard goes to the next worker; the first one's `done` is refused with LeaseLost",
    6: "every shard is finished in the end, whoever loses a lease",
}

PAUSES = 200
"""How many times in a row a source may say "nothing yet" during a check."""


def check_source(make: Callable[[], Source], *, rows: int = 300) -> Verdict:
    """Put a source through the contract of `Source`.

    Args:
        make: Returns a fresh source at its beginning, every time over the same events.
        rows: Rows to look at; an endless source is cut there. Clause 7 is untried when the source has more.

    Returns:
        Which clauses held and which could not be tried.

    Raises:
        ContractViolation: At the first clause that does not hold.

    Example:
        >>> from headrace.testing.fakes import ListSource
        >>> events = Events.from_columns({"key": ["r1", "r2"], "kind": ["click"] * 2, "event_time": [1, 2]})
        >>> check_source(lambda: ListSource([events])).untried
        ()
    """
    trial = _SourceTrial(make, rows)
    trial.chunks()
    trial.positions()
    trial.end()
    return trial.contract.verdict()


class _SourceTrial:
    def __init__(self, make: Callable[[], Source], rows: int) -> None:
        self.make, self.rows, self.contract = make, rows, Contract("Source")
        self.whole: list[dict[str, object]] = []
        self.ended = False

    def read(self, source: Source, limit: int) -> list[dict[str, object]] | None:
        """Return rows as dicts, waiting while there is nothing yet; None at the end."""
        for _ in range(PAUSES):
            try:
                events = source.read(limit)
            except SourceEnded:
                return None
            if events is None:
                continue
            self.contract.require(1, isinstance(events, Events), f"read returned a {type(events).__name__}")
            count = len(events)
            self.contract.require(1, count <= limit, f"{count} rows for a limit of {limit}")
            if count:
                # a null and an absent column say the same, and how entries are cut decides which of them comes
                listed = events.batch.to_pylist()
                return [{name: value for name, value in row.items() if value is not None} for row in listed]
        self.contract.fail(1, f"nothing came in {PAUSES} reads, neither rows nor SourceEnded")
        return None

    def take(self, source: Source, limits: Sequence[int], rows: int) -> list[dict[str, object]]:
        """Return the next `rows` rows (fewer at the end), asked for in these steps, over and over."""
        taken: list[dict[str, object]] = []
        step = 0
        while len(taken) < rows:
            some = self.read(source, min(limits[step % len(limits)], rows - len(taken)))
            if some is None:
                break
            taken += some
            step += 1
        return taken

    def chunks(self) -> None:
        self.whole = self.take(self.make(), [64], self.rows)
        self.contract.require(1, bool(self.whole), "the source has no rows; give the check some")
        for limits in ([1], [3, 1, 7], [self.rows]):
            rows = self.take(self.make(), limits, self.rows)
            self.contract.same(2, first_difference(self.whole, rows, path="rows"), f"asked for {limits} rows at a time")

    def positions(self) -> None:
        contract, source, seen = self.contract, self.make(), list[tuple[int, Position]]()
        count, step = 0, 0
        while count < len(self.whole) and step < 60:
            position = source.position()
            contract.require(3, type(position) is dict, f"position is {position!r}")
            plain = all(type(name) is str and type(rows) is int for name, rows in position.items())
            contract.require(3, plain, f"position is {position!r}")
            contract.same(3, first_difference(position, source.position()), "asked twice")
            seen.append((count, dict(position)))
            rows = self.take(source, [1 + step % 9], min(1 + step % 9, len(self.whole) - count))
            contract.same(3, first_difference(dict(position), seen[-1][1]), "an earlier position after a read")
            count, step = count + len(rows), step + 1
        for index, (start, position) in enumerate(reversed(seen)):
            where = source if index % 2 else self.make()
            where.seek(position)
            self.follows(4 if index % 2 else 5, where, start, f"after seek to row {start}")
        middle, given = seen[len(seen) // 2]
        source.seek(given)
        for name in given:
            given[name] = 0
        given["elsewhere"] = 3
        self.follows(8, source, middle, "after the caller changed the dict it had given")
        source.seek({})
        self.follows(6, source, 0, "after seek to {}")

    def follows(self, clause: int, source: Source, start: int, when: str) -> None:
        """Require that the next rows are those from row `start` on."""
        expected = self.whole[start : start + 12]
        rows = self.take(source, [5], len(expected))
        self.contract.same(clause, first_difference(expected, rows, path="rows"), when)

    def end(self) -> None:
        source, count = self.make(), 0
        while count <= self.rows:
            some = self.read(source, 64)
            if some is None:
                break
            count += len(some)
        else:
            return
        for _ in range(2):
            self.contract.require(7, self.read(source, 64) is None, "rows came after the end")
        last = source.position()
        fresh = self.make()
        fresh.seek(last)
        self.contract.require(7, self.read(fresh, 64) is None, "a fresh source at the last position has rows")
        source.seek({})
        self.follows(7, source, 0, "back from the end")


def check_feedback(make: Callable[[], Feedback], chunks: Sequence[tuple[Events, Events]]) -> Verdict:
    """Put feedback through the contract of `Feedback`.

    Args:
        make: Returns fresh feedback, every time of the same configuration.
        chunks: (requests, predictions) as a loop would give them, in order; at least one answer should come back.

    Returns:
        Which clauses held and which could not be tried.

    Raises:
        ContractViolation: At the first clause that does not hold.

    Example:
        >>> from headrace.testing.fakes import AnswerEverything
        >>> asked = Events.from_columns({"key": ["r1"], "kind": ["impression"], "event_time": [1], "item": ["a"]})
        >>> check_feedback(AnswerEverything, [(asked, asked)]).untried
        (5,)
    """
    contract, feedback = Contract("Feedback"), make()
    asked, given, now = set[tuple[str, str]](), set[tuple[str, str, str, int]](), -(2**63)
    answers: list[Events | None] = []
    for requests, predictions in chunks:
        asked |= set(zip(requests.column("key").to_pylist(), requests.column("item").to_pylist(), strict=True))
        now = max(now, int(requests.times.max()) if len(requests) else now)
        answer = feedback.collect(requests, predictions)
        good = answer is None or isinstance(answer, Events)
        contract.require(1, good, f"collect returned a {type(answer).__name__}")
        answers.append(answer)
        for row in [] if answer is None else answer.batch.to_pylist():
            pair = (row["key"], row.get("item"))
            contract.require(2, pair in asked, f"an answer to {pair}, which was not collected")
            whole = (*pair, row["kind"], row["event_time"])
            contract.require(3, whole not in given, f"the answer {whole} came twice")
            contract.require(3, row["event_time"] <= now, f"the answer {whole} came at {now}, before it happened")
            given.add(whole)
    contract.require(2, bool(given), "no answer came back at all; give the check more requests")
    again = make()
    repeated = [again.collect(requests, predictions) for requests, predictions in chunks]
    contract.same(4, first_difference(answers, repeated, path="answers"), "a second, fresh one")
    if isinstance(feedback, Resumable):
        middle = len(chunks) // 2
        first = make()
        for requests, predictions in chunks[:middle]:
            first.collect(requests, predictions)
        assert isinstance(first, Resumable)
        state = first.state()
        second = make()
        assert isinstance(second, Resumable)
        second.restore(copied_state(state))
        rest = [second.collect(requests, predictions) for requests, predictions in chunks[middle:]]
        contract.same(5, first_difference(answers[middle:], rest, path="answers"), "after restore")
    return contract.verdict()


def check_work_queue(make: Callable[[Sequence[str]], WorkQueue]) -> Verdict:
    """Put a queue of work through the contract of `WorkQueue`.

    Args:
        make: Returns a fresh queue of the given shards whose clock stands still during the check.

    Returns:
        Which clauses held and which could not be tried.

    Raises:
        ContractViolation: At the first clause that does not hold.

    Example:
        >>> from headrace.testing.fakes import MemoryQueue
        >>> check_work_queue(lambda shards: MemoryQueue(shards, lease_s=10.0)).untried
        ()
    """
    contract, shards = Contract("WorkQueue"), ["a", "b", "c", "d"]
    queue, fences = make(shards), list[int]()

    def take(worker: str) -> Lease:
        lease = queue.lease(worker)
        if lease is None:
            contract.fail(1, f"no lease for {worker} although a shard is free")
        assert lease is not None
        contract.require(2, not fences or lease.fence > max(fences), f"fence {lease.fence} after {fences}")
        contract.require(1, lease.worker == worker, f"a lease for {worker} names {lease.worker}")
        fences.append(lease.fence)
        return lease

    leases = [take(f"w{number}") for number in range(4)]
    contract.require(1, sorted(lease.shard for lease in leases) == shards, "four leases do not cover four shards")
    contract.require(1, queue.lease("w9") is None, "a fifth lease on four shards")
    queue.done(leases[0])
    contract.require(3, queue.lease("w9") is None, "the finished shard was leased again")
    contract.require(4, queue.expire(min(lease.expires for lease in leases) - 1.0) == 0, "expire freed living leases")
    queue.done(leases[1])
    freed = queue.expire(max(lease.expires for lease in leases) + 1.0)
    contract.require(4, freed == 2, f"expire freed {freed} leases, expected 2")
    second = [take("w5"), take("w6")]
    same = {lease.shard for lease in second} == {lease.shard for lease in leases[2:]}
    contract.require(5, same, "the freed shards are not the expired ones")
    contract.refuses(5, lambda: queue.done(leases[2]), "`done` of a lease that somebody else has now", LeaseLost)
    contract.require(5, queue.lease("w7") is None, "the refused `done` freed a shard")
    for lease in second:
        queue.done(lease)
    contract.require(6, queue.lease("w8") is None, "a shard is left although all were done")
    contract.require(6, queue.expire(max(lease.expires for lease in second) + 1.0) == 0, "a finished lease expired")
    return contract.verdict()
