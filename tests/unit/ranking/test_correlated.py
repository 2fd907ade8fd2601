"""Fits over a graph: what they equal without one, with a prior that stays, after a stop, and when served."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from headrace.data import EmbeddedLog, Graph
from headrace.data.datasets.linked import planted
from headrace.errors import ConfigError
from headrace.objectives import ELBO
from headrace.online.build import embedding
from headrace.publish import LogPublisher, Replica
from headrace.ranking import CorrelatedConfig, CorrelatedFit
from headrace.ranking.correlated import correlated_model
from headrace.ranking.linked import Held, baselines, trial
from headrace.serve import RankPredictor
from headrace.store import open_table
from headrace.testing import assert_same_state
from headrace.types import Events

WORLD = planted(nodes=40, items=30, groups=4, seed=1)
SMALL = {"latent": 4, "hidden": 6, "pair_hidden": 5, "nodes": 16, "edges": 12, "others": 8, "steps": 8, "lr": 0.01}


def fit(graph: Graph | None = None, **settings) -> CorrelatedFit:
    return CorrelatedFit(WORLD.histories, WORLD.items, WORLD.graph if graph is None else graph,
                         CorrelatedConfig(**{**SMALL, "seed": 3, **settings}))  # fmt: skip


def test_without_edges_a_fit_is_that_of_a_plain_autoencoder() -> None:
    one = fit(Graph.from_pairs(40, []), latents="independent").run()
    plain = fit(latents="plain")
    plain.learner.objective = ELBO(beta=1.0)
    plain.run()
    assert_same_state(one.learner.state(), plain.learner.state())


def test_a_prior_that_does_not_move_is_cvae() -> None:
    fixed, still = fit().run(), fit(adapt_every=2, adapt_rate=0.0).run()
    assert_same_state(fixed.learner.state(), still.learner.state())
    assert sorted(still.gaps) == [2, 4, 6, 8]
    moved = fit(adapt_every=2).run()
    assert not np.array_equal(moved.weights.weights, fixed.weights.weights)
    np.testing.assert_allclose(moved.weights.weights.sum(), WORLD.graph.forest_edges)


def test_weights_go_where_the_model_sees_most_to_gain() -> None:
    found = fit(adapt_every=4)
    found.run(until=3)
    before = found.weights.weights
    found.run(until=4)
    scores, moved = found.edge_scores(), found.weights.weights
    assert moved @ scores > before @ scores
    assert found.gaps[4] == pytest.approx((moved - before) @ scores / found.config.adapt_rate, rel=1e-6)


def test_a_stopped_fit_goes_on_exactly() -> None:
    straight, first, second = (fit(adapt_every=2) for _ in range(3))
    straight.run()
    first.run(until=3)
    second.learner.restore(first.learner.state())
    second.weights.restore(first.weights.state())
    second.step = 3
    second.run()
    assert_same_state(second.learner.state(), straight.learner.state())
    assert_same_state(second.weights.state(), straight.weights.state())


def test_distances_are_those_of_pairs_and_blocks_do_not_matter(monkeypatch) -> None:
    found = fit().run()
    every = found.distances(np.arange(40))
    monkeypatch.setattr("headrace.ranking.correlated.BLOCK_UNITS", 1)
    np.testing.assert_allclose(found.distances(np.array([5, 9])), every[[5, 9]], rtol=1e-5)
    np.testing.assert_allclose(every, every.T, rtol=1e-4)
    known = found.latents()
    c = found.model.correlation(known.take(torch.tensor([5])), known.take(torch.tensor([9]))).detach()
    mean, std = known.posterior.mean, known.posterior.std
    expected = ((mean[5] - mean[9]) ** 2 + std[5] ** 2 + std[9] ** 2 - 2 * std[5] * std[9] * c).sum()
    assert every[5, 9] == pytest.approx(float(expected), rel=1e-4)


def test_on_a_tree_neighbours_are_as_far_apart_as_the_pair_network_says() -> None:
    tree = Graph.from_pairs(40, [[node // 2, node] for node in range(1, 40)])
    found = fit(tree).run()
    direct, along = found.distances(np.arange(40)), found.tree_distances(np.arange(40), forests=2)
    i, j = tree.edges.T
    np.testing.assert_allclose(along[i, j], direct[i, j], rtol=1e-4)
    assert np.abs(along - direct).max() > 0.01  # elsewhere they need not agree


def requests(pairs: np.ndarray) -> Events:
    offsets, values = WORLD.histories.offsets.tolist(), WORLD.histories.values.tolist()
    lists = [[values[offsets[node] : offsets[node + 1]] for node in side] for side in pairs.T]
    rows = len(pairs)
    return Events.from_columns({
        "key": [str(row) for row in range(rows)], "kind": ["request"] * rows, "event_time": [1] * rows,
        "item": [f"node {right}" for right in pairs[:, 1]],
        **{name: pa.array(side, pa.list_(pa.int64())) for name, side in zip(("history", "other"), lists, strict=True)},
    })  # fmt: skip


def test_a_published_model_serves_the_same_distances(tmp_path) -> None:
    found = fit().run()
    with EmbeddedLog(tmp_path / "log") as log:
        publisher = LogPublisher(log, tmp_path / "snapshots")
        publisher.publish(found.learner.changes(publisher.last()))
        table = open_table(found.learner.collection.tables["item"].config, serving=True)
        embed = embedding(found.config.schema(), {"item": table})
        model = correlated_model(found.config, WORLD.items, embed)
        replica = Replica({"item": table}, model)
        replica.catch_up(publisher)
    predictor = RankPredictor(model, replica, found.config.schema())
    pairs = np.array([[0, 5], [5, 0], [3, 17], [20, 39]])
    answers = predictor.predict(requests(pairs))
    expected = 1.0 / (1.0 + found.distances(np.arange(40))[pairs[:, 0], pairs[:, 1]])
    np.testing.assert_allclose(answers.column("score").to_numpy(), expected, rtol=1e-4)
    alone = predictor.predict(requests(pairs[2:3]))
    assert alone.column("score").to_pylist() == answers.column("score").to_pylist()[2:3]


def test_a_trial_tells_what_it_reached_and_a_shuffled_graph_is_another() -> None:
    held = Held.split(WORLD, 0.2, seed=1)
    config = CorrelatedConfig(**SMALL)
    found = trial(held, config)
    assert 0.0 < found.ncrr <= 1.0
    assert found.seconds > 0.0
    assert found.ncrr == trial(held, config).ncrr
    assert trial(held, config, shuffled=True).fit.graph.edges.tolist() != held.graph.edges.tolist()
    known = baselines(held)
    assert known["paths of 2 and 3 steps"] > known["random order"]


@pytest.mark.parametrize("settings", [{"latents": "other"}, {"steps": 0}, {"adapt_every": -1}, {"edge_weights": "x"}])
def test_settings_that_cannot_work_are_refused(settings) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        CorrelatedConfig(**settings)


def test_every_node_needs_a_history() -> None:
    with pytest.raises(ConfigError, match="one per node"):
        fit(Graph.from_pairs(3, []))
