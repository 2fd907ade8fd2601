"""A server on a port, and a client that asks, clicks and watches the version move.

Server, joiner, learner and publisher run as threads of this process, joined by the same logs as in production. Run it:
`python examples/serve_and_click.py [REQUESTS]`.
"""

from __future__ import annotations

import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from headrace.data import IdFeature, JoinConfig, Schema
from headrace.nn import DeepFM
from headrace.online import OnlineConfig, RunFolder, run_joiner, run_learner, run_publisher, run_server
from headrace.online.server import free_port
from headrace.serve import Client

SHOP = OnlineConfig(
    name="shop",
    schema=Schema(features=(IdFeature("user", 8), IdFeature("item", 8))),
    model=lambda embed, schema, seed: DeepFM(embed, schema.id_names, dense_dim=0, hidden=(8,), seed=seed),
    join=JoinConfig(window_s=2, lateness_s=0.2),  # a shop of seconds, so that negatives come while you watch
    batch_rows=16,
    publish_every=64,
    checkpoint_every=5,
)


def main(requests: int, folder: Path) -> int:
    """Ask, click and return the last version that was served."""
    stopped, run, port, dice = threading.Event(), RunFolder(folder), free_port(), random.Random(0)
    roles: list[Callable[..., object]] = [run_joiner, run_learner, run_publisher]
    threads = [threading.Thread(target=role, args=(SHOP, run, stopped.is_set)) for role in roles]
    threads.append(threading.Thread(target=run_server, args=(SHOP, run), kwargs={"port": port, "stop": stopped.is_set}))
    for thread in threads:
        thread.start()
    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            client.wait_ready()
            for number in range(requests):
                user = f"u{number % 10}"
                ranked = client.rank([{"item": f"i{place}"} for place in range(4)], user={"user": user})
                if dice.random() < 0.5:  # users like the item that carries their number
                    client.feedback({"key": ranked.key, "kind": "click", "item": f"i{number % 4}"})
                time.sleep(0.01)
            return ranked.version
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        print("last version served:", main(int(sys.argv[1]) if len(sys.argv) > 1 else 500, Path(place)))
