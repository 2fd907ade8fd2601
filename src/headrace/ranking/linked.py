"""How well fits over linked data find links that were held out, with plain baselines beside them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from headrace.data.datasets.linked import Linked
from headrace.data.graph import Floats, Graph, Ints
from headrace.data.spanning import spanning_weights
from headrace.evaluate import ClaimTable, Estimate, Plot, link_ranks, mean_over_seeds
from headrace.evaluate.link import Distances
from headrace.ranking.correlated import CorrelatedConfig, CorrelatedFit


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Linked data with some links held out.

    Attributes:
        linked: The data.
        graph: The links that are left to learn from.
        links: Those held out, (T, 2).
        weights: Share of all spanning forests that have an edge of `graph`, (E,).
    """

    linked: Linked
    graph: Graph
    links: Ints
    weights: Floats

    @staticmethod
    def split(linked: Linked, share: float = 0.1, seed: int = 0) -> Held:
        """Hold out a share of all links."""
        graph, links = linked.graph.split(share, seed)
        return Held(linked, graph, links, spanning_weights(graph))

    def ncrr(self, distances: Distances) -> float:
        """Return the normalised cumulative reciprocal rank of the links held out."""
        return link_ranks(distances, self.graph.nodes, self.graph.edges, self.links).mean


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A fit, what it reached, and the seconds of processor time that it took to learn."""

    fit: CorrelatedFit
    ncrr: float
    seconds: float


def trial(held: Held, config: CorrelatedConfig, *, shuffled: bool = False) -> Trial:
    """Fit and judge.

    Args:
        held: The data.
        config: Settings.
        shuffled: Learn from the graph with its nodes dealt out anew: a control that must gain nothing.
    """
    start = time.process_time()
    graph = held.graph.shuffled(1000 + config.seed) if shuffled else held.graph
    fit = CorrelatedFit(held.linked.histories, held.linked.items, graph, config, None if shuffled else held.weights)
    fit.run()
    return Trial(fit, held.ncrr(fit.distances), time.process_time() - start)


def baselines(held: Held) -> Mapping[str, float]:
    """Return the NCRR of what needs no training, by name."""
    graph, linked = held.graph, held.linked
    rows = linked.matrix()
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    chance = link_ranks(lambda some: np.zeros((len(some), graph.nodes)), graph.nodes, graph.edges, held.links).chance
    return {
        "random order": chance,
        "history cosine": held.ncrr(lambda some: -rows[some] @ rows.T),
        "node degree": held.ncrr(lambda some: np.tile(-graph.degrees, (len(some), 1))),
        "paths of 2 and 3 steps": held.ncrr(lambda some: -graph.path_counts(some)),
        "paths and cosine": held.ncrr(lambda some: -graph.path_counts(some) - rows[some] @ rows.T),
    }


@dataclass(slots=True)
class LinkScores:
    """What several methods reached on the same splits, one entry per seed.

    Attributes:
        ncrr: By method, in the order in which they came.
        seconds: Processor time of those that learn.
    """

    ncrr: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, ncrr: float, seconds: float | None = None) -> None:
        """Add one seed's."""
        self.ncrr.setdefault(name, []).append(ncrr)
        if seconds is not None:
            self.seconds.setdefault(name, []).append(seconds)

    def mean(self, name: str) -> Estimate:
        """Return a method's NCRR."""
        return mean_over_seeds(self.ncrr[name])

    def ratio(self, one: str, other: str) -> Estimate:
        """Return how many times the other's NCRR a method reached, paired by seed."""
        return mean_over_seeds([a / b for a, b in zip(self.ncrr[one], self.ncrr[other], strict=True)])

    def table(self, title: str, notes: Sequence[str]) -> ClaimTable:
        """Return all methods with NCRR, its standard deviation over seeds, and mean seconds."""
        cells = []
        for name in self.ncrr:
            mean, spent = self.mean(name), self.seconds.get(name)
            seconds = "" if spent is None else f"{np.mean(spent):.0f}"
            cells.append((name, f"{mean.value:.4f}", f"{mean.spread:.4f}", seconds))
        return ClaimTable(title, ("method", "NCRR", "spread", "seconds"), tuple(cells), tuple(notes))

    def plot(self, title: str) -> Plot:
        """Return the same as bars with 95 % intervals."""
        means = {name: self.mean(name) for name in self.ncrr}
        bars = {name: (one.value, one.low, one.high) for name, one in means.items()}
        return Plot(title=title, x_label="NCRR", bars=bars)
