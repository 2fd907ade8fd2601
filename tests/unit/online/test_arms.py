"""Arms on the command line, and the source of one version that never moves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from headrace.data.log import EmbeddedLog
from headrace.errors import ConfigError, StaleError
from headrace.online import RunFolder
from headrace.online.arms import ArmConfig, OneVersion, open_experiment, parse_arm
from headrace.online.demo import world
from headrace.publish import ChangeReader, LogPublisher, Replica
from headrace.serve.follow import Follower
from headrace.types import Change, Version


def change(number: int) -> Change:
    return Change(version=Version(number, number - 1), dense={"w": torch.tensor([float(number)])}, full=number == 0)


@pytest.fixture
def published(tmp_path: Path) -> LogPublisher:
    publisher = LogPublisher(EmbeddedLog(tmp_path / "changes.db", durability="process"), tmp_path / "snapshots",
                             snapshot_every=3)  # fmt: skip
    for number in range(6):
        publisher.publish(change(number))
    return publisher


def reader(folder: Path) -> ChangeReader:
    return ChangeReader(EmbeddedLog(folder / "changes.db", durability="process"), folder / "snapshots")


def test_one_version_stays_while_others_are_published(tmp_path: Path, published: LogPublisher) -> None:
    replica = Replica({}, {"w": torch.zeros(1)})
    follower = Follower(replica, OneVersion(reader(tmp_path), 4))
    assert follower.step()
    assert (replica.version.number, replica.dense["w"].item()) == (4, 4.0)
    for number in range(6, 12):
        published.publish(change(number))
        assert follower.step()
    assert (replica.version.number, replica.dense["w"].item(), follower.lag) == (4, 4.0, 0)


def test_a_version_that_is_gone_is_an_error_at_the_start(tmp_path: Path, published: LogPublisher) -> None:
    with pytest.raises(StaleError, match="Version 99"):
        OneVersion(reader(tmp_path), 99)


@pytest.mark.parametrize(
    "text", ["", "new", "new=runs", "new=runs:", "new=runs:x", "=runs:0.1", "a b=runs:0.1", "new=:0.1"]
)
def test_texts_that_name_no_arm(text: str) -> None:
    with pytest.raises(ConfigError, match="--arm"):
        parse_arm(text)


@pytest.mark.parametrize("text", ["main=runs:0.1", "new=runs:1.5", "new=runs:-0.1", "new=runs:1e999"])
def test_arms_that_cannot_be(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_arm(text)


def test_folders_may_hold_colons_and_at_signs() -> None:
    arm = parse_arm("new=s3://a@b/c@7:0.25")
    assert (str(arm.folder), arm.version, arm.share) == ("s3:/a@b/c", 7, 0.25)


def test_shares_and_names_of_several_arms(tmp_path: Path, published: LogPublisher) -> None:
    config, folder = world(requests=10), RunFolder(tmp_path / "main")
    twice = [ArmConfig(name="a", folder=tmp_path, share=0.1)] * 2
    with pytest.raises(ConfigError, match="every name once"):
        open_experiment(config, folder, twice)
    much = [ArmConfig(name=name, folder=tmp_path, share=0.6) for name in ("a", "b")]
    with pytest.raises(ConfigError, match="at most 1"):
        open_experiment(config, folder, much)
    found = open_experiment(config, folder, [ArmConfig(name="a", folder=tmp_path, share=0.3)], split_by="user")
    assert found.config.shares == {"main": pytest.approx(0.7), "a": 0.3}
    assert found.config.path == tmp_path / "main" / "experiment.json"
    assert (found.config.window_s, found.config.kinds) == (900.0, ("click",))
    assert found.folders == (tmp_path,)
    assert found.arms["a"].changes.last().number == 5  # type: ignore[union-attr]
