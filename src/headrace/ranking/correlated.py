"""Fitting latent states over a graph: CVAE with fixed weights of edges, ACVAE with weights that follow the model.

The learner is an ordinary `RankLearner`; what is special is which rows a batch holds (nodes, both ends of edges, pairs
of any nodes) and its objective. Nodes, histories and graph stay on the host.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headrace.config import known_name, require
from headrace.data.adaptive_weights import AdaptiveWeights
from headrace.data.features import Schema, SequenceFeature
from headrace.data.graph import Floats, Graph, Ints, PairSampler
from headrace.data.spanning import rooted, spanning_weights
from headrace.data.tree_belief import apart, tree_distances
from headrace.learn import LearnerConfig, RankLearner
from headrace.nn import CorrelatedVAE, Latents, PairSettings, VAESettings
from headrace.objectives import CorrelatedELBO, pair_terms, with_pairs
from headrace.online.build import embedding
from headrace.ranking.examples import taken
from headrace.store import Adam, EmbeddingCollection, Normal, TableConfig, open_table
from headrace.types import Batch, Jagged

Singles = npt.NDArray[np.float32]
Catalogue: TypeAlias = int | Sequence[int] | Tensor
BLOCK_UNITS = 1 << 21
"""Hidden units of the pair network that are computed at a time when all pairs are asked for."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrelatedConfig:
    """Settings of a fit.

    Attributes:
        latents: `plain`, a VAE that knows no graph; `independent`, CVAE whose posteriors of neighbours are independent;
            `correlated`, CVAE with a pair network.
        latent: Width K of latent states.
        hidden: Hidden units of encoder and decoder.
        pair_hidden: Hidden units of the pair network.
        tau: Correlation of neighbours under the prior.
        gamma: Weight of the regulariser over all pairs; for `correlated` alone.
        steps: Steps of learning.
        lr: Rate of Adam, for dense parameters and table rows alike.
        nodes, edges, others: Nodes, edges and pairs of any nodes in a step.
        edge_weights: `spanning`, the share of spanning forests that have an edge; `one` counts every edge in full: an
            ablation, with no bound behind it.
        adapt_every: Steps between two moves of the edges' weights; 0 leaves them fixed.
        adapt_rate: How far such a move goes.
        seed: Of initial weights, draws and order.

    Raises:
        ConfigError: If a value cannot work.
    """

    latents: Literal["plain", "independent", "correlated"] = "correlated"
    latent: int = 20
    hidden: int = 100
    pair_hidden: int = 100
    tau: float = 0.99
    gamma: float = 100.0
    steps: int = 2000
    lr: float = 1e-3
    nodes: int = 64
    edges: int = 256
    others: int = 256
    edge_weights: Literal["spanning", "one"] = "spanning"
    adapt_every: int = 0
    adapt_rate: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        known_name("latents", self.latents, ["plain", "independent", "correlated"])
        require(min(self.steps, self.nodes) >= 1, "steps, nodes", got=(self.steps, self.nodes), expected="1 or more")
        known_name("edge_weights", self.edge_weights, ["spanning", "one"])
        require(self.adapt_every >= 0, "adapt_every", got=self.adapt_every, expected="0 or more")

    @property
    def paired(self) -> bool:
        """Whether there is a pair network."""
        return self.latents == "correlated"

    @property
    def width(self) -> int:
        """Columns of the items' table: the encoder's first layer, then the pair network's."""
        return self.hidden + (2 * self.pair_hidden if self.paired else 0)

    def schema(self) -> Schema:
        """What requests may have: a history, with an item or another history."""
        features = [
            SequenceFeature(name, self.width, "item", pooling="none", max_length=1 << 20)
            for name in ("history", "other") if name == "history" or self.paired
        ]  # fmt: skip
        return Schema(features=tuple(features))


def nodes_of(histories: Jagged) -> Batch:
    """Return one row per node, with its history and nothing else; distinct items in each."""
    rows = len(histories)
    zeros, ones = torch.zeros(rows, dtype=torch.int64), torch.ones(rows)
    return Batch(
        ids={"history": histories, "other": Jagged(zeros[:0], torch.zeros(rows + 1, dtype=torch.int64))},
        dense=torch.zeros(rows, 0), labels=ones, weights=ones, event_times=zeros, accepted_times=zeros,
        example_ids=torch.arange(rows), predictions=torch.full((rows,), torch.nan), versions=zeros - 1,
        sample_rates=ones,
    )  # fmt: skip


def open_correlated(config: CorrelatedConfig, items: Catalogue, objective: CorrelatedELBO) -> RankLearner:
    """Return a learner in its initial state; a serving model is built the same way."""
    table = TableConfig(name="item", dim=config.width, rule=Adam(lr=config.lr, correction="table"), init=Normal(0.1),
                        seed=config.seed)  # fmt: skip
    collection = embedding(config.schema(), {"item": open_table(table)})
    model = correlated_model(config, items, collection)
    return RankLearner(
        model, collection, torch.optim.Adam(model.parameters(), lr=config.lr), objective,
        LearnerConfig(seed=config.seed, row_gradients="mean", freshness=False, keep_versions=1, schema=config.schema()),
    )  # fmt: skip


def correlated_model(config: CorrelatedConfig, items: Catalogue, embed: EmbeddingCollection) -> CorrelatedVAE:
    """Build the network."""
    catalogue = range(items) if isinstance(items, int) else items
    settings = VAESettings(latent=config.latent, dropout=0.0)
    pair = PairSettings(hidden=config.pair_hidden) if config.paired else None
    return CorrelatedVAE(embed, config.schema().id_names, catalogue=catalogue, settings=settings, pair=pair,
                         seed=config.seed)  # fmt: skip


class CorrelatedFit:
    """A fit over a graph.

    Args:
        histories: Distinct items of every node.
        items: Ids of all items, or how many there are if they are numbered from 0.
        graph: Which nodes belong together.
        config: Settings.
        weights: Weights of the edges (E,), computed once for several fits; None computes them.

    Attributes:
        learner: What learns; `learner.model` is a `CorrelatedVAE`.
        weights: The weights of the edges, and how they move.
        gaps: By step, how far the weights were from the worst mixture, at every move.

    Example:
        >>> histories = Jagged(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 2, 3, 4]))
        >>> fit = CorrelatedFit(histories, 3, Graph.from_pairs(3, [[0, 1]]), CorrelatedConfig(steps=2, latent=2))
        >>> fit.run().distances(np.array([0])).shape
        (1, 3)
    """

    def __init__(
        self, histories: Jagged, items: Catalogue, graph: Graph, config: CorrelatedConfig, weights: Floats | None = None
    ) -> None:
        require(len(histories) == graph.nodes, "CorrelatedFit, histories", got=f"{len(histories)} of them",
                expected=f"{graph.nodes}, one per node")  # fmt: skip
        self.config, self.graph, self.nodes, joined = config, graph, nodes_of(histories), config.latents != "plain"
        self.sampler = PairSampler(
            graph=graph, nodes=config.nodes, edges=config.edges if joined else 0,
            others=config.others if config.paired and config.gamma > 0.0 else 0, seed=config.seed,
        )  # fmt: skip
        objective = CorrelatedELBO(nodes=graph.nodes, edges=len(graph), tau=config.tau,
                                   gamma=config.gamma if config.paired else 0.0)  # fmt: skip
        self.learner = open_correlated(config, items, objective)
        start = spanning_weights(graph) if weights is None else weights
        self.weights = AdaptiveWeights(graph, config.adapt_rate if config.adapt_every else 0.0, start)
        self.step, self.gaps = 0, dict[int, float]()
        self._known: tuple[int, Latents] | None = None

    @property
    def model(self) -> CorrelatedVAE:
        """The model, as it is now."""
        assert isinstance(self.learner.model, CorrelatedVAE)
        return self.learner.model

    def run(self, *, until: int | None = None, on_step: Callable[[int, float], None] | None = None) -> CorrelatedFit:
        """Learn up to a step; None: to the end. `on_step` gets the number of the step and its loss."""
        for step in range(self.step, self.config.steps if until is None else until):
            loss = self.learner.learn(self.batch(step))
            self.step = step + 1
            if self.config.adapt_every and self.step % self.config.adapt_every == 0:
                self.gaps[self.step] = self.weights.step(self.edge_scores())
            if on_step is not None:
                on_step(self.step, float(loss.total))
        return self

    def batch(self, step: int) -> Batch:
        """Return what step 0, 1, ... learns from, with the weights as they are now."""
        draw = self.sampler.draw(step)
        rows, weights = taken(self.nodes, torch.from_numpy(draw.rows)), self.weights.weights[draw.edges]
        if self.config.edge_weights == "one":
            weights = np.ones_like(weights)
        return with_pairs(rows, alone=len(draw.nodes), weights=torch.from_numpy(weights))

    def latents(self) -> Latents:
        """Return the latent states of all nodes."""
        if self._known is None or self._known[0] != self.step:
            with torch.no_grad():
                self._known = (self.step, self.model.eval().latents(self.nodes))
        return self._known[1]

    def edge_correlations(self) -> Tensor:
        """Return the posterior correlations over all edges, (E, K)."""
        left, right = torch.from_numpy(self.graph.edges.T.copy())
        with torch.no_grad():
            return self.model.eval().correlation(self.latents().take(left), self.latents().take(right))

    def edge_scores(self) -> Floats:
        """Return what every edge adds to the KL when its weight is 1, (E,)."""
        left, right = torch.from_numpy(self.graph.edges.T.copy())
        one, two = (self.latents().take(side).posterior for side in (left, right))
        terms = pair_terms(one.mean, one.std, two.mean, two.std, self.edge_correlations(), self.config.tau)
        return terms.double().numpy()

    def distances(self, rows: Ints) -> Floats:
        """Return the expected squared distances of some nodes' latent states from all, (R, N), by the pair network.

        Cost: O(R N (P + K)) time per hidden unit P and dimension K; memory in blocks.
        """
        known = self.latents()
        mean, scale = known.posterior.mean.numpy(), known.posterior.std.numpy()
        found = apart(mean, scale, rows).astype(np.float64)
        if self.config.paired:
            block = max(BLOCK_UNITS // (self.graph.nodes * self.config.pair_hidden), 1)
            for start in range(0, len(rows), block):
                part = rows[start : start + block]
                found[start : start + block] -= 2.0 * self._together(known, part, scale)
        return found

    def tree_distances(self, rows: Ints, *, forests: int = 8, seed: int = 0) -> Floats:
        """Return expected squared distances under the mixture's joint, by belief propagation on drawn forests, (R, N).

        The pair network is asked about edges alone; all other pairs follow along the forests' paths.

        Args:
            rows: Nodes (R,).
            forests: Forests drawn from the mixture.
            seed: Of these draws.
        """
        known, correlations = self.latents().posterior, self.edge_correlations().numpy()
        mean, scale = known.mean.numpy(), known.std.numpy()
        total = np.zeros((len(rows), self.graph.nodes))
        hung = [rooted(self.graph, mask) for mask in self.weights.draw(forests, seed)]
        block = max(BLOCK_UNITS // (self.graph.nodes * self.config.latent), 1)
        for start in range(0, len(rows), block):
            part = rows[start : start + block]
            for forest in hung:
                total[start : start + block] += tree_distances(forest, correlations, mean, scale, part)
        return total / forests

    def _together(self, known: Latents, rows: Ints, scale: Singles) -> Floats:
        """Return `sum_k s_i s_j c_ij` for some nodes i and all j, (R, N)."""
        count, places = self.graph.nodes, torch.from_numpy(rows)
        one = known.take(places.repeat_interleave(count))
        other = known.take(torch.arange(count).repeat(len(rows)))
        with torch.no_grad():
            correlation = self.model.correlation(one, other).reshape(len(rows), count, -1).numpy()
        return np.asarray(np.einsum("rnk,nk,rk->rn", correlation, scale, scale[rows]))


def edge_bound(weights: Floats, scores: Floats, nodes: int) -> float:
    """Return what the edges take from the bound, per node: `-sum_e w_e s_e / N`; the adversary's objective."""
    return float(-(weights @ scores) / nodes)
