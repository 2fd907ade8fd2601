"""Weights of edges that follow a model: a mixture of spanning forests, moved towards the heaviest one step by step."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch

from headrace.config import require
from headrace.data.graph import Bools, Floats, Graph, Ints
from headrace.data.spanning import maximum_forest, random_forests, spanning_weights
from headrace.errors import ConfigError
from headrace.types import State

SLACK = 1e-9
"""Rounding that weights may be off by when feasibility is asserted."""


class AdaptiveWeights:
    """The saddle point's inner player: edge weights in the spanning-forest polytope, moved by Frank and Wolfe's steps.

    A bound that is linear in the weights, `constant - sum_e w_e s_e`, is lowest at a forest with the largest sum of
    scores s. A step goes part of the way there: `w <- (1 - rate) w + rate 1[heaviest forest]`. Weights stay a mixture
    of forests: the uniform one that it began with, and the heaviest ones of all steps.

    With a rate of 0 they stay what they were, and ACVAE is CVAE. They matter in training alone: a published model does
    not have them.

    Args:
        graph: The graph.
        rate: How far a step goes, from 0 to 1.
        start: Weights of the uniform mixture (E,); None computes them.

    Cost:
        O(E log E) a step.

    Example:
        >>> weights = AdaptiveWeights(Graph.from_pairs(3, [[0, 1], [0, 2], [1, 2]]), rate=0.3)
        >>> round(weights.step(np.array([2.0, 1.0, 0.0])), 4)
        1.0
        >>> weights.weights.round(4).tolist()
        [0.7667, 0.7667, 0.4667]
    """

    def __init__(self, graph: Graph, rate: float = 0.2, start: Floats | None = None) -> None:
        require(0.0 <= rate <= 1.0, "AdaptiveWeights.rate", got=rate, expected="a number from 0 to 1")
        self.graph, self.rate = graph, rate
        self._weights = spanning_weights(graph) if start is None else np.array(start, dtype=np.float64)
        self._forests: list[Bools] = []
        self._check("AdaptiveWeights.start")

    @property
    def weights(self) -> Floats:
        """Weights now, (E,)."""
        return self._weights.copy()

    @property
    def shares(self) -> Floats:
        """Shares of the mixture: the uniform one, then the forest of every step, oldest first; they sum to 1."""
        steps = len(self._forests)
        falling = (1.0 - self.rate) ** np.arange(steps, -1, -1.0)
        return np.asarray(falling * np.concatenate([np.ones(1), np.full(steps, self.rate)]))

    def step(self, scores: Floats) -> float:
        """Move towards the forest with the largest sum of scores (E,).

        Returns:
            How much lower the bound could have been: the best forest's sum less that of the weights, at least 0.

        Raises:
            DataError: If there is not one finite score per edge.
        """
        scores = np.asarray(scores, dtype=np.float64)
        best = maximum_forest(self.graph, scores)
        gap = float(scores[best].sum() - self._weights @ scores)
        if self.rate > 0.0:
            self._weights = (1.0 - self.rate) * self._weights + self.rate * best
            self._forests.append(best)
        self._check("AdaptiveWeights")
        return max(gap, 0.0)

    def draw(self, count: int, seed: int = 0) -> Bools:
        """Return forests drawn independently from the mixture, as masks (count, E)."""
        chosen: Ints = np.random.default_rng(seed).choice(len(self._forests) + 1, count, p=self.shares)
        uniform = iter(random_forests(self.graph, int((chosen == 0).sum()), seed))
        drawn = [self._forests[place - 1] if place else next(uniform) for place in chosen.tolist()]
        return np.array(drawn, dtype=np.bool_).reshape(count, len(self.graph))

    def state(self) -> State:
        """Return weights and forests."""
        forests = np.array(self._forests, dtype=np.bool_).reshape(-1, len(self.graph))
        return {"edges": torch.from_numpy(self.graph.edges.copy()), "rate": self.rate,
                "weights": torch.from_numpy(self._weights.copy()), "forests": torch.from_numpy(forests)}  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue from what `state` returned.

        Raises:
            ConfigError: If the state is of another graph or rate.
        """
        edges = cast(torch.Tensor, state.get("edges")).numpy()
        if not np.array_equal(edges, self.graph.edges) or state.get("rate") != self.rate:
            raise ConfigError("AdaptiveWeights, state", got=f"{len(edges)} edges, rate {state.get('rate')!r}",
                              expected=f"these {len(self.graph)} edges, rate {self.rate}",
                              do="Build it with the graph and the rate of the state.")  # fmt: skip
        self._weights = cast(torch.Tensor, state["weights"]).numpy().copy()
        self._forests = list(cast(torch.Tensor, state["forests"]).numpy().copy())

    def _check(self, what: str) -> None:
        """Assert what holds for every mixture of spanning forests."""
        weights, total = self._weights, self.graph.forest_edges
        right = weights.shape == (len(self.graph),) and bool((weights >= -SLACK).all() and (weights <= 1 + SLACK).all())
        # an estimate from drawn forests sums to the total too, for every forest does
        right = right and abs(float(weights.sum()) - total) <= 1e-6 * max(total, 1)
        require(right, what, got=f"shape {weights.shape}, sum {float(weights.sum()):g}",
                expected=f"{len(self.graph)} weights from 0 to 1 with sum {total}")  # fmt: skip
