"""A news feed: articles come and go, nobody is shown one twice, and uncertain articles get their chance.

Thompson sampling on the ranker's last layer explores; every impression is logged with the probability with which it
was shown, so that another policy can be judged on the log afterwards. The desk's articles are put and removed while
the feed runs. Run it: `python examples/news_feed.py [REQUESTS]`.
"""

from __future__ import annotations

import random
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import nn

from headrace.data import EmbeddedLog, IdFeature, JoinConfig, Schema
from headrace.nn import DeepFM, LastLayerPosterior
from headrace.online import OnlineConfig, RunFolder, run_joiner, run_learner, run_publisher, run_server
from headrace.online.server import free_port
from headrace.serve import Client, RecommendConfig, Thompson
from headrace.types import Events

TOPICS = ("politics", "sport", "science", "arts")
FRESH_EVERY = 25
SHOWN = 4


def network(embed: nn.Module, schema: Schema, seed: int) -> LastLayerPosterior:
    """Return a ranker that knows how sure it is of its last layer."""
    ranker = DeepFM(embed, schema.id_names, dense_dim=0, hidden=(16,), seed=seed)
    return LastLayerPosterior(ranker, ranker.deep.output, prior=4.0)


def feed() -> OnlineConfig:
    """Return the feed's run."""
    return OnlineConfig(
        name="news",
        schema=Schema(
            features=(
                IdFeature("user", 8),
                IdFeature("item", 8),
                IdFeature("topic", 8),
                IdFeature("hour", 8, optional=True),
            )
        ),
        model=network,
        join=JoinConfig(window_s=1, lateness_s=0.2),
        batch_rows=32,
        publish_every=128,
        recommend=RecommendConfig(explore=Thompson(scale=0.5, draws=128), seen="shown", fresh=0.3),
    )


class Desk:
    """Editors: every so often the oldest articles go, and new ones come."""

    def __init__(self, client: Client) -> None:
        self.client, self.articles, self.number = client, list[str](), 0

    def publish(self, count: int) -> None:
        """Put new articles and remove as many of the oldest, once there are enough."""
        fresh = [f"article-{self.number + n}" for n in range(count)]
        self.client.put_items([{"item": name, "topic": TOPICS[int(name[8:]) % len(TOPICS)]} for name in fresh])
        self.number += count
        self.articles += fresh
        if len(self.articles) > 80:
            gone, self.articles = self.articles[:count], self.articles[count:]
            self.client.remove_items(*gone)


def read(client: Client, dice: random.Random) -> tuple[int, int]:
    """Have one reader open the feed; returns how many articles were shown and how many were opened."""
    reader = dice.randrange(40)
    answer = client.recommend({"user": f"reader-{reader}"}, SHOWN, context={"hour": str(dice.randrange(24))})
    opened = 0
    for item in answer["items"]:
        likes = int(item.removeprefix("article-")) % len(TOPICS) == reader % len(TOPICS)
        if dice.random() < (0.5 if likes else 0.05):
            client.feedback({"key": answer["key"], "kind": "click", "item": item})
            opened += 1
    return len(answer["items"]), opened


def logged(folder: RunFolder) -> Events:
    """Return every impression of the feed's log."""
    log = EmbeddedLog(folder.log("events"), durability="process")
    return Events.concat([entry.events for entry in log.read("events", 0, limit=1_000_000)]).of_kind("impression")


def main(requests: int, folder: Path) -> str:
    """Serve, read and learn; returns what came of it, in a line."""
    stopped, run, port, dice, config = threading.Event(), RunFolder(folder), free_port(), random.Random(1), feed()
    roles: list[Callable[..., object]] = [run_joiner, run_learner, run_publisher]
    threads = [threading.Thread(target=role, args=(config, run, stopped.is_set)) for role in roles]
    serve = {"port": port, "stop": stopped.is_set}
    threads.append(threading.Thread(target=run_server, args=(config, run), kwargs=serve))
    for thread in threads:
        thread.start()
    shown = opened = 0
    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            client.wait_ready()
            desk = Desk(client)
            desk.publish(60)
            for number in range(requests):
                if number % FRESH_EVERY == FRESH_EVERY - 1:
                    desk.publish(10)
                seen = read(client, dice)
                shown, opened = shown + seen[0], opened + seen[1]
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
    rows = logged(run)
    chances = np.asarray(rows.column("propensity").to_numpy(), dtype=np.float64)
    pairs = set(zip(rows.column("user").to_pylist(), rows.column("item").to_pylist(), strict=True))
    told = f"probability of what was shown: {np.median(chances):.2f} in the middle, {chances.min():.3f} at least"
    return f"{opened} of {shown} articles opened; shown twice to one reader: {len(rows) - len(pairs)}; {told}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        print(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1500, Path(place)))
