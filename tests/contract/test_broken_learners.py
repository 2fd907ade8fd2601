"""Every clause of the contracts of `Learner` and `Objective` catches a part that breaks it."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from headrace.errors import ConfigError, NonFiniteLoss
from headrace.testing import ContractViolation, Toy, ToyConfig, check_learner, check_objective, clauses
from headrace.types import Change, Loss, RowChange, Version

BATCHES = list(Toy(ToyConfig()).batches(64, 6))


class Simple:
    """A bias per item, learned by gradient steps: the smallest right learner."""

    name = "items"

    def __init__(self, rate: float = 0.5) -> None:
        self.rate, self.rows, self.bias = rate, {}, torch.zeros(1)
        self.now, self.touched, self.marks = 0, {}, {-1: 0}

    def step(self, batch):
        items = batch.ids["item"].values.tolist()
        logits = torch.stack([self.rows.get(i, torch.zeros(1))[0] for i in items]) + self.bias
        total = (nn.functional.softplus(logits) - batch.labels * logits) @ batch.weights / len(items)
        return items, logits, total, (logits.sigmoid() - batch.labels) * batch.weights / len(items)

    def learn(self, batch):
        items, logits, total, grads = self.step(batch)
        if not torch.isfinite(total):
            raise NonFiniteLoss("Loss", got=str(total))
        self.apply(items, grads)
        return Loss(total, logits=logits)

    def apply(self, items, grads):
        self.now += 1
        for i, grad in zip(items, grads, strict=True):
            self.rows[i] = self.rows.get(i, torch.zeros(1)) - self.rate * grad
            self.touched[i] = self.now
        self.bias = self.bias - self.rate * grads.sum()

    def changes(self, since):
        base = self.marks[since.number]
        self.marks[since.number + 1] = self.now
        ids = sorted(i for i, at in self.touched.items() if at > base)
        rows = torch.stack([self.rows[i] for i in ids]) if ids else torch.zeros(0, 1)
        none = torch.zeros(0, dtype=torch.int64)
        return Change(
            version=Version(since.number + 1, since.number), full=since.number < 0,
            tables={self.name: RowChange(torch.tensor(ids, dtype=torch.int64), rows.clone(), none)},
            dense={"bias": self.bias.clone()},
        )  # fmt: skip

    def state(self):
        rows = {str(i): row.clone() for i, row in self.rows.items()}
        touched = {str(i): at for i, at in self.touched.items()}
        marks = {str(number): mark for number, mark in self.marks.items()}
        plain = {"rate": self.rate, "rows": rows, "touched": touched, "marks": marks, "now": self.now}
        return {**plain, "bias": self.bias.clone()}

    def restore(self, state):
        if state["rate"] != self.rate:
            raise ConfigError("rate", got=str(state["rate"]), expected=str(self.rate))
        state = copy.deepcopy(state)
        self.rows = {int(i): row for i, row in state["rows"].items()}
        self.touched = {int(i): at for i, at in state["touched"].items()}
        self.marks = {int(number): mark for number, mark in state["marks"].items()}
        self.now, self.bias = state["now"], state["bias"]


class LossIsAVector(Simple):
    def learn(self, batch):
        loss = super().learn(batch)
        return Loss(loss.total[None])


class LossIsAFloat(Simple):
    def learn(self, batch):
        return float(super().learn(batch).total)


class Dreams(Simple):
    """Draws noise from a generator that is not its own."""

    def step(self, batch):
        items, logits, total, grads = super().step(batch)
        return items, logits, total, grads + 1e-4 * torch.randn_like(grads)


class EatsTheBatch(Simple):
    def learn(self, batch):
        loss = super().learn(batch)
        batch.weights.mul_(0.999)
        return loss


class NamesTheSameVersion(Simple):
    def changes(self, since):
        return replace(super().changes(since), version=since if since.number >= 0 else Version(0, -1))


class ChangesInAnyOrder(Simple):
    def changes(self, since):
        change = super().changes(since)
        rows = change.tables["items"]
        return replace(change, tables={"items": RowChange(rows.ids.flip(0), rows.rows.flip(0), rows.removed)})


class PutAndRemoved(Simple):
    def changes(self, since):
        change = super().changes(since)
        rows = change.tables["items"]
        return replace(change, tables={"items": RowChange(rows.ids, rows.rows, rows.ids[:1])})


class ChangesConsume(Simple):
    def changes(self, since):
        change = super().changes(since)
        self.touched = {}
        return change


class PublishingDecays(Simple):
    def changes(self, since):
        change = super().changes(since)
        if since.number >= 0 and since.number not in getattr(self, "decayed", set()):
            self.decayed = getattr(self, "decayed", set()) | {since.number}
            self.rate *= 0.9
        return change


class MissesTheFirstRowOfAChange(Simple):
    def changes(self, since):
        change = super().changes(since)
        rows = change.tables["items"]
        if since.number < 0:
            return change
        return replace(change, tables={"items": RowChange(rows.ids[1:], rows.rows[1:], rows.removed)})


class ForgetsItsMarks(Simple):
    """After a restart everything counts as changed."""

    def restore(self, state):
        super().restore(state)
        self.marks = dict.fromkeys(self.marks, 0)


class ForgetsTheBias(Simple):
    def restore(self, state):
        super().restore(state)
        self.bias = self.bias * 0


class LearnsNaN(Simple):
    def learn(self, batch):
        items, logits, total, grads = self.step(batch)
        self.apply(items, grads)
        return Loss(total, logits=logits)


class RefusesTooLate(Simple):
    def learn(self, batch):
        items, logits, total, grads = self.step(batch)
        self.apply(items, torch.nan_to_num(grads, 0, 0, 0))
        if not torch.isfinite(total):
            raise NonFiniteLoss("Loss", got=str(total))
        return Loss(total, logits=logits)


class RestoresAnything(Simple):
    def restore(self, state):
        super().restore({**state, "rate": self.rate})


class StateOfObjects(Simple):
    def state(self):
        return {**super().state(), "version": Version(0)}


class StateIsLive(Simple):
    def state(self):
        return {**super().state(), "bias": self.bias}

    def apply(self, items, grads):
        before = self.bias
        super().apply(items, grads)
        self.bias = before.copy_(self.bias)


LEARNERS = [
    (LossIsAVector, 1), (LossIsAFloat, 1), (Dreams, 2), (EatsTheBatch, 3), (NamesTheSameVersion, 4),
    (ChangesInAnyOrder, 5), (PutAndRemoved, 5), (ChangesConsume, 6), (PublishingDecays, 7),
    (MissesTheFirstRowOfAChange, 8), (ForgetsItsMarks, 9), (ForgetsTheBias, 9), (LearnsNaN, 10), (RefusesTooLate, 10),
    (RestoresAnything, 11), (StateOfObjects, 12), (StateIsLive, 12),
]  # fmt: skip


def test_a_right_learner_passes_every_clause() -> None:
    assert check_learner(Simple, BATCHES, others=[lambda: Simple(0.1)]).untried == ()
    assert check_learner(Simple, BATCHES).untried == (11,)


@pytest.mark.parametrize(("broken", "clause"), LEARNERS, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_learner_is_caught(broken, clause) -> None:
    batches = list(Toy(ToyConfig()).batches(64, 6))
    with pytest.raises(ContractViolation) as caught:
        check_learner(broken, batches, others=[lambda: Simple(0.1)])
    assert (caught.value.role, caught.value.clause) == ("Learner", clause), str(caught.value)


def test_too_few_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="four"):
        check_learner(Simple, BATCHES[:3])


# ------------------------------------------------------------------------------------------------------- objectives


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Parameter(torch.linspace(-1, 1, 64))

    def forward(self, batch):
        return self.items[batch.ids["item"].values]


def log_loss(model, batch):
    logits = model(batch)
    return Loss(nn.functional.binary_cross_entropy_with_logits(logits, batch.labels), logits=logits)


def detached(model, batch):
    loss = log_loss(model, batch)
    return Loss(loss.total.detach())


def infinite(model, batch):
    return Loss(log_loss(model, batch).total * float("inf"))


class Remembers:
    def __init__(self):
        self.mean = 0.0

    def __call__(self, model, batch):
        loss = log_loss(model, batch)
        self.mean = 0.9 * self.mean + 0.1 * float(loss.total.detach())
        return Loss(loss.total - self.mean)


def eats(model, batch):
    batch.weights.mul_(0.5)
    return log_loss(model, batch)


def steps(model, batch):
    with torch.no_grad():
        model.items.neg_().neg_().add_(1e-3)
    return Loss(model.items.sum() * 0 + (model.items - model.items.detach()).sum())


OBJECTIVES = [
    (lambda: detached, 1), (lambda: infinite, 1), (Remembers, 2), (lambda: eats, 3), (lambda: steps, 3),
]  # fmt: skip


def test_a_right_objective_passes_every_clause() -> None:
    assert check_objective(log_loss, Model(), BATCHES[0], other=BATCHES[1]).untried == ()


@pytest.mark.parametrize(("make", "clause"), OBJECTIVES, ids=["detached", "infinite", "remembers", "eats", "steps"])
def test_a_broken_objective_is_caught(make, clause) -> None:
    batch = Toy(ToyConfig()).batch(0, 32)
    with pytest.raises(ContractViolation) as caught:
        check_objective(make(), Model(), batch)
    assert (caught.value.role, caught.value.clause) == ("Objective", clause), str(caught.value)


@pytest.mark.parametrize(("role", "broken"), [("Learner", LEARNERS), ("Objective", OBJECTIVES)])
def test_every_clause_has_a_part_that_breaks_it(role, broken) -> None:
    assert {clause for _, clause in broken} == set(clauses(role))
