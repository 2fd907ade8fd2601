"""Shares are settled once, changed durably, and survive restarts; what the operator says anew goes before."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from headrace.errors import ConfigError, StoreError
from headrace.serve import experiment
from headrace.serve.experiment import ExperimentConfig, ShareBook


@pytest.fixture(autouse=True)
def _look_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "LOOK_S", 0.0)


def opened(path: Path | None, share: float = 0.1, **settings: object) -> ShareBook:
    config = ExperimentConfig(shares={"main": 1 - share, "new": share}, path=path, **settings)  # type: ignore[arg-type]
    return ShareBook(config, now=lambda: 1000)


def test_a_salt_is_drawn_once(tmp_path: Path) -> None:
    first = opened(tmp_path / "experiment.json")
    assert len(first.salt) == 16
    assert opened(tmp_path / "experiment.json").salt == first.salt
    assert opened(tmp_path / "other.json").salt != first.salt
    assert opened(None, salt="mine").salt == "mine"


def test_changed_shares_survive_a_restart_with_the_same_command(tmp_path: Path) -> None:
    path = tmp_path / "experiment.json"
    book = opened(path)
    assert book.change({"main": 0.5, "new": 0.5}) == {"main": 0.5, "new": 0.5}
    again = opened(path)
    assert again.shares() == {"main": 0.5, "new": 0.5}
    assert [entry["shares"]["new"] for entry in again.history()] == [0.1, 0.5]
    assert again.history()[0]["time"] == 1000


def test_another_command_goes_before(tmp_path: Path) -> None:
    path = tmp_path / "experiment.json"
    book = opened(path)
    book.change({"main": 0.5, "new": 0.5})
    other = opened(path, 0.2)
    assert other.shares()["new"] == 0.2
    assert other.salt == book.salt  # the same arms: nobody is moved who need not be
    assert [entry["shares"]["new"] for entry in other.history()] == [0.1, 0.5, 0.2]
    fresh = ShareBook(ExperimentConfig(shares={"main": 0.5, "third": 0.5}, path=path))
    assert fresh.salt != book.salt
    assert opened(path, 0.2, salt="said").salt == "said"


def test_several_processes_agree(tmp_path: Path) -> None:
    one, two = opened(tmp_path / "experiment.json"), opened(tmp_path / "experiment.json")
    one.change({"main": 0.7, "new": 0.3})
    assert two.shares()["new"] == 0.3
    two.change({"main": 0.6, "new": 0.4})
    assert one.shares()["new"] == 0.4
    assert [entry["shares"]["new"] for entry in opened(tmp_path / "experiment.json").history()] == [0.1, 0.3, 0.4]


def test_no_change_is_lost_between_processes(tmp_path: Path) -> None:
    """Four processes change shares 25 times each: the history has every one."""
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_changes, args=(tmp_path / "experiment.json", number)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    found = [entry["shares"]["new"] for entry in opened(tmp_path / "experiment.json").history()]
    assert sorted(found[1:]) == sorted((number * 25 + turn) / 200 for number in range(4) for turn in range(25))


def _changes(path: Path, number: int) -> None:
    book = opened(path)
    for turn in range(25):
        share = (number * 25 + turn) / 200
        book.change({"main": 1 - share, "new": share})


def test_what_a_reader_of_the_log_needs_is_there(tmp_path: Path) -> None:
    opened(tmp_path / "experiment.json", window_s=600.0, kinds=("click", "buy"), split_by="user")
    said = json.loads((tmp_path / "experiment.json").read_text())
    assert (said["window_s"], said["kinds"], said["split_by"]) == (600.0, ["click", "buy"], "user")


def test_shares_that_are_none() -> None:
    book = opened(None)
    for shares, what in (
        ({"main": 1.0}, "Share of arm 'new'"), ({"main": 0.5, "new": 0.6}, "Shares"),
        ({"main": 1, "new": -0.0, "x": 0}, "x"), ({"main": float("nan"), "new": 1.0}, "main"),
        ({"main": True, "new": 0.0}, "main"), ({"main": "1", "new": 0}, "main"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=what):
            book.change(shares)
    assert book.shares()["new"] == 0.1


def test_a_damaged_file_is_an_error_at_the_start_and_no_harm_later(tmp_path: Path, caplog) -> None:
    path = tmp_path / "experiment.json"
    book = opened(path)
    for content in (
        '{"shares": {"main": 1.0}}',
        "{",
        "[1]",
        '{"shares": 3, "salt": "", "history": [], "split_by": "key"}',
    ):
        path.write_text(content)
        assert book.shares()["new"] == 0.1
        with pytest.raises(StoreError, match="Experiment"):
            opened(path)
    assert "stay as they are" in caplog.text


def test_what_cannot_be_written_does_not_hold(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    book = opened(folder / "experiment.json")
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_text("in the way")
    with pytest.raises(StoreError):
        book.change({"main": 0.5, "new": 0.5})
    assert book._content["shares"]["new"] == 0.1
