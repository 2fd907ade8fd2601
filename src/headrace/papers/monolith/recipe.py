"""Monolith's public-data experiments as configurations: DeepFM on collisionless tables, learned online."""

from __future__ import annotations

import numpy as np
from torch import nn

from headrace.data import CrossFeature, IdFeature, JoinConfig, Label, Schema
from headrace.data.datasets import criteo as criteo_data
from headrace.data.datasets import movielens as movielens_data
from headrace.data.datasets import trivago as trivago_data
from headrace.data.datasets.recorded import RecordedLog, missing, read_table
from headrace.nn import DeepFM
from headrace.online.config import OnlineConfig, TableSettings
from headrace.store import SGD, Adagrad, Uniform
from headrace.types import Events

MICROSECONDS = 1_000_000
HOUR_S = 3600.0
HISTORY = ("shown_before", "clicked_before", "has_clicked", "last_position", "price_step", "price_distance")
"""Features of the trivago rows that say what their user saw and clicked before."""


def deepfm(embed: nn.Module, schema: Schema, seed: int) -> nn.Module:
    """Build the network of every experiment here: hidden layers of 64 and 32."""
    dim = schema.id_features[0].dim
    return DeepFM(embed, schema.id_names, len(schema.dense_names), hidden=(64, 32), dim=dim, seed=seed)


def trivago(
    *, dim: int = 8, lr: float = 0.05, dense_lr: float = 1e-3, batch_rows: int = 256, seed: int = 0,
    history: bool = False,
) -> OnlineConfig:  # fmt: skip
    """Hotels shown and clicked, two days in order of time; position is served at its reference value.

    With `history` the rows carry counters of what the user saw and clicked just before. They bring fresh information
    to weights however old, so the claim about fresh weights is made without them, and with user x item rows instead.
    """
    schema = trivago_data.schema(dim)
    if not history:
        schema = schema.evolved(drop=HISTORY, add=(CrossFeature("user_item", dim, ("user_id", "item")),))
    return OnlineConfig(
        name="monolith-trivago", schema=schema, model=deepfm, tables=_adagrad(lr),
        join=JoinConfig(window_s=HOUR_S, lateness_s=60.0), dense_lr=dense_lr, batch_rows=batch_rows, seed=seed,
    )  # fmt: skip


def criteo(
    *, dim: int = 8, lr: float = 0.05, dense_lr: float = 1e-3, batch_rows: int = 256, seed: int = 0
) -> OnlineConfig:
    """The first rows of the Criteo Kaggle log, in the order of the file."""
    return OnlineConfig(
        name="monolith-criteo", schema=criteo_data.schema(dim), model=deepfm, tables=_adagrad(lr),
        join=JoinConfig(window_s=HOUR_S, lateness_s=60.0), dense_lr=dense_lr, batch_rows=batch_rows, seed=seed,
    )  # fmt: skip


def movielens(
    *, dim: int = 8, lr: float = 0.05, dense_lr: float = 1e-3, batch_rows: int = 1024, seed: int = 0
) -> OnlineConfig:
    """Users and movies and nothing else, so that collisions of their ids are all that differs between runs."""
    schema = Schema(features=(IdFeature("user_id", dim), IdFeature("item", dim)), label=Label(positive=("like",)))
    return OnlineConfig(
        name="monolith-movielens", schema=schema, model=deepfm, tables=_adagrad(lr),
        join=JoinConfig(window_s=HOUR_S, lateness_s=60.0, positive=("like",)), dense_lr=dense_lr,
        batch_rows=batch_rows, seed=seed,
    )  # fmt: skip


def planted(
    *, dim: int = 4, lr: float = 2.0, dense_lr: float = 1e-3, batch_rows: int = 16, seed: int = 0
) -> OnlineConfig:
    """Items whose appeal drifts as planted in `planted_log`; plain SGD, whose steps do not shrink with time."""
    schema = Schema(features=(IdFeature("user_id", dim), IdFeature("item", dim)))
    return OnlineConfig(
        name="monolith-planted", schema=schema, model=deepfm, join=JoinConfig(window_s=HOUR_S, lateness_s=60.0),
        tables=TableSettings(rule=SGD(lr=lr), init=Uniform(0.01)), dense_lr=dense_lr, batch_rows=batch_rows, seed=seed,
    )  # fmt: skip


def planted_log(*, rows: int, seed: int, drift: bool = True, hours: float = 24.0, period_h: float = 8.0) -> Events:
    """Draw a click log in which the appeal of every item swings, each in its own phase, or stays where it begins.

    Args:
        rows: Examples, evenly spread over the time.
        seed: Of everything drawn.
        drift: Whether appeal moves with time; without, online learning has nothing to follow.
        hours: Length of the log.
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
        "event_time": (times_h * HOUR_S * MICROSECONDS).astype(np.int64), "user_id": users,
        "item": [f"i{item}" for item in items], "label": (draw.random(rows) < chance).astype(np.float32),
    })  # fmt: skip


def examples(log: RecordedLog) -> Events:
    """Return all labelled rows of a recorded log, in order of time."""
    rows = log.examples().read(log.rows)
    assert rows is not None  # a log has rows, or its loader has refused it
    return rows


def ratings() -> Events:
    """Return the MovieLens-1M ratings as labelled rows with a column `fold` (1 to 5), in the order of the file.

    Raises:
        DataError: If there is no such file; names those looked for.
    """
    path, edition = movielens_data.find("1m"), movielens_data.EDITIONS["1m"]
    if path is None:
        raise missing("MovieLens 1m", edition.names, edition.archive.url)
    layout = movielens_data.layout(path)
    raw = read_table(path, layout)
    user, item = (raw[name].combine_chunks() for name in layout.key)
    fold = raw["fold"].to_numpy() if "fold" in raw.column_names else np.random.default_rng(0).integers(1, 6, len(raw))
    return Events.from_columns({
        "key": user.cast(pa.string()), "kind": ["example"] * len(raw), "event_time": np.zeros(len(raw), np.int64),
        "user_id": user, "item": item, "fold": fold.astype(np.int64),
        "label": (raw["rating"].to_numpy() >= 3.5).astype(np.float32),
    })  # fmt: skip


def _adagrad(lr: float) -> TableSettings:
    return TableSettings(rule=Adagrad(lr=lr, initial_accumulator=1e-5), init=Uniform(0.01))
