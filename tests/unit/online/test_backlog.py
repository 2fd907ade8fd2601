from __future__ import annotations

import pytest

from headrace.data import DenseFeature, IdFeature, JoinConfig, Schema
from headrace.data.log import EmbeddedLog
from headrace.nn import DeepFM
from headrace.online import OnlineConfig, RunFolder, run_joiner
from headrace.online.backlog import Backlog
from headrace.types import Events


@pytest.fixture
def config() -> OnlineConfig:
    return OnlineConfig(
        name="backlog", schema=Schema(features=(IdFeature("item", 4), DenseFeature("price"))),
        model=lambda embed, schema, seed: DeepFM(embed, schema.id_names, 1, (4,)),
        join=JoinConfig(window_s=10, lateness_s=1),
    )  # fmt: skip


def impressions(count: int, at_s: float) -> Events:
    return Events.from_columns({
        "key": [f"k{at_s}-{n}" for n in range(count)], "kind": ["impression"] * count, "item": ["a"] * count,
        "event_time": [int(at_s * 1e6)] * count, "accepted_time": [int(at_s * 1e6)] * count, "price": [1.0] * count,
        "score": [0.5] * count, "version": [0] * count,
    })  # fmt: skip


def test_what_is_neither_joined_nor_learned_waits(tmp_path, config) -> None:
    folder = RunFolder(tmp_path)
    events = EmbeddedLog(folder.log("events"), durability="process")
    backlog = Backlog(config, folder, events)
    assert backlog() == 0
    events.append("events", impressions(7, 1))
    assert backlog() == 7  # nobody joins yet
    events.append("events", impressions(1, 1000), closed=True)
    run_joiner(config, folder, lambda: False)
    folder.write_status("learner", {"examples": 0})
    assert backlog() == 8  # joined, and not learned
    folder.write_status("learner", {"examples": 6})
    assert backlog() == 2
    folder.write_status("learner", {"examples": 8})
    assert backlog() == 0


def test_a_log_that_cannot_be_read_is_not_known(tmp_path, config) -> None:
    folder = RunFolder(tmp_path)
    events = EmbeddedLog(folder.log("events"), durability="process")
    folder.log("examples").write_bytes(b"no database at all" * 1000)
    assert Backlog(config, folder, events)() is None
