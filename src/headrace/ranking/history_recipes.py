"""Recipes for families that read what a user did before: DIN, DIEN, BST, SASRec, and two towers for retrieval.

    headrace run headrace.ranking.history_recipes:movielens model=BST

A row is a rating; its history holds the movies that the user had liked before, oldest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import nn

from headrace.config import fingerprint
from headrace.data.datasets import movielens as movielens_data
from headrace.data.datasets.recorded import codes
from headrace.data.download import cache_folder
from headrace.data.files import sha256
from headrace.data.prepare import prepare
from headrace.data.prepare_columns import Category, History, Preparation
from headrace.data.prepared_files import PreparedData
from headrace.nn import DIN, TowerInputs, TwoTower
from headrace.online.config import ModelFamily
from headrace.optim.scaling import Rule
from headrace.ranking.config import FitConfig
from headrace.ranking.network import Network
from headrace.ranking.prepared import IN_ORDER
from headrace.ranking.steps import BASE_ROWS, Steps, ranker_of

PAIRS = {"history": "item"}
"""History to the feature that it is compared with."""

Integers = npt.NDArray[np.int64]


def movielens(
    *, model: ModelFamily = DIN, dim: int = 16, hidden: tuple[int, ...] = (128, 64), lr: float = 1e-3,
    table_lr: float | None = None, batch_rows: int = BASE_ROWS, scaling: Rule = "none", epochs: int = 3,
    length: int = 20, variant: str = "100k", rows: int | None = None, folder: Path | None = None, seed: int = 0,
) -> FitConfig:  # fmt: skip
    """MovieLens ratings in order of time with the movies liked before; the newest tenth is the test."""
    network = Network(family=model, hidden=hidden, prior=0.55, settings={"pairs": PAIRS})
    steps = Steps(lr=lr, table_lr=table_lr, batch_rows=batch_rows, scaling=scaling, epochs=epochs, seed=seed)
    data, notes = ratings(variant, length=length, pooling="none", rows=rows, folder=folder)
    return ranker_of(f"movielens-{variant}-history", data, network, steps, dim=dim, notes=notes)


def movielens_towers(
    *, dim: int = 16, hidden: tuple[int, ...] = (64,), lr: float = 1e-3, table_lr: float | None = None,
    batch_rows: int = BASE_ROWS, scaling: Rule = "none", epochs: int = 3, length: int = 20, variant: str = "100k",
    rows: int | None = None, folder: Path | None = None, seed: int = 0,
) -> FitConfig:  # fmt: skip
    """Two towers on the same ratings: user and history on one side, movie on the other."""
    network = Network(family=towers, hidden=hidden)
    steps = Steps(lr=lr, table_lr=table_lr, batch_rows=batch_rows, scaling=scaling, epochs=epochs, seed=seed)
    data, notes = ratings(variant, length=length, pooling="mean", rows=rows, folder=folder)
    return ranker_of(f"movielens-{variant}", data, network, steps, dim=dim, notes=notes)


def towers(
    embed: nn.Module, features: Sequence[str], dense_dim: int, hidden: Sequence[int] = (64,), *, seed: int = 0
) -> TwoTower:
    """Build two towers: the item tower reads `item`, the user tower all other features."""
    user = tuple(name for name in features if name != "item")
    return TwoTower(embed, TowerInputs(user, tuple(range(dense_dim))), TowerInputs(("item",)), hidden, seed=seed)


def ratings(
    variant: str, *, length: int, pooling: Literal["none", "mean"], rows: int | None = None, folder: Path | None = None
) -> tuple[PreparedData, tuple[str, ...]]:
    """Prepare the ratings of an edition with their histories, or find them prepared.

    Returns:
        The data, with the newest tenth as `test`, and what a report must say about them.
    """
    path = movielens_data.find(variant)
    facts = None if path is None else sha256(path)
    where = folder or cache_folder() / "prepared" / (
        f"movielens-history-{fingerprint([variant, facts, length, pooling, rows])}"
    )
    log = movielens_data.load(variant=variant, rows=rows)
    if (where / "manifest.json").exists():
        return PreparedData(where), log.notes
    shown = log.examples().read(log.rows)
    assert shown is not None  # its loader has refused a log without rows
    table = pa.Table.from_batches([shown.batch]).select(["user_id", "item", "label"])
    liked = table["label"].to_numpy() > 0
    table = table.append_column("history", histories(codes(table["user_id"]), table["item"], liked, length))
    plan = Preparation(columns=(Category("user_id"), Category("item"),
                                History("history", vocabulary="item", max_length=length, pooling=pooling)))  # fmt: skip
    return prepare(table, plan, where, split=IN_ORDER), log.notes


def histories(users: Integers, items: pa.ChunkedArray, liked: npt.NDArray[np.bool_], length: int) -> pa.ListArray:
    """Return for each row the last items, at most `length`, that its user had liked in earlier rows, oldest first.

    Args:
        users: Codes of the users (N,); rows in order of time.
        items: Items (N,).
        liked: Whether a row counts as liked (N,).
        length: Longest history.

    Example:
        >>> items = pa.chunked_array([["a", "b", "c", "d"]])
        >>> histories(np.array([0, 0, 1, 0]), items, np.array([True, False, True, True]), 5).to_pylist()
        [[], ['a'], [], ['a']]
    """
    order = np.argsort(users, kind="stable")
    likes = liked[order].astype(np.int64)
    before = np.cumsum(likes) - likes  # likes in earlier rows, all users
    first = np.concatenate([np.ones(1, np.bool_), users[order][1:] != users[order][:-1]])
    begin = np.maximum.accumulate(np.where(first, before, 0))  # likes before the user's first row
    starts, ends = np.empty(len(users), np.int64), np.empty(len(users), np.int64)
    starts[order], ends[order] = np.maximum(begin, before - length), before
    lengths = ends - starts
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    places = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - starts, lengths)
    known = items.combine_chunks().take(pa.array(order[likes > 0]))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), known.take(pa.array(places)))
