from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import confluent_kafka
import numpy as np
import pytest
import torch

from headrace.data import JoinConfig
from headrace.data.features import IdFeature, Schema
from headrace.data.kafka import KafkaLog
from headrace.errors import ConfigError
from headrace.nn import DeepFM
from headrace.online import (
    Following,
    OnlineConfig,
    RunFolder,
    changes,
    open_learner,
    open_log,
    open_serving,
    run_publisher,
)
from headrace.online.changes import copied, find_place, open_changes, open_cluster
from headrace.online.layout import STAGED
from headrace.publish import LogPublisher, Retention, StagingPublisher
from headrace.types import Version

CONFIG = OnlineConfig(
    name="shop", schema=Schema(features=(IdFeature("user", 4), IdFeature("item", 4))),
    model=lambda embed, schema, seed: DeepFM(embed, schema.id_names, 0, (8,), seed=seed),
    join=JoinConfig(window_s=600, lateness_s=5), snapshot_every=3, retention=Retention(snapshots=2),
)  # fmt: skip


@pytest.fixture(scope="module")
def brokers() -> Iterator[str]:
    cluster = confluent_kafka.Producer({"test.mock.num.brokers": 1, "log_level": 0})
    broker = next(iter(cluster.list_topics(timeout=10).brokers.values()))
    opened: list[KafkaLog] = []
    plain = changes.open_cluster

    def remembered(place: changes.Place) -> KafkaLog:
        opened.append(plain(place))
        return opened[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(changes, "open_cluster", remembered)
        yield f"{broker.host}:{broker.port}"
    for log in opened:  # else they look for the cluster when it is gone, and say so
        log.close()
    del cluster


def staged(folder: RunFolder, count: int) -> None:
    """Stage versions that a learner made: other rows and dense tensors in each."""
    learner, log = open_learner(CONFIG), open_log(CONFIG, folder, STAGED)
    publisher = StagingPublisher(log)
    for number in range(count):
        with torch.no_grad():
            for value in learner.model.parameters():
                value += 0.01 * number
        ids = torch.arange(number, number + 3)
        for table in learner.tables.values():
            table.assign(ids, torch.from_numpy(np.full((3, 4), number, np.float32)))
        publisher.publish(learner.changes(Version(number - 1, number - 2) if number else Version(-1)))
    log.close_topic(STAGED)


def test_a_place_is_a_path_or_an_address() -> None:
    assert find_place("some/where").folder == Path("some/where")
    place = find_place("kafka://a:1,b:2/topic?snapshots=/mnt/s")
    assert (place.servers, place.topic, place.snapshots, place.folder) == ("a:1,b:2", "topic", Path("/mnt/s"), None)
    assert find_place("kafka://a/t").snapshots is None
    assert find_place("a").name != find_place("b").name


@pytest.mark.parametrize(
    "text", ["", "s3://bucket/key", "kafka://", "kafka://a:1", "kafka:///t", "kafka://a/t/u", "kafka://a/t?snap=x",
             "kafka://a/t?snapshots=", "kafka://a/t?snapshots=x&snapshots=y"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="Place of changes"):
        Following(changes=text)


@pytest.mark.parametrize("data", [None, b"{", b"[]", b'{"a": {"b": 1}}', b"\xff"])
def test_settings_of_a_cluster_that_are_none_are_refused(tmp_path: Path, data: bytes | None) -> None:
    file = tmp_path / "kafka.json"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(ConfigError, match=r"kafka\.json"):
        open_cluster(find_place(f"kafka://a:1/t?settings={file}"))


def test_settings_of_a_cluster_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "kafka.json").write_text(json.dumps({"client.id": "shop", "log_level": 0}))
    cluster = open_cluster(find_place(f"kafka://127.0.0.1:1/t?settings={tmp_path / 'kafka.json'}"))
    assert cluster._settings["client.id"] == "shop"
    with pytest.raises(ConfigError, match="settings"):
        find_place("kafka://a/t?settings=")


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="mode"):
        Following(mode="some")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["folder", "topic"])
def test_what_is_published_reaches_every_place(tmp_path: Path, brokers: str, kind: str) -> None:
    folder = RunFolder(tmp_path / "run")
    place = str(tmp_path / "far") if kind == "folder" else f"kafka://{brokers}/shop?snapshots={tmp_path / 'far'}"
    staged(folder, 11)
    run_publisher(CONFIG, folder, lambda: False, copies=[place])
    near, far = open_serving(CONFIG), open_serving(CONFIG, mode="eventual")
    near.replica.catch_up(open_changes(CONFIG, folder).source)
    far.replica.catch_up(open_changes(CONFIG, RunFolder(tmp_path / "elsewhere"), place).source)
    assert near.replica.version.number == far.replica.version.number == 10
    for name, table in near.replica.tables.items():
        theirs = far.replica.tables[name].rows()  # type: ignore[attr-defined]
        assert table.rows().ids.equal(theirs.ids)  # type: ignore[attr-defined]
        assert table.rows().rows.equal(theirs.rows)  # type: ignore[attr-defined]
    assert all(value.equal(far.replica.dense[name]) for name, value in near.replica.dense.items())
    status = folder.read_status("publisher")
    assert status["copies_failing"] == {}
    assert [one["version"] for one in status["replicas"].values()] == [10]  # type: ignore[attr-defined]


def test_two_runs_do_not_share_a_place(tmp_path: Path) -> None:
    for name in ("one", "two"):
        publisher = LogPublisher(open_log(CONFIG, RunFolder(tmp_path / name), "changes"), tmp_path / name / "s")
        publisher.publish(open_learner(CONFIG).changes(Version(-1)))
    place = [str(tmp_path / "far")]
    with copied(CONFIG, RunFolder(tmp_path / "one"), place):
        pass
    with pytest.raises(ConfigError, match="expected run"), copied(CONFIG, RunFolder(tmp_path / "two"), place):
        pass


def test_a_publisher_does_not_fail_with_a_place_that_does(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    staged(folder, 5)
    place = tmp_path / "far"
    place.mkdir()
    config, seen = replace(CONFIG, snapshot_every=50), list[str]()

    def break_it() -> bool:
        if place.is_dir() and not any(place.glob("*.change")):
            for path in place.iterdir():
                path.unlink()
            place.rmdir()
            place.write_text("a file where a folder was")
        seen.append("asked")
        return len(seen) > 200

    thread = threading.Thread(target=run_publisher, args=(config, folder, break_it), kwargs={"copies": [str(place)]})
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    status = json.loads((folder.root / "status" / "publisher.json").read_text())
    assert status["version"] == 4
    deadline = time.monotonic() + 5
    while not status["copies_failing"] and time.monotonic() < deadline:
        status = json.loads((folder.root / "status" / "publisher.json").read_text())
    assert str(place) in status["copies_failing"]
