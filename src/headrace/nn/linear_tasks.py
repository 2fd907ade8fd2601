"""Linear tasks over the same features, and a committee of them: each hears the others, as far as it trusts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from headrace.config import known_name, require
from headrace.nn.fields import check_inputs, dense_columns
from headrace.nn.layers import embedded
from headrace.types import Batch, Jagged

Voting = Literal["committee", "own"]


class LinearTasks(nn.Module):
    """One linear scorer per task on examples of unit length, and the trust of every task in every other.

    An example is its dense columns, a count per distinct id, and a bias of one, scaled to unit L2 length. Task m scores
    it with its weights; task k's answer is the sum of all scores weighed by row k of `affinity` ("committee"), or its
    own score alone ("own"). An id's row in its table holds the weights of all tasks for it.

    Which task an example belongs to is `Batch.extra["scenario"]` (a `Scenario` of the schema); all are task 0 without.

    Args:
        embed: Maps a batch to `{feature: (B, tasks)}`, rows of an example summed.
        features: Names of the id features.
        dense_dim: Number of dense columns.
        tasks: Number of tasks K.
        voting: Who decides.

    Shapes:
        Batch of B -> logits (B,). Weights start at zero (the tables have to as well), `affinity` (K, K) at one.

    Raises:
        ConfigError: If there is no task or no input.

    Source:
        Saha et al. 2011 and Murugesan and Carbonell 2017 use such tasks; the committee is that of arXiv 2103.13420.
    """

    def __init__(
        self, embed: nn.Module, features: Sequence[str], dense_dim: int, *, tasks: int = 1,
        voting: Voting = "committee",
    ) -> None:  # fmt: skip
        super().__init__()
        check_inputs(features, dense_dim)
        require(tasks >= 1, "LinearTasks, tasks", got=tasks, expected="a positive integer")
        known_name("LinearTasks, voting", voting, ["committee", "own"])
        self.embed, self.features, self.tasks, self.voting = embed, tuple(features), tasks, voting
        self.dense_weight = nn.Parameter(torch.zeros(dense_dim, tasks))
        self.bias = nn.Parameter(torch.zeros(tasks))
        self.affinity: Tensor
        self.register_buffer("affinity", torch.ones(tasks, tasks))

    def tasks_of(self, batch: Batch) -> Tensor:
        """Return the task of every example, (B,) int64."""
        own = batch.extra.get("scenario")
        return torch.zeros(len(batch), dtype=torch.int64) if own is None else own

    def scores(self, batch: Batch) -> Tensor:
        """Return what every task thinks of every example, (B, K)."""
        dense_BC = dense_columns(batch, self.dense_weight.shape[0])
        raw_BK = self.bias + dense_BC @ self.dense_weight
        for row_BK in embedded(self.embed(batch), self.features, len(batch)):
            raw_BK = raw_BK + row_BK
        return raw_BK / self.lengths(batch).unsqueeze(1)

    def lengths(self, batch: Batch) -> Tensor:
        """Return the L2 length of every example, its bias of one included, (B,)."""
        squares_B = 1.0 + batch.dense.square().sum(1)
        for name in self.features:
            squares_B = squares_B + squared_counts(batch.ids[name])
        return squares_B.sqrt()

    def vote(self, scores_BK: Tensor, tasks_B: Tensor) -> Tensor:
        """Return each example's logit (B,) from all scores (B, K)."""
        if self.voting == "own":
            return scores_BK.gather(1, tasks_B.unsqueeze(1)).squeeze(1)
        return (self.affinity[tasks_B] * scores_BK).sum(1)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B,): positive where the example's task, or its committee, says 1."""
        return self.vote(self.scores(batch), self.tasks_of(batch))


def squared_counts(ids: Jagged) -> Tensor:
    """Return per row the sum of the squares of how often each of its ids occurs, (B,) float32.

    Example:
        >>> squared_counts(Jagged(torch.tensor([7, 7, 9]), torch.tensor([0, 3, 3]))).tolist()
        [5.0, 0.0]
    """
    rows, values_L = len(ids), ids.values.numpy()
    if rows == 1:  # the common case of learning answer by answer
        counts_D = np.unique(values_L, return_counts=True)[1]
        return torch.tensor([float(counts_D @ counts_D)])
    owner_L = np.repeat(np.arange(rows), np.diff(ids.offsets.numpy()))
    order_L = np.lexsort((values_L, owner_L))
    values_L, owner_L = values_L[order_L], owner_L[order_L]
    fresh_L = np.ones(len(values_L), dtype=np.bool_)
    fresh_L[1:] = (values_L[1:] != values_L[:-1]) | (owner_L[1:] != owner_L[:-1])
    counts_D = np.diff(np.append(np.flatnonzero(fresh_L), len(values_L)))
    squares_B = np.bincount(owner_L[fresh_L], weights=counts_D.astype(np.float64) ** 2, minlength=rows)
    return torch.from_numpy(squares_B.astype(np.float32))
