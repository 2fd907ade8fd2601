"""A bound over a graph, its learner and its predictor, and weights that follow a model, as contract cases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from headrace.data import AdaptiveWeights, Graph
from headrace.data.datasets.linked import planted
from headrace.objectives.correlated_elbo import CorrelatedELBO
from headrace.ranking import CorrelatedConfig, CorrelatedFit
from headrace.testing import Verdict, check_objective, check_resumable

WORLD = planted(nodes=30, items=20, groups=3)
GRAPH = Graph.from_pairs(5, [[0, 1], [0, 2], [1, 2], [3, 4]])


def objectives() -> Iterator[tuple]:
    for label, latents in (("correlated", "correlated"), ("independent", "independent")):

        def run(_: Path, latents=latents) -> Verdict:
            config = CorrelatedConfig(latents=latents, latent=3, hidden=4, pair_hidden=4, nodes=8, edges=6, others=5)
            fit = CorrelatedFit(WORLD.histories, WORLD.items, WORLD.graph, config)
            verdict = check_objective(fit.learner.objective, fit.model.eval(), fit.batch(0), other=fit.batch(1))
            fit.learner.collection.discard()
            return verdict

        yield "Objective", CorrelatedELBO, run, (), label


def resumable() -> Iterator[tuple]:
    def move(weights: AdaptiveWeights, step: int) -> object:
        weights.step(np.random.default_rng(step).normal(size=len(GRAPH)))
        return weights.state()

    def run(_: Path) -> Verdict:
        others = (lambda: AdaptiveWeights(GRAPH, 0.3), lambda: AdaptiveWeights(Graph.from_pairs(2, [[0, 1]]), 0.2))
        return check_resumable(lambda: AdaptiveWeights(GRAPH, 0.2), move, others=others)

    yield "Resumable", AdaptiveWeights, run


CASES = [objectives, resumable]
