"""What ACVAE is tried on: small trees for exactness, a planted world, FilmTrust and Cora, with the arms' settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from headrace.data import Graph
from headrace.data.datasets.linked import Linked, cora, filmtrust, planted
from headrace.data.graph import Bools, Floats, Ints
from headrace.ranking import CorrelatedConfig

EVERY, RATE = 100, 0.2
"""Steps between two moves of the prior, and how far one goes: those of the reference notes."""
FORESTS = 8
"""Forests drawn from the mixture for belief propagation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Data and sizes of one experiment.

    Attributes:
        title: For tables.
        load: Returns the data of a seed.
        sizes: Sizes of models and steps; the prior does not move.
        every: Steps between two moves where it does.
    """

    title: str
    load: Callable[[int], Linked]
    sizes: CorrelatedConfig
    every: int = EVERY


SIZES = CorrelatedConfig(gamma=100.0, nodes=64, edges=128, others=128, steps=1000, lr=1e-3)
TOY = Setting(
    title="planted groups", load=lambda seed: planted(seed=seed), every=15,
    sizes=CorrelatedConfig(latent=8, hidden=32, pair_hidden=32, gamma=100.0, nodes=50, edges=80, others=80, steps=150,
                           lr=5e-3),
)  # fmt: skip
FILMTRUST = Setting(title="FilmTrust", load=lambda _: filmtrust(), sizes=replace(SIZES, latent=20, hidden=100))
CORA = Setting(
    title="Cora", load=lambda _: cora(),
    sizes=replace(SIZES, latent=32, hidden=128, pair_hidden=128, edges=256, others=256, steps=2000),
)  # fmt: skip

ARMS: Mapping[str, Mapping[str, object]] = {"VAE": {"latents": "plain"}, "CVAE": {}, "ACVAE": {"adapt_rate": RATE}}
"""By name: what is changed in the sizes' configuration. CVAE is ACVAE whose prior does not move: the control."""


def configured(setting: Setting, arm: str, seed: int) -> CorrelatedConfig:
    """Return an arm's configuration."""
    changes = dict(ARMS[arm])
    if "adapt_rate" in changes:
        changes["adapt_every"] = setting.every
    return replace(setting.sizes, seed=seed, **changes)  # type: ignore[arg-type]


def all_forests(graph: Graph) -> Bools:
    """List all spanning forests as masks (F, E): for graphs of a few nodes."""
    found = []
    for chosen in combinations(range(len(graph)), graph.forest_edges):
        if Graph.from_pairs(graph.nodes, graph.edges[list(chosen)]).forest_edges == graph.forest_edges:
            found.append(np.isin(np.arange(len(graph)), chosen))
    return np.array(found)


def joint_covariance(nodes: int, edges: Ints, correlations: Floats) -> Floats:
    """Invert the precision matrix of `prod_i N(z_i) prod_e N(z_i, z_j; c_e) / (N(z_i) N(z_j))`, in one dimension."""
    precision = np.eye(nodes)
    for (one, other), c in zip(edges, correlations, strict=True):
        pair = np.linalg.inv(np.array([[1.0, c], [c, 1.0]])) - np.eye(2)
        precision[np.ix_([one, other], [one, other])] += pair
    return np.asarray(np.linalg.inv(precision), dtype=np.float64)
