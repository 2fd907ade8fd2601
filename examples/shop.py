"""A shop that recommends from its catalogue, and learns from clicks while it does.

Server, joiner, learner and publisher run as threads of this process, joined by the same logs as in production. Users
here are simulated: each likes one category. Run it: `python examples/shop.py [REQUESTS]`.

In production: `headrace serve examples.shop:shop --items products.csv`, and `headrace run ... --role` for the others.
"""

from __future__ import annotations

import random
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from torch import nn

from headrace.data import IdFeature, JoinConfig, Schema
from headrace.nn import DeepFM, StreamingFrequencies, TowerInputs, TwoStage, TwoTower
from headrace.objectives import TwoStageLoss
from headrace.online import OnlineConfig, RunFolder, TableSettings, run_joiner, run_learner, run_publisher, run_server
from headrace.online.server import free_port
from headrace.serve import Client, EpsilonGreedy, RecommendConfig
from headrace.store import Adagrad, Uniform

CATEGORIES = ("shoes", "bags", "hats", "coats", "belts", "socks")
SHOWN = 5


def network(embed: nn.Module, schema: Schema, seed: int) -> TwoStage:
    """Return towers that find candidates and a ranker that orders them, over the same embeddings."""
    return TwoStage(
        embed,
        rank=lambda once: DeepFM(once, schema.id_names, dense_dim=0, hidden=(16,), seed=seed),
        find=lambda once: TwoTower(
            once, TowerInputs(("user",)), TowerInputs(("item", "category")), (16,), width=8, seed=seed,
            frequencies=StreamingFrequencies(4096),
        ),
    )  # fmt: skip


def shop() -> OnlineConfig:
    """Return the shop's run."""
    return OnlineConfig(
        name="shop",
        schema=Schema(features=(IdFeature("user", 8), IdFeature("item", 8), IdFeature("category", 8))),
        model=network,
        objective=TwoStageLoss(),
        join=JoinConfig(window_s=1, lateness_s=0.2),  # a shop of seconds, so that it learns while you watch
        tables=TableSettings(rule=Adagrad(lr=0.2), init=Uniform(0.1)),
        dense_lr=0.01,
        batch_rows=64,
        publish_every=256,
        recommend=RecommendConfig(candidates=60, most=20, explore=EpsilonGreedy(epsilon=0.1)),
    )


def visit(client: Client, dice: random.Random) -> float:
    """Have one user look at what is recommended; returns the share that was clicked."""
    number = dice.randrange(30)
    liked = CATEGORIES[number % len(CATEGORIES)]
    answer = client.recommend({"user": f"u{number}"}, SHOWN, seen="none", filters={"stock": {"above": 0}})
    clicks = [item for item in answer["items"] if dice.random() < (0.6 if item.startswith(liked) else 0.02)]
    if clicks:
        client.feedback(*({"key": answer["key"], "kind": "click", "item": item} for item in clicks))
    return len(clicks) / SHOWN


def main(requests: int, folder: Path) -> list[float]:
    """Serve, visit and learn; returns the click rate of each quarter of the visits."""
    stopped, run, port, dice, config = threading.Event(), RunFolder(folder), free_port(), random.Random(0), shop()
    roles: list[Callable[..., object]] = [run_joiner, run_learner, run_publisher]
    threads = [threading.Thread(target=role, args=(config, run, stopped.is_set)) for role in roles]
    serve = {"port": port, "stop": stopped.is_set}
    threads.append(threading.Thread(target=run_server, args=(config, run), kwargs=serve))
    for thread in threads:
        thread.start()
    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            client.wait_ready()
            client.put_items([
                {"item": f"{name}-{n}", "category": name, "stock": n % 10} for name in CATEGORIES for n in range(50)
            ])  # fmt: skip
            rates = [visit(client, dice) for _ in range(requests)]
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
    quarter = max(requests // 4, 1)
    return [sum(rates[start : start + quarter]) / quarter for start in range(0, quarter * 4, quarter)]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        found = main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000, Path(place))
    print("click rate in each quarter:", ", ".join(f"{rate:.0%}" for rate in found))
