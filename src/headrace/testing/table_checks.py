"""The contract of `Table`, as a check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from headrace.errors import StaleError
from headrace.protocols import Table
from headrace.testing.contract import CONTRACTS, Contract, Verdict
from headrace.testing.equivalence import first_difference
from headrace.testing.plain import copied_state, not_plain
from headrace.types import RowChange

CONTRACTS["Table"] = {
    1: "lookup of ids (N,) returns rows (N, D) float32, for no ids, repeated ids and any order too",
    2: "every int64 is an id: none is reserved",
    3: "lookup has no side effects",
    4: "an id without a row reads its initial row, a pure function of configuration and id",
    5: "update moves the rows of the admitted ids it is given and no others",
    6: "the order of the ids within an update does not matter, to the bit",
    7: "learning is deterministic: the same calls give the same bits",
    8: "rows and gradients are copied: writing into them afterwards changes nothing",
    9: "the update that reaches the threshold inserts and learns; earlier gradients are dropped",
    10: "admission counts occurrences (not calls), and only update counts",
    11: "changes names every id once, ascending, with its latest row; no id is both put and removed",
    12: "changes after the last mark are none, and asking does not consume",
    13: "changes that are no longer kept are refused with StaleError",
    14: "evict removes rows last touched before the time, keeps the others and returns how many it removed",
    15: "an evicted id reads its initial row and is named in `removed`",
    16: "an evicted id that returns starts with fresh optimiser state",
    17: "evict forgets counts too: a returning id has to be admitted again",
    18: "changes since each mark, applied one after another to an empty dict, give the table's rows",
    19: "state is plain values, bytes and tensors, and a snapshot: later learning does not change it",
    20: "restore into a fresh table is exact, and both go on with the same bits",
    21: "restore refuses the state of another configuration before changing anything",
    22: "gradients of a wrong shape are refused and nothing is changed",
}

START_US = 1_700_000_000_000_000
SURE = 1 << 20
"""Occurrences that admit an id under any rule of admission, but for odds of one in millions."""


def check_table(
    make: Callable[[], Table], *, others: Sequence[Callable[[], Table]] = (), admit_at: int | None = 1
) -> Verdict:
    """Put a table through the contract of `Table`.

    Args:
        make: Returns a fresh, empty table; every time with the same configuration.
        others: Return tables of other configurations, whose states must be refused (another dimension, rule, seed).
        admit_at: Occurrences at which an id is admitted; None when chance decides (clauses 9, 10 and 17 are untried).

    Returns:
        Which clauses held and which could not be tried.

    Raises:
        ContractViolation: At the first clause that does not hold.

    Example:
        >>> from headrace.store import ReferenceTable, TableConfig
        >>> verdict = check_table(lambda: ReferenceTable(TableConfig(name="user", dim=4)))
        >>> verdict.role, 3 in verdict.held
        ('Table', True)
    """
    trial = _Trial(make, admit_at)
    trial.lookups()
    trial.admission()
    trial.any_id()
    trial.initial_rows()
    trial.updates()
    trial.history()
    trial.copies()
    trial.stale_history()
    trial.eviction()
    trial.returning()
    trial.replica()
    trial.resume()
    trial.refusals(others)
    return trial.contract.verdict()


def _ids(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


class _Trial:
    """One table on trial; every method tries some clauses on fresh tables."""

    def __init__(self, make: Callable[[], Table], admit_at: int | None) -> None:
        self.make, self.admit_at, self.contract = make, admit_at, Contract("Table")
        self.sure = max(admit_at or SURE, 1)
        self.dim = 0

    def gradient(self, ids: Tensor, step: int) -> Tensor:
        """Return gradients that depend on id and step only, so that any order of ids gets the same rows."""
        phase = torch.remainder(ids, 1009).double()[:, None] * 0.37 + torch.arange(self.dim).double()[None, :]
        return (torch.sin(phase + 1.7 * step) + 0.25).float()

    def learn(self, table: Table, ids: Tensor, step: int, *, count: int | None = None, time: int | None = None) -> None:
        counts = torch.full_like(ids, self.sure if count is None else count)
        times = torch.full_like(ids, START_US + step if time is None else time)
        table.update(ids, self.gradient(ids, step), counts, times)

    def lookups(self) -> None:
        contract, table = self.contract, self.make()
        ids = _ids(5, -7, 5, 123456789)
        rows = table.lookup(ids)
        contract.require(1, isinstance(rows, Tensor), lambda: f"got a {type(rows).__name__}")
        good = rows.dim() == 2 and rows.shape[0] == 4 and rows.dtype == torch.float32
        contract.require(1, good, lambda: f"got {rows.dtype} {tuple(rows.shape)} for 4 ids")
        self.dim = int(rows.shape[1])
        empty = table.lookup(_ids())
        contract.require(1, tuple(empty.shape) == (0, self.dim), lambda: f"no ids gave rows {tuple(empty.shape)}")
        contract.require(1, bool((rows[0] == rows[2]).all()), "the same id twice in one call gave two rows")
        contract.same(1, first_difference(table.lookup(ids.flip(0)), rows.flip(0)), "in reverse order")
        twin = self.make()
        for one in (table, twin):
            self.learn(one, ids[:2], 1)
        contract.same(7, first_difference(table.lookup(ids), twin.lookup(ids)), "rows of two tables")
        contract.same(19, not_plain(table.state()), "found")
        state, mark, before = copied_state(table.state()), table.mark(), table.lookup(_ids(5, 8))
        for _ in range(3):
            table.lookup(_ids(5, -7, 8, 9, 10))
        contract.require(3, table.mark() == mark, lambda: f"mark moved from {mark} to {table.mark()}")
        contract.same(3, first_difference(state, table.state()), "the state after some lookups")
        contract.same(3, first_difference(before, table.lookup(_ids(5, 8))), "rows after some lookups")

    def any_id(self) -> None:
        contract, table = self.contract, self.make()
        edges = _ids(0, -1, 1, -(2**63), 2**63 - 1, 2**63 - 2, -(2**63) + 1)
        for step in range(2):
            self.learn(table, edges, step)
        plain, learned = self.make().lookup(edges), table.lookup(edges)
        for index, number in enumerate(edges.tolist()):
            contract.require(2, bool((plain[index] != learned[index]).any()), f"id {number} did not learn")
        named = sorted(table.changes(0).ids.tolist())
        contract.require(2, named == sorted(edges.tolist()), f"changes name {named}")

    def initial_rows(self) -> None:
        contract, one, other = self.contract, self.make(), self.make()
        ids = torch.arange(-50, 50)
        self.learn(other, torch.arange(1000, 1020), 1)
        shuffled = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(3))]
        later = torch.stack([other.lookup(shuffled[i : i + 1])[0] for i in range(len(ids))])
        contract.same(4, first_difference(one.lookup(shuffled), later), "a second table, asked one by one after others")

    def updates(self) -> None:
        contract, ids, rest = self.contract, torch.arange(100, 140), torch.arange(140, 160)
        table, mixed, again = self.make(), self.make(), self.make()
        before = table.lookup(ids)
        for step in range(3):
            order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(step))
            self.learn(table, ids, step)
            self.learn(again, ids, step)
            self.learn(mixed, ids[order], step)
        moved = (table.lookup(ids) != before).any(dim=1)
        contract.require(5, bool(moved.all()), lambda: f"{int((~moved).sum())} of {len(ids)} rows did not move")
        contract.same(5, first_difference(self.make().lookup(rest), table.lookup(rest)), "rows of ids not given")
        held = table.lookup(ids[20:])
        self.learn(table, ids[:20], 9)
        contract.same(5, first_difference(held, table.lookup(ids[20:])), "rows of ids not in the last update")
        self.learn(again, ids[:20], 9)
        self.learn(mixed, ids[:20].flip(0), 9)
        contract.same(7, first_difference(table.lookup(ids), again.lookup(ids)), "rows of two tables")
        contract.same(7, first_difference(table.state(), again.state()), "states of two tables")
        contract.same(6, first_difference(table.lookup(ids), mixed.lookup(ids)), "rows after shuffled updates")
        held = table.lookup(ids)
        table.update(_ids(), torch.zeros(0, self.dim), _ids(), _ids())
        contract.same(5, first_difference(held, table.lookup(ids)), "rows after an update of no ids")

    def copies(self) -> None:
        table, ids = self.make(), torch.arange(10)
        self.learn(table, ids, 1)
        rows = table.lookup(ids)
        kept = rows.clone()
        rows.zero_()
        self.contract.same(8, first_difference(kept, table.lookup(ids)), "after writing into looked-up rows")
        grads, counts, times = self.gradient(ids, 2), torch.full_like(ids, self.sure), torch.full_like(ids, START_US)
        own = ids.clone()
        table.update(own, grads, counts, times)
        kept, moved = table.lookup(ids), table.changes(0)
        for tensor in (own, grads, counts, times, moved.ids, moved.rows):
            tensor.zero_()
        self.contract.same(8, first_difference(kept, table.lookup(ids)), "after writing into what update was given")
        self.contract.same(8, first_difference(ids, table.changes(0).ids), "after writing into returned changes")

    def admission(self) -> None:
        contract, ids, threshold = self.contract, torch.arange(7, 12), self.admit_at
        if threshold is None:
            return
        table, whole = self.make(), self.make()
        if threshold > 1:
            self.learn(table, ids, 1, count=threshold - 1)
            contract.same(9, first_difference(self.make().lookup(ids), table.lookup(ids)), "below the threshold")
            contract.require(9, not len(table.changes(0)), "rows that are not admitted stand in changes")
            for _ in range(threshold + 1):
                table.lookup(ids)
            contract.same(10, first_difference(self.make().lookup(ids), table.lookup(ids)), "after lookups only")
        self.learn(table, ids, 2, count=1)
        self.learn(whole, ids, 2, count=threshold)
        inserted = sorted(whole.changes(0).ids.tolist())
        contract.require(10, inserted == ids.tolist(), f"{threshold} occurrences in one call inserted {inserted}")
        contract.same(9, first_difference(whole.lookup(ids), table.lookup(ids)), "at the threshold, in other calls")
        moved = (table.lookup(ids) != self.make().lookup(ids)).any(dim=1)
        contract.require(9, bool(moved.all()), f"occurrence {threshold} did not admit")
        calls = self.make()
        for step in range(threshold):
            admitted = len(calls.changes(0)) > 0
            contract.require(10, not admitted, f"admitted after {step} of {threshold} occurrences")
            self.learn(calls, ids, 2, count=1)
        contract.same(10, first_difference(whole.lookup(ids), calls.lookup(ids)), "one a call, or all in one")

    def history(self) -> None:
        contract, table = self.contract, self.make()
        contract.require(12, not len(table.changes(table.mark())), "a fresh table has changes")
        self.learn(table, _ids(30, 10, 20), 1)
        mark = table.mark()
        self.learn(table, _ids(20, -5), 2)
        self.learn(table, _ids(20, 7), 3)
        since = table.changes(mark)
        contract.same(12, first_difference(since, table.changes(mark)), "asked twice")
        put = since.ids.tolist()
        contract.require(11, put == [-5, 7, 20], f"got {put}, expected [-5, 7, 20]")
        contract.same(11, first_difference(table.lookup(since.ids), since.rows), "rows of the changes")
        contract.require(11, not since.removed.numel(), "ids are removed that were not evicted")
        everything = table.changes(0)
        contract.require(
            11, everything.ids.tolist() == [-5, 7, 10, 20, 30], lambda: f"since 0: {everything.ids.tolist()}"
        )
        contract.same(12, first_difference(since, table.changes(mark)), "asked again after an earlier mark")
        contract.require(12, not len(table.changes(table.mark())), "changes after the last mark")
        self.learn(table, _ids(-5), 4, time=START_US + 100)
        table.evict(START_US + 50)
        after = table.changes(mark)
        both = set(after.ids.tolist()) & set(after.removed.tolist())
        contract.require(11, not both, lambda: f"{sorted(both)} are both put and removed")
        contract.require(11, after.ids.tolist() == [-5], lambda: f"after evicting all but -5: put {after.ids.tolist()}")
        removed = after.removed.tolist()
        contract.require(11, removed == sorted(set(removed)), lambda: f"removed is not ascending: {removed}")
        contract.require(15, {10, 20, 30} <= set(removed), lambda: f"10, 20, 30 were evicted, removed names {removed}")

    def stale_history(self) -> None:
        table = self.make()
        forget = getattr(table, "forget", None)
        if forget is None:
            return
        self.learn(table, _ids(1, 2), 1)
        old = table.mark()
        self.learn(table, _ids(2, 3), 2)
        recent = table.mark()
        self.learn(table, _ids(4), 3)
        forget(recent)
        self.contract.refuses(13, lambda: table.changes(old), "changes before the forgotten mark", StaleError)
        kept = table.changes(recent).ids.tolist()
        self.contract.require(13, kept == [4], f"after forget, changes since its own mark are {kept}, expected [4]")

    def eviction(self) -> None:
        contract, table, ids = self.contract, self.make(), torch.arange(5)
        for place in range(5):
            self.learn(table, ids[place : place + 1], 1, time=START_US + 10 * place)
        self.learn(table, ids[3:4], 2, time=START_US + 1)  # a late event does not make the row of id 3 older
        before = table.lookup(ids)
        gone = table.evict(START_US + 20)
        contract.require(14, gone == 2, f"evict returned {gone} for two rows older than the time")
        contract.same(14, first_difference(before[2:], table.lookup(ids[2:])), "rows touched at the time or later")
        contract.same(15, first_difference(self.make().lookup(ids[:2]), table.lookup(ids[:2])), "evicted ids")
        contract.require(14, table.evict(START_US + 20) == 0, "evicting twice removed rows again")
        removed = table.changes(0).removed.tolist()
        contract.require(15, set(removed) <= {0, 1}, f"removed names {removed} after evicting 0 and 1")
        mark = table.mark()
        gone = table.evict(START_US + 1000)
        contract.require(14, gone == 3, f"evict returned {gone} for the three rows left")
        removed = table.changes(mark).removed.tolist()
        contract.require(15, removed == [2, 3, 4], f"removed names {removed}, expected [2, 3, 4]")

    def returning(self) -> None:
        contract, table, fresh, ids = self.contract, self.make(), self.make(), torch.arange(40, 50)
        for step in range(4):
            self.learn(table, ids, step)
        table.evict(START_US + 100)
        mark = table.mark()
        for one in (table, fresh):
            self.learn(one, ids, 200)
            self.learn(one, ids, 201)
        contract.same(16, first_difference(fresh.lookup(ids), table.lookup(ids)), "rows of returned and of fresh ids")
        back = table.changes(mark)
        contract.require(16, back.ids.tolist() == ids.tolist() and not back.removed.numel(), "changes after the return")
        if self.admit_at is None or self.admit_at < 2:
            return
        table = self.make()
        self.learn(table, ids, 1, count=self.admit_at - 1)
        table.evict(START_US + 100)
        self.learn(table, ids, 200, count=self.admit_at - 1)
        contract.same(17, first_difference(self.make().lookup(ids), table.lookup(ids)), "admitted on forgotten counts")
        self.learn(table, ids, 201)
        table.evict(START_US + 300)
        self.learn(table, ids, 400, count=self.admit_at - 1)
        contract.same(17, first_difference(self.make().lookup(ids), table.lookup(ids)), "back below the threshold")

    def replica(self) -> None:
        table, rows, mark = self.make(), dict[int, Tensor](), 0
        universe = torch.arange(60)
        plain = self.make().lookup(universe)
        for step in range(12):
            chosen = universe[(universe * 7 + step * 11) % 5 < 2]
            self.learn(table, chosen, step, time=START_US + 10 * step)
            if step % 4 == 3:
                table.evict(START_US + 10 * (step - 1))
            change, mark = table.changes(mark), table.mark()
            _apply(rows, change)
            copy = torch.stack([rows.get(int(i), plain[int(i)]) for i in universe])
            self.contract.same(18, first_difference(table.lookup(universe), copy), f"the dict after step {step}")

    def resume(self) -> None:
        contract, straight, ids = self.contract, self.make(), torch.arange(30)
        early = straight.mark()
        for step in range(4):
            self.learn(straight, ids[step:], step, time=START_US + 10 * step)
        self.learn(straight, ids + 1000, 5, count=1)
        straight.evict(START_US + 5)
        state = straight.state()
        contract.same(19, not_plain(state), "found")
        frozen = copied_state(state)
        resumed = self.make()
        resumed.restore(state)
        contract.same(20, first_difference(frozen, resumed.state()), "the state right after restore")
        both, nearly = torch.cat([ids, ids + 1000]), max((self.admit_at or 2) - 1, 1)
        for step in range(6, 10):
            for table in (straight, resumed):
                self.learn(table, both[step:], step, count=self.sure if step % 2 else nearly, time=START_US + 10 * step)
        contract.same(19, first_difference(frozen, state), "a state taken earlier")
        gone = [table.evict(START_US + 75) for table in (straight, resumed)]
        contract.require(20, gone[0] == gone[1], f"evict removed {gone[0]} rows straight and {gone[1]} resumed")
        contract.same(20, first_difference(straight.lookup(both), resumed.lookup(both)), "rows")
        contract.same(20, first_difference(straight.changes(early), resumed.changes(early)), "changes since the start")
        contract.same(20, first_difference(straight.state(), resumed.state()), "states")

    def refusals(self, others: Sequence[Callable[[], Table]]) -> None:
        contract, table, ids = self.contract, self.make(), torch.arange(6)
        self.learn(table, ids, 1)
        state = copied_state(table.state())
        counts, times = torch.full_like(ids, self.sure), torch.full_like(ids, START_US)
        wide, short = torch.zeros(6, self.dim + 1), torch.zeros(5, self.dim)
        contract.refuses(22, lambda: table.update(ids, wide, counts, times), "a gradient one column too wide")
        contract.refuses(22, lambda: table.update(ids, short, counts, times), "5 gradients for 6 ids")
        contract.same(22, first_difference(state, table.state()), "the state after a refused update")
        for number, other in enumerate(others):
            stranger = other()
            dim = int(stranger.lookup(ids[:1]).shape[1])
            stranger.update(ids, torch.ones(6, dim), counts, times)
            foreign = stranger.state()
            contract.refuses(21, partial(table.restore, foreign), f"the state of other table {number}")
            contract.same(21, first_difference(state, table.state()), "the state after a refused restore")


def _apply(rows: dict[int, Tensor], change: RowChange) -> None:
    for number in change.removed.tolist():
        rows.pop(number, None)
    for number, row in zip(change.ids.tolist(), change.rows, strict=True):
        rows[number] = row.clone()
