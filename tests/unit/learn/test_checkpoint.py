"""ManifestCheckpoint: atomic, verified, and honest about damage."""

from __future__ import annotations

import json
import logging
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from headrace.errors import ConfigError, CorruptSnapshot, StoreError
from headrace.learn import ManifestCheckpoint
from headrace.learn import checkpoint as checkpoint_module
from headrace.protocols import Checkpoint
from headrace.testing import check_checkpoint
from headrace.types import State


def state_of(step: int) -> State:
    return {"step": step, "rows": torch.full((50,), float(step)), "blob": bytes([step % 256]) * 10}


def step_of(state: State | None) -> int:
    assert state is not None
    step, rows = state["step"], state["rows"]
    assert isinstance(step, int)
    assert isinstance(rows, torch.Tensor)
    assert rows.tolist() == [float(step)] * 50
    assert state["blob"] == bytes([step % 256]) * 10
    return step


def folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_saved_loads_as_none(tmp_path: Path) -> None:
    assert ManifestCheckpoint(tmp_path / "absent").load() is None


def test_the_newest_state_is_loaded(tmp_path: Path) -> None:
    checkpoint = ManifestCheckpoint(tmp_path)
    checkpoint.save(state_of(1))
    checkpoint.save(state_of(2))
    assert step_of(ManifestCheckpoint(tmp_path).load()) == 2


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoint = ManifestCheckpoint(tmp_path, keep=2)
    for step in range(5):
        checkpoint.save(state_of(step))
    assert folders(tmp_path) == ["00000003", "00000004", "CURRENT"]
    assert [entry.number for entry in checkpoint.entries()] == [3, 4]


def test_the_manifest_is_json_that_names_every_file(tmp_path: Path) -> None:
    ManifestCheckpoint(tmp_path).save(state_of(1))
    content = json.loads((tmp_path / "00000000" / "manifest.json").read_text())
    assert list(content["manifest"]["files"]) == ["tensors.safetensors"]
    assert len(content["sha256"]) == 64


def test_loaded_tensors_are_not_tied_to_the_file(tmp_path: Path) -> None:
    checkpoint = ManifestCheckpoint(tmp_path, keep=1)
    checkpoint.save(state_of(1))
    loaded = checkpoint.load()
    checkpoint.save(state_of(2))
    assert loaded is not None
    loaded["rows"][:] = 7.0  # type: ignore[index, call-overload]
    assert step_of(checkpoint.load()) == 2


def test_tensors_that_share_memory_are_kept_apart(tmp_path: Path) -> None:
    rows = torch.arange(10)
    checkpoint = ManifestCheckpoint(tmp_path)
    checkpoint.save({"all": rows, "half": rows[5:], "again": rows, "turned": rows.reshape(2, 5).T})
    loaded = checkpoint.load()
    assert loaded is not None
    assert torch.equal(loaded["half"], rows[5:])  # type: ignore[arg-type]
    assert torch.equal(loaded["turned"], rows.reshape(2, 5).T)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [(1, 2), object(), {1: 2}, {"a": {"b": 1 + 2j}}, {"\ud800": 1}, "\udc00"])
def test_what_a_state_cannot_hold_is_refused_with_its_path(tmp_path: Path, value: object) -> None:
    checkpoint = ManifestCheckpoint(tmp_path)
    checkpoint.save(state_of(1))
    with pytest.raises(StoreError, match="State /part"):
        checkpoint.save({"part": value})  # type: ignore[dict-item]
    assert step_of(checkpoint.load()) == 1


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_remove(path: Path) -> None:
    path.unlink()


DAMAGES = [damage_cut, damage_flip, damage_empty, damage_remove]


@pytest.mark.parametrize("name", ["manifest.json", "tensors.safetensors"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: object
) -> None:
    checkpoint = ManifestCheckpoint(tmp_path)
    checkpoint.save(state_of(1))
    checkpoint.save(state_of(2))
    damage(tmp_path / "00000001" / name)  # type: ignore[operator]
    with caplog.at_level(logging.WARNING):
        assert step_of(ManifestCheckpoint(tmp_path).load()) == 1
    assert len(caplog.records) == 1
    assert "Went back to checkpoint 0" in caplog.text
    assert "Checkpoint 1" in caplog.text


def test_every_single_flipped_byte_of_the_manifest_is_found(tmp_path: Path) -> None:
    ManifestCheckpoint(tmp_path).save({"a": 1})
    path = tmp_path / "00000000" / "manifest.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(CorruptSnapshot):
            ManifestCheckpoint(tmp_path).load()


def test_when_none_is_whole_the_error_tells_of_each(tmp_path: Path) -> None:
    checkpoint = ManifestCheckpoint(tmp_path)
    checkpoint.save(state_of(1))
    checkpoint.save(state_of(2))
    damage_cut(tmp_path / "00000000" / "tensors.safetensors")
    damage_cut(tmp_path / "00000001" / "manifest.json")
    with pytest.raises(CorruptSnapshot, match=r"Checkpoint 1.*Checkpoint 0"):
        checkpoint.load()


def test_a_missing_newest_folder_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = ManifestCheckpoint(tmp_path)
    checkpoint.save(state_of(1))
    checkpoint.save(state_of(2))
    shutil.rmtree(tmp_path / "00000001")
    assert step_of(ManifestCheckpoint(tmp_path).load()) == 1
    assert "missing" in caplog.text


def test_everything_gone_but_the_pointer_is_an_error(tmp_path: Path) -> None:
    checkpoint = ManifestCheckpoint(tmp_path)
    checkpoint.save(state_of(1))
    shutil.rmtree(tmp_path / "00000000")
    with pytest.raises(CorruptSnapshot):
        checkpoint.load()


def test_a_damaged_pointer_is_told_and_the_newest_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = ManifestCheckpoint(tmp_path)
    checkpoint.save(state_of(1))
    (tmp_path / "CURRENT").write_text("??")
    assert step_of(ManifestCheckpoint(tmp_path).load()) == 1
    assert "CURRENT" in caplog.text


def test_a_save_while_another_process_loads_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer = ManifestCheckpoint(tmp_path, keep=1)
    writer.save(state_of(1))
    steps = iter([2, 3])
    read_files = checkpoint_module._read_files

    def slow_read(folder: Path, number: int) -> State:
        for step in steps:
            writer.save(state_of(step))
            break
        return read_files(folder, number)

    monkeypatch.setattr(checkpoint_module, "_read_files", slow_read)
    assert step_of(ManifestCheckpoint(tmp_path).load()) == 3
    assert caplog.text == ""


def test_the_contract_of_a_checkpoint_holds(tmp_path: Path) -> None:
    folders = (tmp_path / str(number) for number in range(10))
    verdict = check_checkpoint(lambda: ManifestCheckpoint(next(folders)), reopen=reopened)
    assert verdict.untried == ()


def reopened(checkpoint: Checkpoint) -> Checkpoint:
    assert isinstance(checkpoint, ManifestCheckpoint)
    return ManifestCheckpoint(checkpoint.folder)


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.learn.checkpoint.FORMAT", 99)
    ManifestCheckpoint(tmp_path).save(state_of(1))
    monkeypatch.undo()
    with pytest.raises(CorruptSnapshot, match="format: got 99"):
        ManifestCheckpoint(tmp_path).load()


def test_a_whole_predecessor_outlives_a_damaged_checkpoint(tmp_path: Path) -> None:
    checkpoint = ManifestCheckpoint(tmp_path)
    checkpoint.save(state_of(1))
    checkpoint.save(state_of(2))
    damage_cut(tmp_path / "00000001" / "tensors.safetensors")
    again = ManifestCheckpoint(tmp_path)
    again.load()
    again.save(state_of(3))
    assert folders(tmp_path) == ["00000000", "00000002", "CURRENT"]
    damage_cut(tmp_path / "00000002" / "tensors.safetensors")
    assert step_of(again.load()) == 1


def test_leftovers_of_crashed_saves_are_not_loaded_and_removed_by_the_next(tmp_path: Path) -> None:
    checkpoint = ManifestCheckpoint(tmp_path)
    checkpoint.save(state_of(1))
    shutil.copytree(tmp_path / "00000000", tmp_path / "00000001")  # renamed, but CURRENT was not replaced
    (tmp_path / "00000002.unfinished").mkdir()
    (tmp_path / "CURRENT.unfinished").write_text("0000")
    assert step_of(ManifestCheckpoint(tmp_path).load()) == 1
    ManifestCheckpoint(tmp_path).save(state_of(2))
    assert folders(tmp_path) == ["00000000", "00000002", "CURRENT"]


@pytest.mark.parametrize("call", ["safetensors.torch.save_file", "os.rename", "os.replace", "os.fsync"])
def test_a_disk_that_refuses_leaves_the_earlier_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    checkpoint = ManifestCheckpoint(tmp_path)
    checkpoint.save(state_of(1))

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(call, refuse)
    with pytest.raises(StoreError, match="No space left on device"):
        checkpoint.save(state_of(2))
    monkeypatch.undo()
    assert step_of(ManifestCheckpoint(tmp_path).load()) == 1
    checkpoint.save(state_of(3))
    assert step_of(checkpoint.load()) == 3
    assert not [name for name in folders(tmp_path) if "unfinished" in name]


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let no file of this process grow over 4 KiB, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
def test_a_file_that_really_cannot_grow_leaves_the_earlier_state(tmp_path: Path) -> None:
    checkpoint = ManifestCheckpoint(tmp_path)
    checkpoint.save({"step": 1})
    with pytest.raises(StoreError, match="Checkpoint folder"):
        checkpoint.save({"step": 2, "rows": torch.zeros(100_000)})
    assert checkpoint.load() == {"step": 1}
    assert folders(tmp_path) == ["00000000", "CURRENT"]


def test_a_folder_that_is_a_file_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        ManifestCheckpoint(tmp_path / "file").save(state_of(1))


def test_keep_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keep"):
        ManifestCheckpoint(tmp_path, keep=0)


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


CRASHES = """
import os, signal, sys, time, torch
import headrace.learn.checkpoint as module
from headrace.learn import ManifestCheckpoint

def state(step):
    return {"step": step, "rows": torch.full((50,), float(step)), "blob": bytes([step % 256]) * 10}

def step_of(state):
    step = state["step"]
    assert state["rows"].tolist() == [float(step)] * 50 and state["blob"] == bytes([step % 256]) * 10
    return step

def in_child(work):
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child
"""

SAVE_FOREVER = """
def save_forever():
    checkpoint, step = ManifestCheckpoint(sys.argv[1]), 0
    loaded = checkpoint.load()
    step = 0 if loaded is None else step_of(loaded)
    while True:
        step += 1
        checkpoint.save(state(step))

seen = 0
for number in range(8):
    child = in_child(save_forever)
    time.sleep(0.1 + 0.0137 * number)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    step = step_of(ManifestCheckpoint(sys.argv[1]).load())
    assert step > seen, (step, seen)
    seen = step
print("saved", seen)
"""

DIE_AT_EACH_STEP = """
def counted(function):
    def call(*arguments, **keywords):
        global left
        left -= 1
        if left == 0:
            os._exit(9)
        return function(*arguments, **keywords)
    return call

def save_and_die():
    for holder, name in ((os, "fsync"), (os, "rename"), (os, "replace"), (module.shutil, "rmtree"),
                         (module.safetensors.torch, "save_file"), (module.Path, "mkdir")):
        setattr(holder, name, counted(getattr(holder, name)))
    ManifestCheckpoint(folder).save(state(3))

codes = []
for place in range(1, 16):
    folder, left = f"{sys.argv[1]}/{place}", place
    for step in (1, 2):
        ManifestCheckpoint(folder).save(state(step))
    _, status = os.waitpid(in_child(save_and_die), 0)
    codes.append(os.waitstatus_to_exitcode(status))
    step = step_of(ManifestCheckpoint(folder).load())
    assert step in (2, 3) if codes[-1] == 9 else step == 3, (place, step)
    ManifestCheckpoint(folder).save(state(4))
    assert step_of(ManifestCheckpoint(folder).load()) == 4
print("died", codes.count(9), "finished", codes.count(0))
"""


def test_kill_9_during_saves_never_loses_the_checkpoint(tmp_path: Path) -> None:
    outcome = run_python(CRASHES + SAVE_FOREVER, tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert "Went back" not in outcome.stderr
    assert outcome.stdout.startswith("saved")


def test_death_before_any_single_step_of_a_save_leaves_one_whole_state(tmp_path: Path) -> None:
    outcome = run_python(CRASHES + DIE_AT_EACH_STEP, tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert "Went back" not in outcome.stderr
    died, finished = map(int, outcome.stdout.split()[1::2])
    assert died >= 10
    assert finished >= 1
