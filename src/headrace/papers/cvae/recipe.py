"""What CVAE is tried on: a planted world, FilmTrust and Cora, with the settings of every arm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from headrace.data import Graph
from headrace.data.datasets.linked import Linked, cora, filmtrust, planted
from headrace.data.graph import Floats
from headrace.ranking import CorrelatedConfig

GAMMA = 100.0
"""Weight of the regulariser over all pairs, wherever it is not what is varied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Data and sizes of one experiment.

    Attributes:
        title: For tables.
        load: Returns the data of a seed.
        sizes: Sizes of models and steps.
        share: Share of the links that is held out.
    """

    title: str
    load: Callable[[int], Linked]
    sizes: CorrelatedConfig
    share: float = 0.1


SIZES = CorrelatedConfig(gamma=GAMMA, nodes=64, edges=128, others=128, steps=1000, lr=1e-3)
TOY = Setting(
    title="planted groups", load=lambda seed: planted(seed=seed),
    sizes=CorrelatedConfig(latent=8, hidden=32, pair_hidden=32, gamma=GAMMA, nodes=50, edges=80, others=80, steps=150,
                           lr=5e-3),
)  # fmt: skip
FILMTRUST = Setting(title="FilmTrust", load=lambda _: filmtrust(), sizes=replace(SIZES, latent=20, hidden=100))
CORA = Setting(
    title="Cora", load=lambda _: cora(),
    sizes=replace(SIZES, latent=32, hidden=128, pair_hidden=128, edges=256, others=256, steps=2000),
)  # fmt: skip

ARMS: Mapping[str, tuple[Mapping[str, object], bool]] = {
    "VAE": ({"latents": "plain"}, False),
    "CVAE_ind": ({"latents": "independent"}, False),
    "CVAE_ind, all weights 1": ({"latents": "independent", "edge_weights": "one"}, False),
    "CVAE_corr, gamma 0": ({"gamma": 0.0}, False),
    "CVAE_corr": ({}, False),
    "CVAE_corr, shuffled graph": ({}, True),
}
"""By name: what is changed in the sizes' configuration, and whether the graph is shuffled."""


def configured(setting: Setting, arm: str, seed: int) -> CorrelatedConfig:
    """Return an arm's configuration."""
    return replace(setting.sizes, seed=seed, **ARMS[arm][0])  # type: ignore[arg-type]


def shares_of_all_forests(graph: Graph) -> Floats:
    """Return the share of all spanning forests that have an edge, by listing them all: for graphs of a few nodes."""
    count, found = 0, np.zeros(len(graph))
    for chosen in combinations(range(len(graph)), graph.forest_edges):
        if Graph.from_pairs(graph.nodes, graph.edges[list(chosen)]).forest_edges == graph.forest_edges:
            found[list(chosen)] += 1.0
            count += 1
    return found / count
