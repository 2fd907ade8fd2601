"""The contracts of `Learner` and `Objective`, as checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from headrace.errors import DataError, NonFiniteLoss
from headrace.protocols import Learner, Objective
from headrace.testing.contract import CONTRACTS, Contract, Verdict
from headrace.testing.equivalence import first_difference
from headrace.testing.plain import copied_state, frozen_batch, not_plain
from headrace.types import Batch, Change, Loss, Version

CONTRACTS["Learner"] = {
    1: "learn returns a Loss whose total is a finite scalar",
    2: "learning is deterministic: same state and batches, same losses and same bits",
    3: "learn does not change the batch",
    4: "changes(since) has the version since.number + 1 and the parent since.number",
    5: "rows put and removed are ascending, apart, finite, and one row per id",
    6: "asking for the same changes again gives the same checksum",
    7: "publishing more often does not change what is learned",
    8: "the changes since each version, applied one after another, give the whole model",
    9: "restore(state()) continues exactly: losses, changes and states are the same to the bit",
    10: "a batch with which the loss is not finite is refused (NonFiniteLoss or DataError), and nothing is changed",
    11: "restore refuses the state of another configuration before changing anything",
    12: "state is plain values, bytes and tensors, and a snapshot: later learning does not change it",
}
CONTRACTS["Objective"] = {
    1: "the loss is a finite scalar that has a gradient for the model's parameters",
    2: "an objective has no state: the same model and batch give the same bits, whatever it was asked before",
    3: "neither the batch nor the parameters are changed",
}


def check_learner(
    make: Callable[[], Learner], batches: Sequence[Batch], *, others: Sequence[Callable[[], Learner]] = ()
) -> Verdict:
    """Put a learner through the contract of `Learner`.

    Args:
        make: Returns a fresh learner, every time with the same configuration and initial weights.
        batches: At least four batches with finite labels that it can learn.
        others: Return learners of other configurations, whose states must be refused.

    Returns:
        Which clauses held and which could not be tried.

    Raises:
        ContractViolation: At the first clause that does not hold.
    """
    if len(batches) < 4:
        raise ValueError("check_learner needs at least four batches")
    contract = Contract("Learner")
    changes, losses = _straight(contract, make, batches)
    _quiet(contract, make, batches, changes, losses)
    _resumed_learner(contract, make, batches, changes, losses)
    _refused_steps(contract, make, batches, others)
    return contract.verdict()


def _straight(
    contract: Contract, make: Callable[[], Learner], batches: Sequence[Batch]
) -> tuple[list[Change], list[Tensor]]:
    """Learn everything, publishing after each batch; return the changes and losses."""
    learner, twin = make(), make()
    changes, losses = [learner.changes(Version(-1))], list[Tensor]()
    contract.same(2, first_difference(changes[0], twin.changes(Version(-1))), "two fresh learners")
    for number, batch in enumerate(batches):
        before = frozen_batch(batch)
        loss = learner.learn(batch)
        contract.require(1, isinstance(loss, Loss), f"got a {type(loss).__name__}")
        good = loss.total.dim() == 0 and bool(torch.isfinite(loss.total))
        contract.require(1, good, lambda loss=loss: f"got {loss!r}")  # type: ignore[misc]
        losses.append(loss.total.detach().clone())
        contract.same(3, first_difference(before, frozen_batch(batch)), "the batch after learn")
        contract.same(2, first_difference(losses[-1], twin.learn(batch).total.detach()), f"losses of batch {number}")
        change = learner.changes(changes[-1].version)
        numbers = (change.version.number, change.version.parent)
        contract.require(4, numbers == (number + 1, number), f"changes(Version({number})) has number, parent {numbers}")
        for table, rows in change.tables.items():
            put, removed = rows.ids.tolist(), rows.removed.tolist()
            ordered = put == sorted(set(put)) and removed == sorted(set(removed)) and not set(put) & set(removed)
            contract.require(5, ordered, f"table '{table}' names ids out of order, twice, or both put and removed")
            shaped = rows.rows.dim() == 2 and rows.rows.shape[0] == len(put) and rows.rows.dtype == torch.float32
            contract.require(5, shaped and bool(torch.isfinite(rows.rows).all()), f"rows of table '{table}'")
        again = learner.changes(changes[-1].version)
        contract.require(6, again.checksum() == change.checksum(), f"changes of version {number + 1} asked twice")
        twin_change = twin.changes(changes[-1].version)
        contract.require(2, twin_change.checksum() == change.checksum(), f"checksums of version {number + 1}")
        changes.append(change)
    contract.same(2, first_difference(learner.state(), twin.state()), "states at the end")
    return changes, losses


def _quiet(
    contract: Contract, make: Callable[[], Learner], batches: Sequence[Batch], changes: Sequence[Change],
    losses: Sequence[Tensor],
) -> None:  # fmt: skip
    """Learn everything and publish once, at the end."""
    learner = make()
    for number, batch in enumerate(batches):
        total = learner.learn(batch).total.detach()
        contract.same(7, first_difference(losses[number], total), f"the loss of batch {number} without publishing")
    whole = _applied([learner.changes(Version(-1))])
    contract.same(8, first_difference(_applied(changes), whole), "all changes, and one change at the end")


def _applied(changes: Sequence[Change]) -> dict[str, object]:
    """Return rows and dense tensors after applying changes to nothing."""
    tables: dict[str, dict[int, Tensor]] = {}
    dense: dict[str, Tensor] = {}
    for change in changes:
        for name, rows in change.tables.items():
            table = tables.setdefault(name, {})
            for number in rows.removed.tolist():
                table.pop(number, None)
            table.update(zip(rows.ids.tolist(), rows.rows, strict=True))
        dense.update(change.dense)
    return {"tables": tables, "dense": dense}


def _resumed_learner(
    contract: Contract, make: Callable[[], Learner], batches: Sequence[Batch], changes: Sequence[Change],
    losses: Sequence[Tensor],
) -> None:  # fmt: skip
    """Stop between two batches, go on in a fresh learner, and compare with the straight run."""
    middle = len(batches) // 2
    first = make()
    first.changes(Version(-1))
    for number, batch in enumerate(batches[:middle]):
        first.learn(batch)
        if number < middle - 1:  # the last step is learned and not published when the state is taken
            first.changes(Version(number, number - 1))
    state = first.state()
    contract.same(12, not_plain(state), "found")
    frozen = copied_state(state)
    second = make()
    second.restore(copied_state(state))
    contract.same(9, first_difference(frozen, second.state()), "the state right after restore")
    change = second.changes(Version(middle - 1, middle - 2))
    contract.require(9, change.checksum() == changes[middle].checksum(), "the first change after restore")
    for number, batch in enumerate(batches[middle:], start=middle):
        total = second.learn(batch).total.detach()
        first.learn(batch)
        contract.same(9, first_difference(losses[number], total), f"the loss of batch {number} after restore")
        change = second.changes(Version(number, number - 1))
        same = change.checksum() == changes[number + 1].checksum()
        contract.require(9, same, f"the change of version {number + 1} after restore")
    contract.same(12, first_difference(frozen, state), "a state taken earlier")


def _refused_steps(
    contract: Contract, make: Callable[[], Learner], batches: Sequence[Batch], others: Sequence[Callable[[], Learner]]
) -> None:
    learner = make()
    learner.learn(batches[0])
    state = copied_state(learner.state())
    for value in (float("nan"), float("inf")):
        bad = replace(batches[1], weights=torch.full_like(batches[1].weights, value))
        contract.refuses(10, partial(learner.learn, bad), f"a batch with weights {value}", NonFiniteLoss, DataError)
        contract.same(10, first_difference(state, learner.state()), "the state after a refused step")
    twin = make()
    twin.learn(batches[0])
    totals = [one.learn(batches[1]).total.detach() for one in (learner, twin)]
    contract.same(10, first_difference(totals[1], totals[0]), "the loss of the step after a refused one")
    state = copied_state(learner.state())
    for number, other in enumerate(others):
        foreign = other().state()
        contract.refuses(11, partial(learner.restore, foreign), f"the state of other learner {number}")
        contract.same(11, first_difference(state, learner.state()), "the state after a refused restore")


def check_objective(objective: Objective, model: nn.Module, batch: Batch, *, other: Batch | None = None) -> Verdict:
    """Put an objective through the contract of `Objective`.

    Args:
        objective: The objective.
        model: A model that takes the batch; its parameters are put back as they were, with no gradients.
        batch: A batch.
        other: Another batch, asked in between; None: the same one.

    Returns:
        Which clauses held and which could not be tried.

    Raises:
        ContractViolation: At the first clause that does not hold.
    """
    contract = Contract("Objective")
    weights, before = copied_state(dict(model.state_dict())), frozen_batch(batch)
    rng = torch.random.get_rng_state()
    loss = objective(model, batch)
    finite = loss.total.dim() == 0 and bool(torch.isfinite(loss.total.detach()))
    contract.require(1, finite and loss.total.requires_grad, f"the total is {loss.total!r}")
    model.zero_grad(set_to_none=True)
    loss.total.backward()  # type: ignore[no-untyped-call]
    moved = any(parameter.grad is not None and bool(parameter.grad.abs().sum() > 0) for parameter in model.parameters())
    contract.require(1, moved, "no parameter of the model has a gradient")
    model.zero_grad(set_to_none=True)
    objective(model, other if other is not None else batch)
    torch.random.set_rng_state(rng)
    again = objective(model, batch)
    contract.same(2, first_difference(loss.total.detach(), again.total.detach()), "the same batch again")
    contract.same(2, first_difference(dict(loss.parts), dict(again.parts)), "its parts")
    contract.same(3, first_difference(before, frozen_batch(batch)), "the batch")
    contract.same(3, first_difference(weights, dict(model.state_dict())), "the parameters")
    return contract.verdict()
