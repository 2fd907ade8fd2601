"""How fast the loop's own parts are, beside plain torch doing the same arithmetic on static tables.

    python benchmarks/loop.py [--quick] [--json]

One log of the simulated world is made; then, in turn and repeated, the same examples are learned by Headrace (DeepFM
on collisionless tables, per-row Adagrad, change history kept) and by plain torch (the same DeepFM on `nn.Embedding` of
the exact size, sparse Adagrad, ids already renumbered to 0..N-1, nothing published, nothing resumable). Joining,
appending to the durable log and the whole embedded loop are timed without a peer. One thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from headrace.data import Collator, EmbeddedLog, EventJoin, JoinConfig
from headrace.evaluate.claims import ClaimRecord, Estimate, mean_over_seeds
from headrace.feedback import World, WorldConfig
from headrace.nn import DeepFM
from headrace.online import Embedded, OnlineConfig, RunFolder, open_learner
from headrace.online.demo import world
from headrace.types import Batch, Events

BATCH_ROWS, DIM = 256, 9


def timed(work: Callable[[], int]) -> float:
    """Return rows per second of one run."""
    start = time.perf_counter()
    rows = work()
    return rows / (time.perf_counter() - start)


class StaticEmbedding(nn.Module):
    """One `nn.Embedding` per feature over ids renumbered beforehand: the peer's tables."""

    def __init__(self, batches: list[Batch], names: tuple[str, ...]) -> None:
        super().__init__()
        self.dims = dict.fromkeys(names, DIM)
        self.places: dict[tuple[int, str], torch.Tensor] = {}
        tables = {}
        for name in names:
            known = torch.unique(torch.cat([batch.ids[name].values for batch in batches]))
            for number, batch in enumerate(batches):
                self.places[number, name] = torch.searchsorted(known, batch.ids[name].values)
            tables[name] = nn.Embedding(len(known), DIM, sparse=True)
            nn.init.uniform_(tables[name].weight, -0.01, 0.01)
        self.tables = nn.ModuleDict(tables)
        self.number = 0

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return one row per example and feature (each feature has exactly one id here)."""
        return {name: table(self.places[self.number, name]) for name, table in self.tables.items()}


def plain_torch(batches: list[Batch], names: tuple[str, ...], dense_dim: int) -> Callable[[], int]:
    """Return a function that learns all batches once with plain torch."""
    embed = StaticEmbedding(batches, names)
    model = DeepFM(embed, names, dense_dim, (64, 32), dim=DIM)
    dense = [p for name, p in model.named_parameters() if not name.startswith("embed.")]
    rows = torch.optim.Adagrad(embed.parameters(), lr=0.05, initial_accumulator_value=0.1 / BATCH_ROWS**2)
    optimizer = torch.optim.Adam(dense, lr=1e-3)

    def learn() -> int:
        for number, batch in enumerate(batches):
            embed.number = number
            loss = nn.functional.binary_cross_entropy_with_logits(model(batch), batch.labels)
            rows.zero_grad(set_to_none=True)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            rows.step()
            optimizer.step()
        return sum(len(batch) for batch in batches)

    return learn


def ours(config: OnlineConfig, batches: list[Batch]) -> Callable[[], int]:
    """Return a function that learns all batches once with Headrace."""
    learner = open_learner(config)

    def learn() -> int:
        for batch in batches:
            learner.learn(batch)
        return sum(len(batch) for batch in batches)

    return learn


def median_estimate(values: list[float]) -> Estimate:
    """Return the median with the 95 % interval of the mean of repeats."""
    around = mean_over_seeds(values)
    return Estimate(statistics.median(values), around.low, around.high, around.spread, around.error, around.count)


def joined(entries: list[Events], config: OnlineConfig) -> list[Events]:
    """Join the log's entries to examples."""
    join = EventJoin(JoinConfig(window_s=config.join.window_s, lateness_s=config.join.lateness_s))
    parts = [join.push(entry) for entry in entries]
    return [part for part in (*parts, join.flush()) if part is not None]


def appended(entries: list[Events]) -> int:
    """Append the entries to a log on disk, one commit each."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedLog(Path(folder) / "log.db", durability="process") as log:
        for entry in entries:
            log.append("events", entry)
    return sum(len(entry) for entry in entries)


def embedded(requests: int) -> int:
    """Run the whole closed loop in one process: world, predictor, joiner, learner, publisher."""
    with tempfile.TemporaryDirectory() as folder:
        report = Embedded(world(requests=requests, dim=DIM), RunFolder(Path(folder))).run()
    return int(report.figures["examples"].value)


def measure(requests: int, repeats: int) -> dict[str, object]:
    """Take all figures, the two learners in turn."""
    torch.set_num_threads(1)
    config = world(requests=requests, log=True, dim=DIM)
    entries = list(World(WorldConfig(requests=requests)).stream(100))
    examples = joined(entries, config)
    collator = Collator(config.schema, BATCH_ROWS)
    batches: list[Batch] = []
    for rows in examples:
        batch = collator.add(rows, None, None)
        batches += [] if batch is None else list(batch.split(BATCH_ROWS))
    numbers: dict[str, list[float]] = {}
    for _ in range(repeats):
        mine = timed(ours(config, batches))
        peer = timed(plain_torch(batches, config.schema.id_names, len(config.schema.dense_names)))
        numbers.setdefault("learn_vs_plain_torch", []).append(mine / peer)
        numbers.setdefault("learn_rows_per_s", []).append(mine)
        numbers.setdefault("join_rows_per_s", []).append(
            timed(lambda: sum(len(rows) for rows in joined(entries, config)))
        )
        numbers.setdefault("append_rows_per_s", []).append(timed(lambda: appended(entries)))
        numbers.setdefault("embedded_loop_rows_per_s", []).append(timed(lambda: embedded(requests // 4)))
    record = ClaimRecord()
    for name, values in numbers.items():
        record.add(name, median_estimate(values), unit="ratio" if "_vs_" in name else "rows/s")
    return record.to_json(
        {"requests": requests, "repeats": repeats, "batch_rows": BATCH_ROWS, "dim": DIM, "threads": 1}
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller and fewer, under a minute")
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    arguments = parser.parse_args()
    result = measure(2_000, 3) if arguments.quick else measure(20_000, 7)
    if arguments.json:
        print(json.dumps(result))
        return 0
    figures = result["figures"]
    assert isinstance(figures, dict)
    for name, figure in figures.items():
        print(f"{name:28} {figure['value']:>14,.2f}   [{figure['low']:,.2f}, {figure['high']:,.2f}] {figure['unit']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
