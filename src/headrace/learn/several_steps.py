"""A batch learned several times in small steps: whole, or not at all."""

from __future__ import annotations

from torch import Generator as Draw
from torch import Tensor, randperm, split

from headrace.learn.learner import RankLearner
from headrace.learn.rollouts import rows_of
from headrace.types import Batch, Loss


def learned_in_steps(
    steps: RankLearner, batch: Batch, *, epochs: int, step_rows: int | None, seed: int, turn: int
) -> list[Loss]:  # fmt: skip
    """Learn every row of a batch `epochs` times; if a step is refused, the learner goes back to where it stood.

    Args:
        steps: The learner.
        batch: What to learn.
        epochs: How often.
        step_rows: Rows per step; None: all of them.
        seed: Of the order of rows.
        turn: How many batches were learned before: every batch has an order of its own, the same on every replay.

    Returns:
        The loss of each step.
    """
    before, losses = steps.state(), list[Loss]()
    try:
        for rows in orders(len(batch), epochs=epochs, step_rows=step_rows, seed=seed, turn=turn):
            losses.append(steps.learn(rows_of(batch, rows)))
    except BaseException:
        if losses:
            steps.restore(before)
        raise
    return losses


def orders(rows: int, *, epochs: int, step_rows: int | None, seed: int, turn: int) -> list[Tensor]:
    """Return the rows of every step: shuffled anew in every epoch.

    Example:
        >>> [len(part) for part in orders(5, epochs=2, step_rows=3, seed=0, turn=0)]
        [3, 2, 3, 2]
    """
    draw = Draw().manual_seed((seed << 32) + turn)
    return [part for _ in range(epochs) for part in split(randperm(rows, generator=draw), step_rows or rows)]
