"""The contracts of `Resumable`, `Metric` and `Cadence`, as checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch

from headrace.protocols import Cadence, Metric, Resumable
from headrace.testing.contract import CONTRACTS, Contract, Verdict
from headrace.testing.equivalence import Tolerance, first_difference
from headrace.testing.plain import copied_state, frozen_batch, not_plain
from headrace.types import Batch

Part = TypeVar("Part", bound=Resumable)

CONTRACTS["Metric"] = {
    1: "compute returns names and numbers, also before any data (NaN where there is not enough)",
    2: "compute changes nothing: asked twice, it says the same",
    3: "update does not change the batch",
    4: "the numbers do not depend on how the batches were cut",
    5: "rows for which no prediction was made are no error",
    6: "restore(state()) continues exactly (for metrics that are Resumable)",
}
CONTRACTS["Resumable"] = {
    1: "state is plain values, bytes and tensors",
    2: "state changes nothing: asked twice, it says the same",
    3: "a state is a snapshot: going on does not change one taken earlier",
    4: "restore is exact: the fresh part's state is the one restored",
    5: "both go on in the same way",
    6: "restore does not keep or change the state it is given",
    7: "restore refuses the state of another configuration before changing anything",
}
CONTRACTS["Cadence"] = {
    1: "due returns a bool, for a batch and for an empty step",
    2: "the same batches are due at the same points",
    3: "restore(state()) continues exactly (for cadences that are Resumable)",
}


def check_metric(
    make: Callable[[], Metric], batches: Sequence[Batch], *, absolute: float = 1e-6, cuts: bool = True
) -> Verdict:
    """Put a metric through the contract of `Metric`.

    Args:
        make: Returns a fresh metric, every time with the same configuration.
        batches: Batches with labels and predictions.
        absolute: How far the numbers may be apart when the same rows come in other pieces.
        cuts: False leaves clause 4 untried, for a metric that learns and so depends on how batches are cut.

    Returns:
        Which clauses held and which could not be tried.

    Raises:
        ContractViolation: At the first clause that does not hold.
    """
    contract, metric = Contract("Metric"), make()
    _numbers(contract, metric.compute(), "before any data")
    for batch in batches:
        before = frozen_batch(batch)
        metric.update(batch)
        contract.same(3, first_difference(before, frozen_batch(batch)), "the batch after update")
    numbers = metric.compute()
    _numbers(contract, numbers, "after all batches")
    contract.same(2, first_difference(numbers, metric.compute()), "asked twice")
    if cuts:
        pieces = make()
        for batch in batches:
            for piece in batch.split(max(len(batch) // 3, 1)):
                pieces.update(piece)
        contract.same(4, first_difference(numbers, pieces.compute(), Tolerance(absolute)), "the same rows, cut smaller")
    blind = replace(batches[0], predictions=torch.full_like(batches[0].predictions, float("nan")),
                    versions=torch.full_like(batches[0].versions, -1))  # fmt: skip
    empty = make()
    try:
        empty.update(blind)
        _numbers(contract, empty.compute(), "for rows without predictions")
    except Exception as error:  # noqa: BLE001  whatever comes is the finding
        contract.fail(5, f"{type(error).__name__}: {error}")
    contract.require(5, True, "")
    if isinstance(metric, Resumable):
        middle = max(len(batches) // 2, 1)
        first, second = make(), make()
        for batch in batches[:middle]:
            first.update(batch)
        assert isinstance(first, Resumable)
        assert isinstance(second, Resumable)
        second.restore(copied_state(first.state()))
        for batch in batches[middle:]:
            second.update(batch)
        contract.same(6, first_difference(numbers, second.compute()), "after restore")
    return contract.verdict()


def _numbers(contract: Contract, numbers: object, when: str) -> None:
    good = isinstance(numbers, dict) and all(isinstance(k, str) and isinstance(v, float) for k, v in numbers.items())
    contract.require(1, good, lambda: f"compute {when} returned {numbers!r}")


def check_resumable(
    make: Callable[[], Part], advance: Callable[[Part, int], object], *, steps: int = 4,
    others: Sequence[Callable[[], Resumable]] = (),
) -> Verdict:  # fmt: skip
    """Put anything with `state` and `restore` through the contract of `Resumable`.

    Args:
        make: Returns a fresh part, every time with the same configuration.
        advance: Does step `n` with the part and returns what can be seen of it (anything `first_difference` takes).
        steps: Steps before the stop and after it, each.
        others: Return parts of other configurations, whose states must be refused.

    Returns:
        Which clauses held and which could not be tried.

    Raises:
        ContractViolation: At the first clause that does not hold.

    Example:
        >>> from headrace.loop import EveryExamples
        >>> from headrace.testing.toy import Toy, ToyConfig
        >>> batch = Toy(ToyConfig()).batch(0, 30)
        >>> check_resumable(lambda: EveryExamples(100), lambda part, step: part.due(batch)).untried
        (7,)
    """
    contract, straight = Contract("Resumable"), make()
    for step in range(steps):
        advance(straight, step)
    state = straight.state()
    contract.same(1, not_plain(state), "found")
    contract.same(2, first_difference(state, straight.state()), "asked twice")
    frozen, given, resumed = copied_state(state), copied_state(state), make()
    resumed.restore(given)
    contract.same(4, first_difference(frozen, resumed.state()), "the state right after restore")
    for step in range(steps, 2 * steps):
        seen = advance(straight, step), advance(resumed, step)
        contract.same(5, first_difference(seen[0], seen[1]), f"step {step}")
    contract.same(5, first_difference(straight.state(), resumed.state()), "states at the end")
    contract.same(3, first_difference(frozen, state), "the earlier state")
    contract.same(6, first_difference(frozen, given), "the state that was given to restore")
    held = copied_state(resumed.state())
    for number, other in enumerate(others):
        foreign = other().state()
        contract.refuses(7, partial(resumed.restore, foreign), f"the state of other part {number}")
        contract.same(7, first_difference(held, resumed.state()), "the state after a refused restore")
    return contract.verdict()


def check_cadence(make: Callable[[], Cadence], batches: Sequence[Batch]) -> Verdict:
    """Put a cadence through its contract.

    Args:
        make: Returns a fresh cadence, every time with the same configuration.
        batches: Batches, as they would be learned.

    Returns:
        Which clauses held and which could not be tried.

    Raises:
        ContractViolation: At the first clause that does not hold.
    """
    contract, cadence = Contract("Cadence"), make()
    points: list[object] = [cadence.due(None), *(cadence.due(batch) for batch in batches)]
    contract.require(1, all(type(point) is bool for point in points), f"got {points}")
    again = make()
    contract.same(2, first_difference(points, [again.due(None), *(again.due(batch) for batch in batches)]), "points")
    if isinstance(cadence, Resumable):
        first, second, middle = make(), make(), len(batches) // 2
        early = [first.due(None), *(first.due(batch) for batch in batches[:middle])]
        assert isinstance(first, Resumable)
        assert isinstance(second, Resumable)
        second.restore(copied_state(first.state()))
        late = [second.due(batch) for batch in batches[middle:]]
        contract.same(3, first_difference(points, early + late), "points after restore")
    return contract.verdict()
