"""The shortest whole loop: simulated users, a ranker, one process.

Run it: `python examples/first_loop.py [REQUESTS]`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from headrace.data import IdFeature, JoinConfig, Schema
from headrace.feedback import World, WorldConfig
from headrace.nn import DeepFM
from headrace.online import Embedded, OnlineConfig, RunFolder


def first(*, requests: int = 3000, seed: int = 1) -> OnlineConfig:
    """Return a configuration: what is seen, what is learned, when a click counts, and who asks and clicks."""
    return OnlineConfig(
        name="first-loop",
        schema=Schema(features=(IdFeature("user", 9), IdFeature("item", 9), IdFeature("scenario", 9))),
        model=lambda embed, schema, seed: DeepFM(embed, schema.id_names, dense_dim=0, hidden=(16,), seed=seed),
        join=JoinConfig(window_s=3600, lateness_s=60),
        player=lambda: World(WorldConfig(requests=requests, seed=seed)),
        publish_every=2000,
        seed=seed,
    )


if __name__ == "__main__":
    config = first(requests=int(sys.argv[1])) if len(sys.argv) > 1 else first()
    report = Embedded(config, RunFolder(Path("runs") / "first")).run()
    for name, figure in report.figures.items():
        print(f"{name:<24} {figure.value:>12.4f} {figure.unit}")
    for note in report.notes:
        print(f"  · {note}")
