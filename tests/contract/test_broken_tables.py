"""Every clause of the contract of `Table` catches a table that breaks it, and lets a right one pass."""

from __future__ import annotations

import pytest
import torch

from headrace.testing import ContractViolation, DictTable, check_table, clauses
from headrace.types import RowChange

# -------------------------------------------------------------------------------------------------- broken tables


class FlatRows(DictTable):
    def lookup(self, ids):
        return super().lookup(ids).double()


class ReservesZero(DictTable):
    def touch(self, i, grad, count, time):
        if i != 0:
            super().touch(i, grad, count, time)


class ReservesTheLargest(DictTable):
    def touch(self, i, grad, count, time):
        if i != 2**63 - 1:
            super().touch(i, grad, count, time)


class LookupInserts(DictTable):
    def lookup(self, ids):
        for i in ids.tolist():
            if i not in self.rows:
                self.touch(i, torch.zeros(self.dim), self.admit_at, 0)
        return super().lookup(ids)


class LookupCounts(DictTable):
    def lookup(self, ids):
        for i in ids.tolist():
            if i not in self.rows:
                self.counts[i] = self.counts.get(i, 0) + 1
        return super().lookup(ids)


class LookupMovesTheMark(DictTable):
    def lookup(self, ids):
        self.now += 1
        return super().lookup(ids)


class InitialRowsInOrder(DictTable):
    def __init__(self, *args):
        super().__init__(*args)
        self.drawn, self.generator = {}, torch.Generator().manual_seed(0)

    def initial(self, number):
        if number not in self.drawn:
            self.drawn[number] = torch.rand(self.dim, generator=self.generator)
        return self.drawn[number]


class Collides(DictTable):
    """Two ids share a row, as with hashing modulo 16."""

    def lookup(self, ids):
        return super().lookup(ids % 16)

    def initial(self, number):
        return super().initial(number % 16)

    def touch(self, i, grad, count, time):
        super().touch(i % 16, grad, count, time)


class LearnsOnlyHalf(DictTable):
    def touch(self, i, grad, count, time):
        if not 120 <= i < 140:
            super().touch(i, grad, count, time)


class OrderMatters(DictTable):
    def update(self, ids, grads, counts, times):
        super().update(ids, grads * (1 + 0.01 * torch.arange(len(ids)))[:, None], counts, times)


class Random(DictTable):
    def touch(self, i, grad, count, time):
        super().touch(i, grad + torch.randn_like(grad) * 1e-6, count, time)


class KeepsTheCallersRows(DictTable):
    def changes(self, since):
        change = super().changes(since)
        for place, i in enumerate(change.ids.tolist()):
            self.rows[i] = change.rows[place]
        return change


class LearnsEarlierGradients(DictTable):
    """The gradients that came before admission are learned with the one that admits."""

    def touch(self, i, grad, count, time):
        if i not in self.rows:
            self.early[i] = self.early.get(i, 0) + grad
            grad = self.early[i]
        super().touch(i, grad, count, time)

    def __init__(self, *args):
        super().__init__(*args)
        self.early = {}


class DropsTheAdmittingGradient(DictTable):
    def touch(self, i, grad, count, time):
        super().touch(i, grad if i in self.rows else grad * 0, count, time)


class CountsCalls(DictTable):
    def touch(self, i, grad, count, time):
        super().touch(i, grad, 1, time)


class ChangesUnsorted(DictTable):
    def changes(self, since):
        change = super().changes(since)
        return RowChange(change.ids.flip(0), change.rows.flip(0), change.removed)


class ChangesTooMuch(DictTable):
    def changes(self, since):
        return super().changes(min(since, 0) if since < self.now else since)


class ChangesWithOldRows(DictTable):
    def touch(self, i, grad, count, time):
        before = self.rows.get(i)
        super().touch(i, grad, count, time)
        self.old[i] = before if before is not None else self.rows.get(i)

    def __init__(self, *args):
        super().__init__(*args)
        self.old = {}

    def changes(self, since):
        change = super().changes(since)
        rows = [self.old[i] for i in change.ids.tolist()]
        return RowChange(change.ids, torch.stack(rows) if rows else change.rows, change.removed)


class PutAndRemoved(DictTable):
    def evict(self, before):
        put = dict(self.put)
        count = super().evict(before)
        self.put = put
        return count


class StealsChanges(DictTable):
    """Monolith's touched set: asking for the changes empties it."""

    def changes(self, since):
        change = super().changes(since)
        self.put, self.gone = {}, {}
        return change


class ForgetsSilently(DictTable):
    def changes(self, since):
        self.kept_since = 0
        return super().changes(since)

    def forget(self, mark):
        self.put = {i: at for i, at in self.put.items() if at > mark}


class EvictsAtTheTime(DictTable):
    def evict(self, before):
        return super().evict(before + 1)


class EvictsByTheLastCall(DictTable):
    def touch(self, i, grad, count, time):
        super().touch(i, grad, count, time)
        self.times[i] = time


class EvictMiscounts(DictTable):
    def evict(self, before):
        return super().evict(before) + 1


class EvictionNotNamed(DictTable):
    def evict(self, before):
        count = super().evict(before)
        self.gone = {}
        return count


class EvictedReadsZero(DictTable):
    def evict(self, before):
        count = super().evict(before)
        self.dead = set(self.gone)
        return count

    def lookup(self, ids):
        rows = super().lookup(ids)
        rows[[i in getattr(self, "dead", ()) and i not in self.rows for i in ids.tolist()]] = 0
        return rows


class KeepsTheSlotsOfTheEvicted(DictTable):
    def evict(self, before):
        self.grave = {i: slot for i, slot in self.slots.items() if self.times[i] < before}
        return super().evict(before)

    def touch(self, i, grad, count, time):
        fresh = i not in self.rows
        if fresh and i in getattr(self, "grave", ()) and self.counts.get(i, 0) + count >= self.admit_at:
            super().touch(i, grad * 0, count, time)
            self.slots[i] = self.grave.pop(i)
            count = 0
        super().touch(i, grad, count, time)


class KeepsTheCountsOfTheEvicted(DictTable):
    def evict(self, before):
        counts = dict(self.counts)
        count = super().evict(before)
        self.counts = counts
        return count


class ReturnsUnnoticed(DictTable):
    """An id that was evicted and came back between two marks stays `removed` for the replica that asks later."""

    def changes(self, since):
        change = super().changes(since)
        removed = [i for i, at in self.ever.items() if at > since and i not in change.ids.tolist()]
        lost = torch.tensor(sorted({*change.removed.tolist(), *removed}), dtype=torch.int64)
        keep = [i not in self.ever for i in change.ids.tolist()]
        return RowChange(change.ids[keep], change.rows[keep], lost)

    def __init__(self, *args):
        super().__init__(*args)
        self.ever = {}

    def evict(self, before):
        count = super().evict(before)
        if self.now > 8:  # the small clauses never get here; only a long history shows it
            self.ever.update(self.gone)
        return count


class StateOfObjects(DictTable):
    def state(self):
        return {**super().state(), "object": object()}


class StateIsNoCopy(DictTable):
    def state(self):
        state = super().state()
        state["live"] = self.live
        return state

    def __init__(self, *args):
        super().__init__(*args)
        self.live = {}

    def touch(self, i, grad, count, time):
        super().touch(i, grad, count, time)
        self.live[str(i)] = time

    def restore(self, state):
        super().restore(state)
        self.live = dict(state["live"])


class LosesTheSlots(DictTable):
    def restore(self, state):
        super().restore(state)
        self.slots = {i: torch.full((self.dim,), 0.1) for i in self.slots}


class LosesTheCounts(DictTable):
    def state(self):
        return {**super().state(), "counts": {}}


class RestoresAnything(DictTable):
    def restore(self, state):
        super().restore({**state, "dim": self.dim, "seed": self.seed})


class RestoresHalfOfAnything(DictTable):
    def restore(self, state):
        self.now = state["now"] + 5
        super().restore(state)


class TakesAnyShape(DictTable):
    def update(self, ids, grads, counts, times):
        whole = torch.zeros(len(ids), self.dim)
        rows, columns = min(len(ids), len(grads)), min(self.dim, grads.shape[1])
        whole[:rows, :columns] = grads[:rows, :columns]
        super().update(ids, whole, counts, times)


BROKEN = [
    (FlatRows, 1), (ReservesZero, 2), (ReservesTheLargest, 2), (LookupInserts, 3), (LookupMovesTheMark, 3),
    (LookupCounts, 3), (InitialRowsInOrder, 4), (Collides, 2), (LearnsOnlyHalf, 5), (OrderMatters, 6), (Random, 7),
    (KeepsTheCallersRows, 8), (LearnsEarlierGradients, 9), (DropsTheAdmittingGradient, 9), (CountsCalls, 10),
    (ChangesUnsorted, 11), (ChangesTooMuch, 11), (ChangesWithOldRows, 11), (PutAndRemoved, 11), (StealsChanges, 12),
    (ForgetsSilently, 13), (EvictsAtTheTime, 14), (EvictsByTheLastCall, 14), (EvictMiscounts, 14),
    (EvictionNotNamed, 15), (EvictedReadsZero, 15), (KeepsTheSlotsOfTheEvicted, 16), (KeepsTheCountsOfTheEvicted, 17),
    (ReturnsUnnoticed, 18), (StateOfObjects, 19), (StateIsNoCopy, 19), (LosesTheSlots, 20), (LosesTheCounts, 20),
    (RestoresAnything, 21), (RestoresHalfOfAnything, 21), (TakesAnyShape, 22),
]  # fmt: skip


@pytest.mark.parametrize("admit_at", [1, 2, 5])
def test_a_right_table_passes_every_clause(admit_at) -> None:
    others = [lambda: DictTable(4), lambda: DictTable(3, seed=12)]
    verdict = check_table(lambda: DictTable(3, admit_at), others=others, admit_at=admit_at)
    assert verdict.untried == ((17,) if admit_at == 1 else ())


@pytest.mark.parametrize(("broken", "clause"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_table_is_caught(broken, clause) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_table(lambda: broken(3, 4), others=[lambda: DictTable(5), lambda: DictTable(3, seed=12)], admit_at=4)
    assert (caught.value.role, caught.value.clause) == ("Table", clause), str(caught.value)


def test_every_clause_has_a_table_that_breaks_it() -> None:
    assert {clause for _, clause in BROKEN} == set(clauses("Table"))


def test_what_cannot_be_tried_is_said() -> None:
    verdict = check_table(lambda: DictTable(3), admit_at=None)
    assert set(verdict.untried) == {9, 10, 17, 21}
