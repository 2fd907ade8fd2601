"""Rehearsals: what arms serve, when they move, and what a lost server takes with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headrace.data import DenseFeature, IdFeature, JoinConfig, Schema
from headrace.errors import ConfigError
from headrace.loop import Never
from headrace.nn import DeepFM
from headrace.online.config import OnlineConfig
from headrace.online.experiment import (
    Arm,
    EveryBlocks,
    ExampleLog,
    Rehearsal,
    block_gains,
    score,
    shard_of,
    shuffled_requests,
    steps,
    with_lost_shards,
)
from headrace.publish.change import encode
from headrace.store import Adagrad, TableConfig, open_table
from headrace.types import Events

SCHEMA = Schema(features=(IdFeature("user_id", 4), IdFeature("item", 4), DenseFeature("position", serve_as=1.0)))


def model(embed, schema, seed):
    return DeepFM(embed, schema.id_names, len(schema.dense_names), hidden=(8,), dim=4, seed=seed)


def config(seed: int = 0) -> OnlineConfig:
    join = JoinConfig(window_s=60.0, lateness_s=1.0)
    return OnlineConfig(name="t", schema=SCHEMA, model=model, join=join, batch_rows=50, dense_lr=0.01, seed=seed)


def events(rows: int = 600, request_rows: int = 1) -> Events:
    draw = np.random.default_rng(3)
    users, items = draw.integers(0, 20, rows), draw.integers(0, 30, rows)
    labels = (draw.random(rows) < np.where(items % 3 == 0, 0.8, 0.1)).astype(np.float32)
    return Events.from_columns({
        "key": [f"r{row // request_rows}" for row in range(rows)], "kind": ["example"] * rows,
        "event_time": np.arange(rows) * 1_000_000, "user_id": users, "item": [f"i{item}" for item in items],
        "position": draw.integers(1, 6, rows).astype(np.float32), "label": labels,
    })  # fmt: skip


def log(request_rows: int = 1) -> ExampleLog:
    return ExampleLog.from_events(events(request_rows=request_rows), SCHEMA)


def begun(rows: int = 200) -> Rehearsal:
    rehearsal = Rehearsal(config())
    rehearsal.learn(log(), 0, rows)
    return rehearsal


def close(one: np.ndarray, other: np.ndarray) -> bool:
    """Equal up to what the order of summation does, which depends on the rows scored together."""
    return bool(np.abs(one - other).max() < 1e-6)


def test_steps_cover_the_range_in_parts_of_equal_size() -> None:
    found = list(steps(5, 30, 10))
    assert found == [(5, 13), (13, 21), (21, 30)]
    assert list(steps(4, 4, 10)) == []


def test_edges_never_cut_a_request() -> None:
    edges = log(request_rows=7).edges(0, 600, 10)
    assert (edges[0], edges[-1], len(edges)) == (0, 600, 11)
    assert all(edge % 7 == 0 for edge in edges[:-1])


def test_more_parts_than_requests_are_refused() -> None:
    with pytest.raises(ConfigError, match="one part per request"):
        log(request_rows=100).edges(0, 600, 30)


def test_rows_are_served_with_reference_values_and_learned_as_logged() -> None:
    rows = log()
    assert rows.served.dense.unique().tolist() == [1.0]
    assert len(rows.learned.dense.unique()) == 5


def test_an_arm_begins_with_what_the_learner_has() -> None:
    rehearsal, rows = begun(), log()
    expected = rehearsal.score(rows.served.slice(200, 300))
    stream = rehearsal.stream(rows, [200, 300], {"frozen": Arm(config(), Never())})
    assert close(stream.scores["frozen"], expected)


def test_every_block_is_scored_before_it_is_learned() -> None:
    rows, scored = log(), []
    rehearsal, twin = begun(), begun()
    for first in (200, 300, 400):
        scored.append(twin.score(rows.served.slice(first, first + 100)))
        twin.learn(rows, first, first + 100)
    stream = rehearsal.stream(rows, [200, 300, 400, 500], {"online": Arm(config(), EveryBlocks(1))})
    assert close(stream.scores["online"], np.concatenate(scored))


def test_a_frozen_arm_never_moves() -> None:
    rows, rehearsal = log(), begun()
    before = rehearsal.score(rows.served.slice(200, 600))
    stream = rehearsal.stream(rows, [200, 300, 400, 500, 600], {"frozen": Arm(config(), Never())})
    assert close(stream.scores["frozen"], before)


def test_an_arm_moves_when_its_cadence_says_so() -> None:
    rows, rehearsal = log(), begun()
    arms = {"one": Arm(config(), EveryBlocks(1)), "two": Arm(config(), EveryBlocks(2))}
    stream = rehearsal.stream(rows, [200, 300, 400, 500, 600], arms)
    same = np.abs(stream.scores["one"] - stream.scores["two"]) < 1e-6
    assert same[:100].all()
    assert same[200:300].all()  # both moved after the second block
    assert not same[100:200].all()
    assert not same[300:].all()


def test_changes_taken_late_equal_changes_taken_one_by_one() -> None:
    rows, rehearsal = log(), begun()
    arms = {"often": Arm(config(), EveryBlocks(1)), "once": Arm(config(), EveryBlocks(80))}
    rehearsal.stream(rows, [*range(200, 601, 5)], arms)  # 80 blocks: more than are kept apart
    assert arms["once"].rows[0] < sum(arms["often"].rows)
    assert close(arms["often"].score(rows.served), arms["once"].score(rows.served))
    assert close(arms["once"].score(rows.served), rehearsal.score(rows.served))


def test_an_arm_may_score_with_logged_values() -> None:
    rows, rehearsal = log(), begun()
    expected = rehearsal.score(rows.learned.slice(200, 300))
    arms = {"logged": Arm(config(), Never(), logged=True), "served": Arm(config(), Never())}
    stream = rehearsal.stream(rows, [200, 300], arms)
    assert close(stream.scores["logged"], expected)
    assert not close(stream.scores["served"], expected)


def test_ages_are_event_time_since_the_newest_row_learned() -> None:
    rows, rehearsal = log(), begun()
    stream = rehearsal.stream(
        rows, [200, 300, 400], {"one": Arm(config(), EveryBlocks(1)), "never": Arm(config(), Never())}
    )
    assert stream.ages_s["one"].tolist() == [*range(1, 101), *range(1, 101)]
    assert stream.ages_s["never"].tolist() == [*range(1, 201)]


def test_a_weighed_arm_records_what_it_received() -> None:
    rows, rehearsal = log(), begun()
    arm = Arm(config(), EveryBlocks(1), weigh=True)
    rehearsal.stream(rows, [200, 205, 210], {"one": arm})
    assert len(arm.bytes) == len(arm.rows) == 2
    assert 0 < arm.rows[0] <= 10  # five users and five items at most
    assert max(arm.bytes) < len(encode(arm.snapshot()))


def test_a_snapshot_of_an_arm_serves_the_same() -> None:
    rows, rehearsal = log(), begun()
    arm, fresh = Arm(config(), EveryBlocks(1)), Arm(config(), Never())
    rehearsal.stream(rows, [200, 400], {"one": arm})
    fresh.replica.apply(arm.snapshot())
    assert close(fresh.score(rows.served), arm.score(rows.served))


def test_scoring_leaves_no_trace() -> None:
    rehearsal, rows = begun(), log()
    before = {name: table.state() for name, table in rehearsal.learner.collection.tables.items()}
    score(rehearsal.learner.model, rows.served)
    for name, table in rehearsal.learner.collection.tables.items():
        assert all(_equal(value, before[name][key]) for key, value in table.state().items())


def test_shuffling_moves_requests_whole() -> None:
    before = events(request_rows=3)
    after = shuffled_requests(before, seed=0)
    keys = after.column("key").to_pylist()
    assert keys != before.column("key").to_pylist()
    assert sorted(after.times) == sorted(before.times)
    assert all(keys[at] == keys[at + 1] == keys[at + 2] for at in range(0, 600, 3))
    assert all(after.times[at] + 2 * 1_000_000 == after.times[at + 2] for at in range(0, 600, 3))


def test_gains_are_taken_block_by_block() -> None:
    labels = np.array([0, 1, 0, 1], np.float32)
    right, wrong = np.array([0.1, 0.9, 0.1, 0.9], np.float32), np.array([0.1, 0.9, 0.9, 0.1], np.float32)
    assert block_gains(labels, right, wrong, [0, 2, 4]) == [0.0, 1.0]


def test_blocks_are_counted() -> None:
    cadence, batch = EveryBlocks(3), log().learned
    assert [cadence.due(batch) for _ in range(6)] == [False, False, True, False, False, True]
    with pytest.raises(ConfigError, match="EveryBlocks"):
        EveryBlocks(0)


def _equal(one: object, other: object) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def _table(*steps_of_ids: range):
    table = open_table(TableConfig(name="t", dim=2, rule=Adagrad(lr=0.1)))
    for ids in steps_of_ids:
        _update(table, ids)
    return table


def _update(table, ids: range) -> None:
    count = torch.ones(len(ids), dtype=torch.int64)
    table.update(torch.tensor(list(ids)), torch.ones(len(ids), 2), count, count)


def _lost(table, then, lost: list[int]):
    other = open_table(table.config)
    other.restore(with_lost_shards(table.state(), then, lost, 4))
    return other


def test_shards_are_of_about_equal_size_whatever_the_ids() -> None:
    sizes = np.bincount(shard_of(np.arange(0, 80_000, 8), 10), minlength=10)
    assert sizes.min() > 900
    assert sizes.max() < 1100


def test_lost_shards_have_rows_and_slots_of_the_snapshot_and_others_those_of_now() -> None:
    table = _table(range(100))
    then, twin = table.state(), _table(range(100))
    _update(table, range(200))
    came_back, ids = _lost(table, then, [1]), torch.arange(200)
    on_lost = torch.from_numpy(shard_of(ids.numpy(), 4) == 1)
    assert torch.equal(came_back.lookup(ids[on_lost]), twin.lookup(ids[on_lost]))
    assert torch.equal(came_back.lookup(ids[~on_lost]), table.lookup(ids[~on_lost]))
    # the slots too: the same next step gives the same rows
    for each in (came_back, twin, table):
        _update(each, range(100))
    assert torch.equal(came_back.lookup(ids[:100][on_lost[:100]]), twin.lookup(ids[:100][on_lost[:100]]))
    assert torch.equal(came_back.lookup(ids[:100][~on_lost[:100]]), table.lookup(ids[:100][~on_lost[:100]]))


def test_rows_born_after_the_snapshot_are_gone_from_lost_shards() -> None:
    table = _table(range(100))
    then = table.state()
    _update(table, range(100, 200))
    ids = torch.arange(100, 200)
    assert torch.equal(_lost(table, then, [0, 2]).contains(ids), torch.from_numpy(shard_of(ids.numpy(), 4) % 2 == 1))


def test_rows_removed_after_the_snapshot_are_back_on_lost_shards() -> None:
    table = _table(range(100))
    then = table.state()
    table.remove(torch.arange(100))
    ids = torch.arange(100)
    assert torch.equal(_lost(table, then, [3]).contains(ids), torch.from_numpy(shard_of(ids.numpy(), 4) == 3))


def test_the_next_version_tells_replicas_what_was_lost() -> None:
    table = _table(range(100))
    then = table.state()
    _update(table, range(50, 150))
    change = _lost(table, then, [1]).changes(table.mark())
    shards = shard_of(torch.cat([change.ids, change.removed]).numpy(), 4)
    assert set(shards.tolist()) == {1}
    assert torch.equal(change.removed, _on_shard(torch.arange(100, 150), 1))
    assert torch.equal(change.ids, _on_shard(torch.arange(100), 1))


def test_losing_nothing_changes_nothing() -> None:
    table = _table(range(100))
    then = table.state()
    _update(table, range(150))
    assert torch.equal(_lost(table, then, []).lookup(torch.arange(150)), table.lookup(torch.arange(150)))


def _on_shard(ids: torch.Tensor, shard: int) -> torch.Tensor:
    return ids[torch.from_numpy(shard_of(ids.numpy(), 4) == shard)]
