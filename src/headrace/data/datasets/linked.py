"""Public data whose points are linked: FilmTrust (people who trust each other) and Cora (papers that cite each other).

Each point has a history of items (films rated, words used), and the links make a graph over the points.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from headrace.config import require
from headrace.data.datasets.recorded import find_in, missing, read_table
from headrace.data.graph import Graph, Ints
from headrace.data.layout import Layout
from headrace.errors import DataError
from headrace.types import Jagged

RATINGS, TRUST = "filmtrust_ratings.txt", "filmtrust_trust.txt"
FILMTRUST_ADDRESS = "github.com/guoguibing/librec (data/filmtrust)"
CORA = "cora_planetoid.npz"
CORA_ADDRESS = "github.com/kimiyoung/planetoid (data/ind.cora.*), converted to edges and sparse features in plain npz"


@dataclass(frozen=True, slots=True, eq=False)
class Linked:
    """Points with histories and links.

    Attributes:
        histories: Items of every point, distinct within a point, numbered from 0.
        items: How many items there are.
        graph: The links.
    """

    histories: Jagged
    items: int
    graph: Graph

    def matrix(self) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """Return which point has which item, (N, M), dense: for baselines on small data."""
        dense = np.zeros((self.graph.nodes, self.items), dtype=np.float32)
        lengths = torch.diff(self.histories.offsets).numpy()
        dense[np.repeat(np.arange(len(lengths)), lengths), self.histories.values.numpy()] = 1.0
        return dense


def filmtrust(ratings: Path | None = None, trust: Path | None = None, *, least: int = 5) -> Linked:
    """Return FilmTrust: who rated which film, and who trusts whom, in either direction.

    Args:
        ratings: File of `user film rating`; None: as it is found.
        trust: File of `truster trustee 1`; None: as it is found.
        least: Films with fewer ratings are left out of histories. People are those with a rating and a link to such a
            person; a few have none but rare films, and an empty history.

    Raises:
        DataError: If a file is missing or malformed.

    Source:
        Guo et al. 2013, "A Novel Bayesian Similarity Measure for Recommender Systems", the copy of LibRec.
    """
    files = (ratings or find_in((RATINGS,)), trust or find_in((TRUST,)))
    if files[0] is None or files[1] is None:
        raise missing("FilmTrust", (RATINGS, TRUST), FILMTRUST_ADDRESS)
    rated, trusted = _numbers(files[0], ("user", "item")), _numbers(files[1], ("one", "other"))
    links = trusted[trusted[:, 0] != trusted[:, 1]]
    links = links[np.isin(links, rated[:, 0]).all(axis=1)]
    people = np.unique(links)
    films, counts = np.unique(np.unique(rated, axis=0)[:, 1], return_counts=True)
    rated = rated[np.isin(rated[:, 1], films[counts >= least]) & np.isin(rated[:, 0], people)]
    films, items = np.unique(rated[:, 1], return_inverse=True)
    graph = Graph.from_pairs(len(people), np.searchsorted(people, links))
    return Linked(jagged(np.searchsorted(people, rated[:, 0]), items, len(people)), len(films), graph)


def cora(path: Path | None = None) -> Linked:
    """Return Cora: the words of every paper, and which papers cite each other.

    Raises:
        DataError: If the file is missing, or is not what it should be.

    Source:
        Sen et al. 2008, "Collective Classification in Network Data", in Planetoid's form.
    """
    found = path or find_in((CORA,))
    if found is None:
        raise missing("Cora", (CORA,), CORA_ADDRESS)
    try:
        with np.load(found, allow_pickle=False) as content:
            edges, starts, words, shape = (content[name] for name in
                                           ("edges", "feat_indptr", "feat_indices", "feat_shape"))  # fmt: skip
    except (KeyError, ValueError, OSError) as error:
        raise DataError(f"File {found}", got=str(error), expected="edges and sparse features, as plain arrays",
                        do=f"Get it from {CORA_ADDRESS}") from error  # fmt: skip
    rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    return Linked(jagged(rows, words.astype(np.int64), len(starts) - 1), int(shape[1]),
                  Graph.from_pairs(len(starts) - 1, edges))  # fmt: skip


def planted(
    *, nodes: int = 150, items: int = 80, groups: int = 10, friends: int = 3, share: float = 0.5, seed: int = 0
) -> Linked:
    """Draw points that are linked within hidden groups, and whose choices say more of something else.

    Each point has two favourites among the items for its group, drawn from the group's own, and four for its taste,
    which is drawn apart from the group. A model of choices alone learns tastes; links say what to look at.

    Args:
        nodes: How many points.
        items: How many items; the first share of them are chosen for groups, the others for tastes.
        groups: How many groups, and how many tastes.
        friends: Points of the same group that each is linked with.
        share: Share of the items that tell groups.
        seed: Another seed, another world.
    """
    draw = np.random.default_rng(seed)
    group, taste = draw.integers(0, groups, (2, nodes))
    split, choices = round(share * items), []
    for first, last, own, many in ((0, split, group, 2), (split, items, taste, 4)):
        fits = 3.0 * draw.normal(size=(groups, last - first))[own] + draw.gumbel(size=(nodes, last - first))
        choices.append(first + np.argsort(-fits, axis=1)[:, :many])
    likes = draw.gumbel(size=(nodes, nodes)) + np.where(group[:, None] == group[None], 100.0, 0.0)
    near = np.argsort(-np.where(np.eye(nodes, dtype=np.bool_), -np.inf, likes), axis=1)[:, :friends]
    graph = Graph.from_pairs(nodes, np.stack([np.repeat(np.arange(nodes), friends), near.ravel()], axis=1))
    taken = np.concatenate(choices, axis=1)
    return Linked(jagged(np.repeat(np.arange(nodes), taken.shape[1]), taken.ravel(), nodes), items, graph)


def jagged(rows: Ints, items: Ints, count: int) -> Jagged:
    """Return pairs of row and item as histories of `count` rows: distinct items, in ascending order.

    Example:
        >>> jagged(np.array([1, 0, 1, 1]), np.array([5, 2, 3, 5]), 3).offsets.tolist()
        [0, 1, 3, 3]
    """
    require(len(rows) == len(items), "jagged", got=(len(rows), len(items)), expected="as many rows as items")
    pairs = np.unique(np.stack([rows, items], axis=1), axis=0)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(pairs[:, 0], minlength=count))])
    return Jagged(torch.from_numpy(pairs[:, 1].copy()), torch.from_numpy(offsets))


def _numbers(path: Path, names: tuple[str, str]) -> Ints:
    """Return the first two columns of a file of numbers set apart by blanks."""
    columns = (*names, "value")
    layout = Layout(format="csv", delimiter=" ", names=columns,
                    types={name: "int64" if name != "value" else "float64" for name in columns})  # fmt: skip
    table: pa.Table = read_table(path, layout)
    return np.stack([table[name].to_numpy() for name in names], axis=1).astype(np.int64)
