"""A topic that is learned while it grows: rows by their numbers, the queue filled as they come, and a whole run."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.data import EmbeddedLog, IdFeature, JoinConfig, Schema
from headrace.elastic.rows import RowReader
from headrace.elastic.stream import Inflow, StreamExamples, StreamSplits, examples
from headrace.errors import ConfigError
from headrace.nn import DeepFM
from headrace.online.config import OnlineConfig
from headrace.ranking import FitConfig, Network
from headrace.runtime import QueueConfig, ShardQueue
from headrace.testing.toy import Toy, ToyConfig

from .cluster import cluster

SCHEMA = Schema(features=(IdFeature("user", 4), IdFeature("item", 4)))
TOY = Toy(ToyConfig())


def shop() -> OnlineConfig:
    """Return the online recipe whose examples are learned here."""
    return OnlineConfig(name="shop", schema=SCHEMA, model=Network(family=DeepFM, hidden=(8,)), batch_rows=64,
                        join=JoinConfig(window_s=60.0, lateness_s=1.0))  # fmt: skip


def shop_stream(*, log: str, held_rows: int) -> FitConfig:
    """Return the same, learned from a topic."""
    return examples(recipe=f"{__name__}:shop", log=Path(log), held_rows=held_rows)


def written(path: Path, *counts: int, first: int = 0) -> EmbeddedLog:
    log = EmbeddedLog(path)
    for count in counts:
        log.append("examples", TOY.events(first, count))
        first += count
    return log


def test_rows_are_read_by_their_numbers_across_entries(tmp_path) -> None:
    log = written(tmp_path / "examples.db", 10, 3, 40, 7)
    log.append_bytes("examples", b"no rows")
    stream = StreamExamples(log=tmp_path / "examples.db", topic="examples", schema=SCHEMA, first=5)
    assert len(stream) == 55
    assert stream.read(3, 50).example_ids.tolist() == list(range(8, 55))
    assert [batch.example_ids.tolist() for batch in stream.batches(30)] == [[*range(5, 35)], [*range(35, 60)]]
    with pytest.raises(ConfigError, match="as it comes"):
        stream.batches(30, order=1)


def test_a_reader_finds_what_came_later(tmp_path) -> None:
    written(tmp_path / "examples.db", 20)
    stream = StreamExamples(log=tmp_path / "examples.db", topic="examples", schema=SCHEMA)
    reader = RowReader(stream, shard_rows=16)
    assert reader.rows(np.array([19, 2])).example_ids.tolist() == [19, 2]
    written(tmp_path / "examples.db", 20, first=20)
    assert reader.rows(np.array([30, 19, 39])).example_ids.tolist() == [30, 19, 39]


def test_the_queue_grows_with_the_topic_and_ends_with_it(tmp_path) -> None:
    log = written(tmp_path / "examples.db", 100)
    stream = StreamExamples(log=tmp_path / "examples.db", topic="examples", schema=SCHEMA)
    queue = ShardQueue(None, QueueConfig(shard_rows=32, shuffle=False))
    inflow = Inflow(queue, "train", stream, step_rows=64, linger_s=1.0)
    assert inflow.rows(epochs=1) is None
    assert queue.counts().total == 64  # the other 36 wait for more
    early = queue.state()
    now = time.monotonic()
    inflow.look(now + 0.5)
    assert (queue.counts().total, inflow.lag) == (64, 100)
    inflow.look(now + 2.0)
    assert queue.counts().total == 100
    written(tmp_path / "examples.db", 30, first=100)
    log.close_topic("examples")
    inflow.look(now + 2.1)
    assert (queue.counts().total, inflow.lag) == (130, 130)
    assert not queue.finished
    inflow.look(now + 2.2)
    queue.restore(early)  # everything goes back to a checkpoint of an earlier moment
    inflow.look(now + 2.3)
    assert queue.counts().total == 130
    again = Inflow(queue, "train", stream, step_rows=64)  # a head that was started again
    again.look(now + 3.0)
    assert queue.counts().total == 130


def test_files_are_there_at_once(tmp_path) -> None:
    splits = examples_of(tmp_path, 300)
    queue = ShardQueue(None, QueueConfig(shard_rows=32))
    inflow = Inflow(queue, "train", splits.valid, step_rows=8)
    inflow.look(time.monotonic())
    assert (inflow.rows(epochs=3), inflow.lag, queue.counts().total) == (60, None, 20)


def examples_of(folder: Path, rows: int, held_rows: int = 40):
    written(folder / "examples.db", rows)
    return StreamSplits(log=folder / "examples.db", topic="examples", schema=SCHEMA, held_rows=held_rows)()


def test_the_first_rows_judge_and_are_not_learned(tmp_path) -> None:
    splits = examples_of(tmp_path, 100)
    held = torch.cat([splits.valid.batch.example_ids, splits.test.batch.example_ids])
    assert held.tolist() == list(range(40))
    assert next(splits.train.batches(60)).example_ids.tolist() == list(range(40, 100))
    with pytest.raises(ConfigError, match="40 that judge"):
        StreamSplits(log=tmp_path / "examples.db", topic="others", schema=SCHEMA, held_rows=40)()


def test_an_online_recipe_gives_its_model_and_objective(tmp_path) -> None:
    config = shop_stream(log=str(tmp_path / "examples.db"), held_rows=40)
    assert (config.batch_rows, config.row_gradients, config.schema) == (64, "sum", SCHEMA)
    with pytest.raises(ConfigError, match="OnlineConfig"):
        examples(recipe="headrace.elastic.demo:clicks", log=tmp_path / "examples.db")


def test_two_workers_learn_a_topic_while_it_is_written(tmp_path) -> None:
    log = written(tmp_path / "examples.db", 500)

    def write() -> None:
        for part in range(5):
            time.sleep(0.1)
            written(tmp_path / "examples.db", 100, first=500 + 100 * part)
        log.close_topic("examples")

    writer = threading.Thread(target=write)
    given = {"log": str(tmp_path / "examples.db"), "held_rows": 100}
    with cluster(tmp_path / "run", workers=2, recipe=f"{__name__}:shop_stream", arguments=given) as run:
        writer.start()
        run.start("worker-0", "worker-1")
        run.wait()
        counts, status = run.head.queue.counts(), run.head.status()
    writer.join()
    assert (counts.total, counts.todo, counts.doing, counts.quarantined) == (900, 0, 0, 0)
    assert status["lag"] == {"train": 0}
