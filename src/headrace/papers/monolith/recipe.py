"""Monolith's public-data experiments as configurations: DeepFM on collisionless tables, learned online."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from torch import nn

from headrace.data import CrossFeature, IdFeature, JoinConfig, Schema
from headrace.data.datasets import criteo as criteo_data
from headrace.data.datasets import movielens as movielens_data
from headrace.data.datasets import trivago as trivago_data
from headrace.data.datasets.recorded import RecordedLog, missing, read_table
from headrace.nn import DeepFM
from headrace.online.config import OnlineConfig, TableSettings
from headrace.store import SGD, Adagrad, RowRule, Uniform
from headrace.types import Events

HISTORY = ("shown_before", "clicked_before", "has_clicked", "last_position", "price_step", "price_distance")
"""Features of the trivago rows that say what their user saw and clicked before."""


def deepfm(embed: nn.Module, schema: Schema, seed: int) -> nn.Module:
    """Build the network of every experiment here: hidden layers of 64 and 32."""
    width = schema.id_features[0].dim
    return DeepFM(embed, schema.id_names, len(schema.dense_names), hidden=(64, 32), dim=width, seed=seed)


def criteo(*, dim: int = 8, lr: float = 0.05, batch_rows: int = 256, seed: int = 0) -> OnlineConfig:
    """The first rows of the Criteo Kaggle log, in the order of the file."""
    return _ranker("criteo", criteo_data.schema(dim), _adagrad(lr), batch_rows, seed)


def trivago(
    *, dim: int = 8, lr: float = 0.05, batch_rows: int = 256, seed: int = 0, history: bool = False
) -> OnlineConfig:
    """Hotels shown and clicked, two days in order of time; position is served at its reference value.

    With `history` the rows carry counters of what the user saw and clicked just before. They bring fresh information
    to weights however old, so the claim about fresh weights is made without them, and with user x item rows instead.
    """
    schema = trivago_data.schema(dim)
    if not history:
        schema = schema.evolved(drop=HISTORY, add=(CrossFeature("user_item", dim, ("user_id", "item")),))
    return _ranker("trivago", schema, _adagrad(lr), batch_rows, seed)


def movielens(*, dim: int = 8, lr: float = 0.05, batch_rows: int = 1024, seed: int = 0) -> OnlineConfig:
    """Users and movies and nothing else, so that collisions of their ids are all that differs between runs."""
    schema = Schema(features=(IdFeature("user_id", dim), IdFeature("item", dim)))
    return _ranker("movielens", schema, _adagrad(lr), batch_rows, seed)


def planted(*, dim: int = 4, lr: float = 0.1, batch_rows: int = 16, seed: int = 0) -> OnlineConfig:
    """Items whose appeal drifts as planted in `planted_log`; plain SGD, whose steps do not shrink with time."""
    schema = Schema(features=(IdFeature("user_id", dim), IdFeature("item", dim)))
    return _ranker("planted", schema, SGD(lr=lr), batch_rows, seed)


def planted_log(*, rows: int, hours: float, seed: int, drift: bool = True, period_h: float = 8.0) -> Events:
    """Draw a click log in which the appeal of every item swings, each in its own phase, or stays where it begins.

    Args:
        rows: Examples, evenly spread over the time.
        hours: Length of the log.
        seed: Of everything drawn.
        drift: Whether appeal moves with time; without, online learning has nothing to follow.
        period_h: Hours of one swing.
    """
    draw = np.random.default_rng(seed)
    users, items = draw.integers(0, 50, rows), draw.integers(0, 40, rows)
    taste, phase = draw.normal(0.0, 0.3, 50), draw.uniform(0.0, 1.0, 40)
    times_h = np.linspace(0.0, hours, rows, endpoint=False)
    swing = np.cos(2 * np.pi * ((times_h / period_h if drift else 0.0) + phase[items]))
    chance = 1 / (1 + np.exp(0.5 - taste[users] - 2.0 * swing))
    return Events.from_columns({
        "key": [f"r{row}" for row in range(rows)], "kind": ["example"] * rows,
        "event_time": (times_h * 3.6e9).astype(np.int64), "user_id": users, "item": items,
        "label": (draw.random(rows) < chance).astype(np.float32),
    })  # fmt: skip


def examples(log: RecordedLog) -> Events:
    """Return all labelled rows of a recorded log, in order of time."""
    rows = log.examples().read(log.rows)
    assert rows is not None  # its loader has refused a log without rows
    return rows


def ratings() -> tuple[Events, Path]:
    """Return the MovieLens-1M ratings as labelled rows with a column `fold` (1 to 5), and the file they are from.

    Raises:
        DataError: If there is no such file; names those looked for.
    """
    path, edition = movielens_data.find("1m"), movielens_data.EDITIONS["1m"]
    if path is None:
        raise missing("MovieLens 1m", edition.names, edition.archive.url)
    raw = read_table(path, movielens_data.layout(path))
    user, item = (raw[name].combine_chunks() for name in movielens_data.layout(path).key)
    folds = raw["fold"].cast(pa.int64()).to_numpy() if "fold" in raw.column_names else np.arange(len(raw)) % 5 + 1
    rows = Events.from_columns({
        "key": user, "kind": ["example"] * len(raw), "event_time": np.zeros(len(raw), np.int64), "user_id": user,
        "item": item, "fold": folds, "label": (raw["rating"].to_numpy() >= 3.5).astype(np.float32),
    })  # fmt: skip
    return rows, path


def _ranker(name: str, schema: Schema, rule: RowRule, batch_rows: int, seed: int) -> OnlineConfig:
    return OnlineConfig(
        name=f"monolith-{name}", schema=schema, model=deepfm, tables=TableSettings(rule=rule, init=Uniform(0.01)),
        join=JoinConfig(window_s=3600.0, lateness_s=60.0), dense_lr=1e-3, batch_rows=batch_rows, seed=seed,
    )  # fmt: skip


def _adagrad(lr: float) -> Adagrad:
    return Adagrad(lr=lr, initial_accumulator=0.1)  # 0.1 is also the default of the paper's code
