"""The evidence lower bound over a correlation graph: what every node says, and what its edges say of two nodes.

The prior is a mixture over the spanning forests of the graph, and the bound an average of theirs, so that an edge
counts as much as the share of forests that have it (`headrace.data.spanning_weights`), or as an adaptive mixture says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from headrace.config import require
from headrace.errors import ConfigError, DataError
from headrace.objectives.elbo import gaussian_kl, log_likelihood
from headrace.objectives.supervised import check_examples
from headrace.types import Batch, Loss

SIDE, WEIGHT = "pair_side", "pair_weight"
ALONE, EDGE_LEFT, EDGE_RIGHT, OTHER_LEFT, OTHER_RIGHT = range(5)


class _Gaussian(Protocol):
    """Means and log-variances, (B, K) each."""

    mean: Tensor
    log_variance: Tensor


class _Correlated(Protocol):
    """What a model says of a batch; see `headrace.nn.Correlated`."""

    posterior: _Gaussian
    correlation: Tensor
    logits: Tensor
    examples: Tensor
    places: Tensor
    likelihood: str


def with_pairs(batch: Batch, *, alone: int, weights: Tensor) -> Batch:
    """Say of a batch's rows which are nodes alone, which are ends of edges, and which are pairs of any two nodes.

    Args:
        batch: Rows of A nodes alone, then the left ends of E edges and of P other pairs, then the right ends of both in
            the same order: B = A + 2 (E + P), as `headrace.data.PairDraw.rows` has them.
        alone: A.
        weights: Weights of the edges, (E,).

    Returns:
        The batch with two more columns in `extra`. It may be cut into pieces only where no pair is torn.

    Raises:
        DataError: If the rows do not come out even.
    """
    pairs, odd = divmod(len(batch) - alone, 2)
    edges = len(weights)
    if odd or alone < 0 or pairs < edges:
        raise DataError("with_pairs", got=f"{len(batch)} rows, {alone} of them alone, {edges} edges",
                        expected="nodes alone, and two rows for every edge and other pair")  # fmt: skip
    counts = torch.tensor([alone, edges, pairs - edges, edges, pairs - edges])
    side = torch.repeat_interleave(torch.tensor([ALONE, EDGE_LEFT, OTHER_LEFT, EDGE_RIGHT, OTHER_RIGHT]), counts)
    weight = torch.zeros(len(batch))
    weight[side == EDGE_LEFT] = weights.to(weight.dtype)
    return replace(batch, extra={**batch.extra, SIDE: side, WEIGHT: weight})


def pair_terms(
    left_mean: Tensor, left_std: Tensor, right_mean: Tensor, right_std: Tensor, correlation: Tensor, tau: float
) -> Tensor:
    """Return what joining two nodes by an edge adds to the KL: `KL(q_ij || p_ij) - KL(q_i || p) - KL(q_j || p)`.

    Both are normal; in each dimension q_ij has the given means, deviations and correlation, and p_ij means 0, variances
    1 and correlation tau.

    Shapes:
        (..., K) each -> (...), the sum over K.

    Example:
        >>> zero, one = torch.zeros(1), torch.ones(1)
        >>> round(float(pair_terms(zero, one, zero, one, torch.tensor([0.9]), 0.9)), 6)  # the prior itself
        0.0
    """
    squares = left_mean.square() + left_std.square() + right_mean.square() + right_std.square()
    product = left_mean * right_mean + left_std * right_std * correlation
    rest = 1.0 - tau * tau
    joined = 0.5 * (squares - 2.0 * tau * product) / rest - 0.5 * squares + 0.5 * math.log(rest)
    return (joined + mutual_information(correlation)).sum(-1)


def mutual_information(correlation: Tensor) -> Tensor:
    """Return the mutual information of two normal variables with this correlation, in nats, elementwise."""
    return -0.5 * torch.log1p(-correlation.square())


@dataclass(frozen=True, slots=True)
class CorrelatedELBO:
    """The negative evidence lower bound over a graph, per node, estimated from nodes, edges and pairs of any nodes.

    `mean over nodes [KL - log-likelihood] + sum over edges [w_e pair_e] / N + gamma R`, where R is the same bound's KL
    part on the complete graph with an independent prior: `mean KL + sum over all pairs [(2 / N) mutual information] /
    N`. R keeps a pair network from calling every pair correlated; without it, such a network has nothing to lose, and
    distances say nothing of who is connected. Models with independent latents do without (`gamma=0`).

    The total is a mean over sampled nodes, edges and pairs, each scaled to how many there are. A batch without pairs
    has the loss of `ELBO`.

    Attributes:
        nodes: N, in the whole graph.
        edges: E, in the whole graph.
        gamma: Weight of R.
        tau: Correlation of two neighbours under the prior.
        beta: Weight of all KL terms; 1 is the bound itself.

    Raises:
        ConfigError: If a value cannot work; or, when called, if the model has no `correlated`.

    Shapes:
        The model's `correlated(batch, alone, left, right)` returns a `headrace.nn.Correlated`.

    Source:
        Tang et al. 2019, "Correlated Variational Auto-Encoders"; the estimate of R (pairs drawn from all pairs, edges
        included) as in the authors' code. Tang et al. 2019, "Learning Correlated Latent Representations with Adaptive
        Priors", has the same bound with weights that move (`headrace.data.AdaptiveWeights`).
    """

    nodes: int
    edges: int
    gamma: float = 0.0
    tau: float = 0.99
    beta: float = 1.0

    def __post_init__(self) -> None:
        require(self.nodes >= 1, "nodes", got=self.nodes, expected="1 or more")
        require(self.edges >= 0, "edges", got=self.edges, expected="0 or more")
        require(self.gamma >= 0.0, "gamma", got=self.gamma, expected="0 or more")
        require(0.0 <= self.tau < 1.0, "tau", got=self.tau, expected="a correlation from 0, below 1")
        require(self.beta >= 0.0, "beta", got=self.beta, expected="0 or more")

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the loss; its parts are means `reconstruction` and `kl` of nodes, `edges` and `others` per node.

        Raises:
            DataError: If there is no row alone, or an end of a pair without its other end.
        """
        check_examples(batch)
        alone_A, left_P, right_P, edges = _places(batch)
        found = _asked(model)(batch, alone_A, left_P, right_P)
        mean_BK, log_variance_BK = found.posterior.mean, found.posterior.log_variance
        weights_A = batch.weights[alone_A]
        kl_A = gaussian_kl(mean_BK[alone_A], log_variance_BK[alone_A])
        fit_A = log_likelihood(found.logits, found.examples, found.places, found.likelihood)
        own = (((1.0 + self.gamma) * self.beta * kl_A - fit_A) * weights_A).sum() / len(alone_A)
        joined, spread = own.new_zeros(()), own.new_zeros(())
        if edges:
            std_BK = torch.exp(0.5 * log_variance_BK)
            left, right = left_P[:edges], right_P[:edges]
            terms_E = pair_terms(mean_BK[left], std_BK[left], mean_BK[right], std_BK[right], found.correlation[:edges],
                                 self.tau)  # fmt: skip
            joined = (batch.extra[WEIGHT][left] * terms_E).mean() * (self.edges / self.nodes)
        if len(left_P) > edges and self.gamma > 0.0:
            information = mutual_information(found.correlation[edges:]).sum(1).mean()
            spread = information * (self.nodes - 1) / self.nodes  # 2 / N of N (N - 1) / 2 pairs, per node
        total = own + self.beta * (joined + self.gamma * spread)
        parts = {"reconstruction": -fit_A.mean(), "kl": kl_A.mean(), "edges": joined, "others": spread}
        return Loss(total, {name: float(value.detach()) for name, value in parts.items()})


def _places(batch: Batch) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return rows alone (A,), rows of all pairs' ends (E + P,) each, edges first, and how many edges there are."""
    if SIDE not in batch.extra:
        none = torch.zeros(0, dtype=torch.int64)
        return torch.arange(len(batch)), none, none, 0
    side = batch.extra[SIDE]
    alone, left, right, other_left, other_right = (torch.nonzero(side == which).squeeze(1) for which in range(5))
    if not len(alone) or len(left) != len(right) or len(other_left) != len(other_right):
        raise DataError("Batch of pairs", got=[len(alone), len(left), len(right), len(other_left), len(other_right)],
                        expected="rows alone, and as many right ends as left ones",
                        do="Lay the batch out with with_pairs, and do not cut it.")  # fmt: skip
    return alone, torch.cat([left, other_left]), torch.cat([right, other_right]), len(left)


def _asked(model: nn.Module) -> Callable[[Batch, Tensor, Tensor, Tensor], _Correlated]:
    found = getattr(model, "correlated", None)
    if not callable(found):
        raise ConfigError("CorrelatedELBO, model", got=f"a {type(model).__name__} without 'correlated'",
                          expected="a model that has it, as CorrelatedVAE of headrace.nn does")  # fmt: skip
    return cast("Callable[[Batch, Tensor, Tensor, Tensor], _Correlated]", found)
