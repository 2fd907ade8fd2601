"""The model that every server serves: DeepFM over 26 features of one id, 10 of them a candidate's own.

As a recipe of `headrace serve`, as plain arrays for the peers, and as bodies of requests.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headrace.data import JoinConfig, Schema
from headrace.data.features import IdFeature
from headrace.nn import DeepFM
from headrace.online import OnlineConfig, RunFolder, open_log
from headrace.online.config import TableSettings
from headrace.online.layout import CHANGES
from headrace.publish import LogPublisher
from headrace.store import Storage
from headrace.types import Change, RowChange, Version

FEATURES, OWN, FACTOR, HIDDEN = 26, 10, 16, (256, 128, 64)
DIM = FACTOR + 1
"""Width of a row: its weight and its factor."""
NAMES = (*(f"c{n}" for n in range(OWN)), *(f"u{n}" for n in range(FEATURES - OWN)))
"""A candidate has the first ten, named by `item`, a string that is no feature; c0 is its number."""
SCHEMA = Schema(features=tuple(IdFeature(name, DIM, accepts="integer") for name in NAMES))


def build(embed: torch.nn.Module, schema: Schema, seed: int) -> torch.nn.Module:
    """Return the network."""
    return DeepFM(embed, schema.id_names, 0, HIDDEN, dim=DIM, seed=seed)


def ranker(*, storage: str = "float32") -> OnlineConfig:
    """Return the recipe: `headrace serve serve_contenders.model:ranker`."""
    return OnlineConfig(
        name="serving benchmark", schema=SCHEMA, model=build, join=JoinConfig(window_s=10.0, lateness_s=1.0),
        tables=TableSettings(storage=Storage(serving_precision=storage)), snapshot_every=1000,  # type: ignore[arg-type]
    )  # fmt: skip


def rows(table: int, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the rows of a table."""
    return np.random.default_rng(table).normal(0, 0.05, size=(count, DIM)).astype(np.float32)


def dense() -> dict[str, torch.Tensor]:
    """Return the network's weights by name."""
    return {name: value.clone() for name, value in build(torch.nn.Identity(), SCHEMA, 1).state_dict().items()}


def publish(folder: Path, count: int) -> LogPublisher:
    """Publish the first version, whole, in a run folder; returns its publisher."""
    run = RunFolder(folder)
    publisher = LogPublisher(open_log(ranker(), run, CHANGES), run.snapshots, snapshot_every=1000)
    ids, none = torch.arange(count), torch.zeros(0, dtype=torch.int64)
    tables = {name: RowChange(ids, torch.from_numpy(rows(number, count)), none) for number, name in enumerate(NAMES)}
    publisher.publish(Change(version=Version(0), tables=tables, dense=dense(), full=True))
    return publisher


def export(folder: Path, count: int) -> None:
    """Write the same model for the peers: one array of all tables, and the layers."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "rows.npy", np.concatenate([rows(number, count) for number in range(FEATURES)]))
    weights = {name.replace(".", "__"): value.numpy() for name, value in dense().items() if value.numel()}
    np.savez(folder / "dense.npz", **weights)
    (folder / "sample.json").write_bytes(bodies(1, 100, count)[0])
    (folder / "case.json").write_text(json.dumps({"names": NAMES, "own": OWN, "rows": count, "dim": DIM}))


def candidate(ids: list[int]) -> dict[str, object]:
    """Return a candidate of a request."""
    return {"item": f"item-{ids[0]}", **dict(zip(NAMES[:OWN], ids, strict=True))}


def bodies(requests: int, candidates: int, count: int, *, seed: int = 0) -> list[bytes]:
    """Return bodies of rank requests: Zipf-distributed users and items, nothing logged."""
    draw = np.random.default_rng(seed)
    made = []
    for _ in range(requests):
        ids = np.minimum(draw.zipf(1.2, size=(candidates, OWN)) - 1, count - 1)
        ids[:, 0] = draw.choice(count, size=candidates, replace=False)
        user = np.minimum(draw.zipf(1.2, size=FEATURES - OWN) - 1, count - 1)
        content = {
            "user": dict(zip(NAMES[OWN:], user.tolist(), strict=True)),
            "candidates": [candidate(row) for row in ids.tolist()],
            "log_impressions": False,
        }  # fmt: skip
        made.append(json.dumps(content, separators=(",", ":")).encode())
    return made


def stream(*, publish_every: int = 256, batch_rows: int = 128, window_s: float = 2.0) -> OnlineConfig:
    """Return the recipe of the freshness benchmark: the same network, learning from what it shows."""
    return OnlineConfig(
        name="freshness benchmark", schema=SCHEMA, model=build, join=JoinConfig(window_s=window_s, lateness_s=1.0),
        batch_rows=batch_rows, publish_every=publish_every, checkpoint_every=200, snapshot_every=500,
    )  # fmt: skip
