from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.data import EmbeddedLog, IdFeature, Schema
from headrace.errors import ConfigError
from headrace.evaluate import ProgressiveMetric
from headrace.learn import ManifestCheckpoint
from headrace.online import Embedded, OnlineConfig, RunFolder
from headrace.online.demo import world
from headrace.online.guarding import KEPT, NewestBatches, NewestExamples, only_publisher
from headrace.publish import Check, GuardConfig, Verdict, VersionRecords, place, publishing
from headrace.testing import assert_same_state
from headrace.types import Events

SCHEMA = Schema(features=(IdFeature("user", 4),))


def rows(start: int, count: int) -> Events:
    numbers = list(range(start, start + count))
    return Events.from_columns({
        "key": [f"r{n}" for n in numbers], "kind": ["example"] * count, "event_time": numbers,
        "user": numbers, "label": [float(n % 2) for n in numbers],
    })  # fmt: skip


class TestNewestExamples:
    @pytest.fixture
    def log(self, tmp_path: Path) -> EmbeddedLog:
        return EmbeddedLog(tmp_path / "examples.db", durability="process")

    def times(self, newest: NewestExamples, count: int) -> list[int]:
        return [time for batch in newest(count) for time in batch.event_times.tolist()]

    def test_nothing_is_there_at_first(self, log) -> None:
        assert NewestExamples(log, SCHEMA)(10) == []

    def test_the_newest_rows_come_and_go(self, log) -> None:
        newest = NewestExamples(log, SCHEMA)
        for start in range(0, 50, 5):
            log.append("examples", rows(start, 5))
            assert self.times(newest, 12) == list(range(max(start + 5 - 12, 0), start + 5))
        assert len(newest._parts) <= 4

    def test_a_process_that_starts_late_reads_only_the_end(self, log) -> None:
        for start in range(0, 100, 5):
            log.append("examples", rows(start, 5))
        log.trim("examples", 15)
        newest = NewestExamples(log, SCHEMA)
        assert self.times(newest, 7) == list(range(93, 100))
        assert self.times(NewestExamples(log, SCHEMA), 1000) == list(range(75, 100))

    def test_a_log_that_is_trimmed_meanwhile_is_read_from_where_it_begins(self, log) -> None:
        newest = NewestExamples(log, SCHEMA)
        log.append("examples", rows(0, 5))
        newest(5)
        for start in range(5, 50, 5):
            log.append("examples", rows(start, 5))
        log.trim("examples", 9)
        assert self.times(newest, 20)[-5:] == list(range(45, 50))

    def test_asked_again_it_collates_nothing_again(self, log) -> None:
        newest = NewestExamples(log, SCHEMA)
        log.append("examples", rows(0, 5))
        assert newest(5)[0] is newest(5)[0]


def small(requests: int = 200, **more: object) -> OnlineConfig:
    return replace(world(requests=requests, log=True, batch_rows=64, publish_every=128, checkpoint_every=2, seed=3),
                   baselines=False, **more)  # type: ignore[arg-type]  # fmt: skip


def weights(run: Embedded) -> object:
    state = run.learner.state()
    return {name: part for name, part in state.items() if name not in ("positives", "negatives", "marks")}


class RefusesFrom:
    """Refuses from the n-th candidate on."""

    def __init__(self, first: int) -> None:
        self.left = first

    def judge(self, source: object, pieces: object) -> Verdict:
        self.left -= 1
        return Verdict(checks=(Check(name="turn", held=self.left >= 0),))

    def published(self, change: object) -> None: ...

    def reset(self) -> None: ...


def test_a_guard_that_lets_all_pass_changes_nothing(tmp_path: Path) -> None:
    plain = Embedded(small(), RunFolder(tmp_path / "plain"))
    plain.run()
    guarded = Embedded(small(guard=GuardConfig(min_rows=64, min_positives=1, auc_margin=0.99, calibration=None)),
                       RunFolder(tmp_path / "guarded"))  # fmt: skip
    guarded.run()
    assert_same_state(weights(plain), weights(guarded))  # type: ignore[arg-type]
    ours, theirs = ([change.checksum() for change in one.publisher.read_since(-1)] for one in (guarded, plain))
    assert len(ours) == len(theirs) > 5
    records = VersionRecords(guarded.publisher.changes.log).newest(99)
    assert [record.version for record in records] == list(range(len(ours)))
    assert any(check["name"] == "auc" and check["value"] for record in records for check in record.verdict["checks"])


def test_refused_versions_are_not_served_and_training_goes_on(tmp_path: Path) -> None:
    plain = Embedded(small(), RunFolder(tmp_path / "plain"))
    plain.run()
    run = Embedded(small(), RunFolder(tmp_path / "refused"))
    run.sluice.guard = RefusesFrom(3)
    report = run.run()
    assert_same_state(weights(plain), weights(run))  # type: ignore[arg-type]
    assert run.serving.replica.version.number == 2
    assert run.publisher.last().number == 2
    waits = plain.publisher.last().number - 2
    assert f"{waits} changes are not published" in report.notes
    assert f"{waits} candidates were refused by the guard" in report.notes
    place(run.publisher.changes.log, "release", unchecked=True)
    run.sluice.obey()
    run.serving.replica.catch_up(run.publisher)
    for name, tensor in plain.serving.replica.dense.items():
        assert torch.equal(run.serving.replica.dense[name], tensor)
    ids = torch.arange(2000)
    for name, table in plain.serving.replica.tables.items():
        assert torch.equal(run.serving.replica.tables[name].lookup(ids), table.lookup(ids))
        assert len(run.serving.replica.tables[name]) == len(table)  # type: ignore[arg-type]


def test_an_embedded_run_that_is_on_hold_goes_on_after_a_restart(tmp_path: Path) -> None:
    folder, steps = RunFolder(tmp_path / "run"), 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        return steps > 5

    first = Embedded(small(600), folder, stop=stop)
    place(first.publisher.changes.log, "hold")
    first.run()
    assert first.publisher.last().number == 0
    assert first.sluice.status()["pending"] > 0
    again = Embedded(small(600), folder)
    place(again.publisher.changes.log, "release")
    again.run()
    plain = Embedded(small(600), RunFolder(tmp_path / "plain"))
    plain.run()
    assert_same_state(weights(plain), weights(again))  # type: ignore[arg-type]
    assert again.sluice.status()["pending"] == 0
    assert again.serving.replica.version == again.publisher.last()


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    run = Embedded(small(), RunFolder(tmp_path))
    with publishing(run.publisher.changes.log), pytest.raises(ConfigError, match="another process"):
        run.run()


def test_a_second_publisher_waits_until_it_is_told_to_stop(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "changes.db", durability="process")
    asked = iter([False, False, True])
    with publishing(log), only_publisher(log, lambda: next(asked)) as alone:
        assert not alone
    with only_publisher(log, lambda: False) as alone:
        assert alone


def test_the_batches_kept_survive_a_restart(tmp_path: Path) -> None:
    run = Embedded(small(guard=GuardConfig(rows=100, min_rows=50)), RunFolder(tmp_path))
    run.run()
    metric = run.loop.metric
    assert isinstance(metric, NewestBatches)
    kept = metric(100)
    assert 100 <= sum(map(len, kept)) < 100 + 64
    saved = ManifestCheckpoint(RunFolder(tmp_path).checkpoint).load()
    assert saved is not None
    again = NewestBatches(ProgressiveMetric(window_s=1.0), 100)
    again.inner = metric.inner
    again.restore(saved["metric"])  # type: ignore[arg-type]
    for one, two in zip(kept, again(100), strict=True):
        assert torch.equal(one.dense, two.dense)
        assert torch.equal(one.labels, two.labels)
        assert {name: ids.values.tolist() for name, ids in one.ids.items()} == {
            name: ids.values.tolist() for name, ids in two.ids.items()}  # fmt: skip
        assert sorted(one.extra) == sorted(two.extra)
    without = {name: part for name, part in saved["metric"].items() if name != KEPT}  # type: ignore[union-attr]
    again.restore(without)
    assert again(100) == []
    assert np.isfinite(again.compute()["log_loss"])
