"""The bound over a graph: without edges it is the plain one; its terms against torch's; sums against all pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

from headrace.errors import ConfigError, DataError
from headrace.nn import Correlated, Gaussian, Variational, generator
from headrace.objectives import ELBO, CorrelatedELBO, mutual_information, pair_terms, with_pairs
from headrace.types import Batch, Jagged

NODES, WIDTH, ITEMS = 6, 3, 5
EDGES = torch.tensor([[0, 1], [1, 2], [4, 5]])
WEIGHTS = torch.tensor([1.0, 0.5, 0.25])


def batch_of(nodes: Tensor) -> Batch:
    rows, zeros = len(nodes), torch.zeros(len(nodes), dtype=torch.int64)
    return Batch(
        ids={"node": Jagged(nodes, torch.arange(rows + 1))}, dense=torch.zeros(rows, 0), labels=torch.ones(rows),
        weights=torch.ones(rows), event_times=zeros, accepted_times=zeros, example_ids=zeros,
        predictions=torch.full((rows,), math.nan), versions=zeros - 1, sample_rates=torch.ones(rows),
    )  # fmt: skip


@dataclass(frozen=True)
class Pairs:
    ends: Tensor
    others: Tensor

    def batch(self, alone: Tensor, weights: Tensor) -> Batch:
        left, right = (torch.cat([self.ends[:, end], self.others[:, end]]) for end in (0, 1))
        return with_pairs(batch_of(torch.cat([alone, left, right])), alone=len(alone), weights=weights)


class Free(nn.Module):
    """A free posterior for every node, one correlation network of two nodes' means, and free logits."""

    def __init__(self) -> None:
        super().__init__()
        draw = generator(0)
        self.mean = nn.Parameter(torch.randn(NODES, WIDTH, generator=draw))
        self.log_variance = nn.Parameter(torch.randn(NODES, WIDTH, generator=draw) * 0.5)
        self.logits = nn.Parameter(torch.randn(NODES, ITEMS, generator=draw))

    def posterior(self, nodes: Tensor) -> Gaussian:
        return Gaussian(self.mean[nodes], self.log_variance[nodes])

    def correlation(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.tanh(0.5 * (self.mean[left] + self.mean[right]))

    def correlated(self, batch: Batch, alone: Tensor, left: Tensor, right: Tensor) -> Correlated:
        nodes = batch.ids["node"].values
        rows, places = torch.arange(len(alone)), nodes[alone] % ITEMS
        return Correlated(self.posterior(nodes), self.correlation(nodes[left], nodes[right]),
                          self.logits[nodes[alone]], rows, places, "multinomial")  # fmt: skip

    def variational(self, batch: Batch) -> Variational:
        nodes = batch.ids["node"].values
        rows, cases = torch.arange(len(nodes)), torch.ones(len(nodes), dtype=torch.bool)
        return Variational(self.posterior(nodes), torch.zeros(len(nodes), WIDTH), self.logits[nodes], rows,
                           nodes % ITEMS, cases, "multinomial", 1)  # fmt: skip


@pytest.mark.parametrize("beta", [1.0, 0.2])
def test_without_edges_it_is_the_plain_bound(beta) -> None:
    plain, over_graph = Free(), Free()
    batch = replace(batch_of(torch.tensor([0, 3, 5, 3])), weights=torch.tensor([1.0, 2.0, 0.5, 0.0]))
    expected = ELBO(beta=beta)(plain, batch).total
    found = CorrelatedELBO(nodes=NODES, edges=0, beta=beta)(over_graph, batch).total
    assert found.equal(expected)
    expected.backward()
    found.backward()
    for one, other in zip(plain.parameters(), over_graph.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=0)


def test_a_batch_that_says_nothing_of_pairs_is_one_without_edges() -> None:
    none = torch.zeros(0, 2, dtype=torch.int64)
    said = Pairs(none, none).batch(torch.tensor([1, 2]), torch.zeros(0))
    objective = CorrelatedELBO(nodes=NODES, edges=3)
    assert objective(Free(), said).total.equal(objective(Free(), batch_of(torch.tensor([1, 2]))).total)


@pytest.mark.parametrize("tau", [0.0, 0.5, 0.99])
def test_pair_terms_are_differences_of_divergences(tau) -> None:
    draw = generator(3)
    means = torch.randn(4, 2, generator=draw, dtype=torch.float64)
    stds = torch.rand(4, 2, generator=draw, dtype=torch.float64) + 0.1
    c = torch.rand(4, generator=draw, dtype=torch.float64) * 1.9 - 0.95
    covariance = torch.diag_embed(stds.square())
    covariance[:, 0, 1] = covariance[:, 1, 0] = c * stds.prod(1)
    prior = torch.tensor([[1.0, tau], [tau, 1.0]], dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)
    joint = kl_divergence(MultivariateNormal(means, covariance), MultivariateNormal(zero, prior))
    alone = kl_divergence(MultivariateNormal(means, torch.diag_embed(stds.square())),
                          MultivariateNormal(zero, torch.eye(2, dtype=torch.float64)))  # fmt: skip
    found = pair_terms(*(part.unsqueeze(1) for part in (means[:, 0], stds[:, 0], means[:, 1], stds[:, 1], c)), tau)
    torch.testing.assert_close(found, joint - alone, rtol=0, atol=1e-10)


def test_with_an_independent_prior_a_pair_costs_its_mutual_information() -> None:
    c = torch.tensor([[0.3, -0.8]])
    any_mean, any_std = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.4, 1.3]])
    found = pair_terms(any_mean, any_std, -any_mean, any_std, c, 0.0)
    torch.testing.assert_close(found, mutual_information(c).sum(1))


def test_with_everything_in_the_batch_it_is_the_whole_bound() -> None:
    model, gamma, tau = Free(), 3.0, 0.9
    every = torch.combinations(torch.arange(NODES))
    batch = Pairs(EDGES.flip(1), every).batch(torch.arange(NODES), WEIGHTS)
    loss = CorrelatedELBO(nodes=NODES, edges=3, gamma=gamma, tau=tau)(model, batch)
    std = torch.exp(0.5 * model.log_variance)
    kl = 0.5 * (model.mean**2 + std**2) - std.log() - 0.5
    fit = torch.log_softmax(model.logits, 1)[torch.arange(NODES), torch.arange(NODES) % ITEMS]
    i, j = EDGES.T
    edges = pair_terms(model.mean[i], std[i], model.mean[j], std[j], model.correlation(i, j), tau) * WEIGHTS
    others = mutual_information(model.correlation(*every.T)).sum() * 2 / NODES
    expected = (-fit.sum() + (1 + gamma) * kl.sum() + edges.sum() + gamma * others) / NODES
    torch.testing.assert_close(loss.total, expected)
    assert loss.parts["edges"] == pytest.approx(float(edges.detach().sum()) / NODES, rel=1e-5)


def test_part_of_the_edges_is_an_unbiased_estimate() -> None:
    model, alone = Free(), torch.arange(NODES)
    objective, none = CorrelatedELBO(nodes=NODES, edges=3), torch.zeros(0, 2, dtype=torch.int64)
    each = [objective(model, Pairs(EDGES[k : k + 1], none).batch(alone, WEIGHTS[k : k + 1])).total for k in range(3)]
    whole = objective(model, Pairs(EDGES, none).batch(alone, WEIGHTS)).total
    torch.testing.assert_close(torch.stack(each).mean(), whole)


def test_others_count_only_with_gamma() -> None:
    model, pairs = Free(), Pairs(EDGES, torch.tensor([[0, 5], [2, 3]]))
    batch = pairs.batch(torch.arange(NODES), WEIGHTS)
    without = CorrelatedELBO(nodes=NODES, edges=3)(model, batch)
    assert without.parts["others"] == 0.0
    assert CorrelatedELBO(nodes=NODES, edges=3, gamma=1.0)(model, batch).parts["others"] > 0.0


def test_wrong_input_is_refused() -> None:
    batch = Pairs(EDGES, EDGES).batch(torch.arange(NODES), WEIGHTS)
    objective = CorrelatedELBO(nodes=NODES, edges=3)
    with pytest.raises(DataError, match="do not cut it"):
        objective(Free(), batch.slice(0, len(batch) - 1))
    with pytest.raises(DataError, match="rows alone"):
        objective(Free(), batch.slice(NODES, len(batch)))
    with pytest.raises(DataError, match="with_pairs"):
        with_pairs(batch_of(torch.arange(5)), alone=2, weights=torch.zeros(1))
    with pytest.raises(DataError, match="with_pairs"):
        with_pairs(batch_of(torch.arange(4)), alone=2, weights=torch.zeros(2))
    with pytest.raises(ConfigError, match="without 'correlated'"):
        objective(nn.Linear(1, 1), batch)
    for settings in ({"tau": 1.0}, {"gamma": -1.0}, {"nodes": 0}, {"edges": -1}, {"beta": -0.1}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            CorrelatedELBO(**{"nodes": 2, "edges": 1, **settings})
