"""The arms of the comparison as steps over a batch, and how their time is taken: in turns, on one core."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from headrace.learn import RankLearner
from headrace.objectives import LogLoss
from headrace.papers.picasso.recipe import LR, ReadyRows, TorchTables, Work
from headrace.types import Batch

Step = Callable[[Batch], object]


def plain_step(work: Work, embed: nn.Module) -> Step:
    """Return a step of the same network over embeddings of torch: loss, gradients, update; nothing is checked."""
    model, objective = work.network(embed), LogLoss()
    optimizer = torch.optim.Adagrad(model.parameters(), lr=LR)
    ready = list(embed.rows.values()) if isinstance(embed, ReadyRows) else []

    def step(batch: Batch) -> None:
        optimizer.zero_grad(set_to_none=True)
        for rows in ready:
            rows.grad = None
        objective(model, batch).total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def torch_step(work: Work) -> Step:
    """Return the trivial baseline."""
    return plain_step(work, TorchTables(work))


def ready_step(work: Work) -> Step:
    """Return the ablation: the network without tables."""
    return plain_step(work, ReadyRows(work))


def seconds(
    steps: Mapping[str, Step], batches: Sequence[Batch], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Return seconds per step of every arm and round; all arms stand side by side in a round, in turned order.

    Every arm has learned each batch once before: its rows are there.

    Args:
        steps: The arms.
        batches: Learned one after the other.
        rounds: How often.
        clock: CPU time, which other programs do not disturb, or the time of the wall, where arms wait for a disk.
    """
    found: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        for batch in batches:
            step(batch)
    for number in range(rounds):
        for name in steps if number % 2 == 0 else reversed(list(steps)):
            began = clock()
            for batch in batches:
                steps[name](batch)
            found[name].append((clock() - began) / len(batches))
    return found


def gain(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Return how many times faster: the median over rounds of the ratio within a round."""
    return statistics.median(one / other for one, other in zip(slow, fast, strict=True))


def table_calls(learner: RankLearner, batch: Batch) -> int:
    """Return the calls of table code in one step."""
    before = learner.collection.calls
    learner.learn(batch)
    return learner.collection.calls - before


class _Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what torch is asked to do."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def operators(step: Step, batch: Batch) -> int:
    """Return the torch operators of one step, backward ones too."""
    with _Counted() as counted:
        step(batch)
    return int(counted.count)
