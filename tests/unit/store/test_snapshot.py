from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from headrace.errors import CorruptSnapshot, StoreError
from headrace.store import Adam, AdmitCount, ReferenceTable, TableConfig, read_snapshot, write_snapshot
from headrace.store import snapshot as module
from headrace.types import State

STATE: State = {
    "none": None, "yes": True, "whole": 2**70, "real": 0.1, "text": "ü\x00$section", "raw": b"\x00\xff", "empty": b"",
    "list": [1, [2.5, {"deep": b"x"}], []], "dict": {"tensor": 3, "": {}},
    "floats": torch.tensor([[0.1, float("nan")], [float("-inf"), -0.0]]), "ids": torch.tensor([-(2**63), 2**63 - 1]),
    "half": torch.tensor([1.5], dtype=torch.bfloat16), "flags": torch.tensor([True, False]),
    "nothing": torch.zeros(0, 4), "scalar": torch.tensor(7), "strided": torch.arange(6).reshape(2, 3).t(),
}  # fmt: skip


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        assert isinstance(other, torch.Tensor)
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            return False
        one, other = one.contiguous().reshape(-1), other.contiguous().reshape(-1)
        return one.numel() == 0 or torch.equal(one.view(torch.uint8), other.view(torch.uint8))
    if isinstance(one, dict):
        assert isinstance(other, dict)
        return list(one) == list(other) and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list):
        assert isinstance(other, list)
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return type(one) is type(other) and one == other


def test_what_is_written_is_read(tmp_path: Path) -> None:
    size = write_snapshot(tmp_path / "s", STATE)
    assert (tmp_path / "s").stat().st_size == size
    assert same(read_snapshot(tmp_path / "s"), STATE)


def test_the_file_is_the_same_for_the_same_state(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_snapshot(tmp_path / name, STATE)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def small(path: Path) -> bytes:
    table = ReferenceTable(TableConfig(name="t", dim=2, rule=Adam(), admission=AdmitCount(2)))
    ids = torch.tensor([1, 2, 3])
    table.update(ids, torch.ones(3, 2), torch.tensor([2, 2, 1]), ids)
    write_snapshot(path, table.state())
    return path.read_bytes()


def test_every_flipped_bit_of_every_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    whole = small(path)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(CorruptSnapshot):
            read_snapshot(path)
    path.write_bytes(whole)
    assert read_snapshot(path)["mark"] == 1


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    whole = small(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptSnapshot):
            read_snapshot(path)


def test_bytes_added_or_swapped_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    whole = small(path)
    for damaged in (whole + b"\x00", b"\x00" + whole, whole * 2, whole[:-60] + whole[-59:] + b"H"):
        path.write_bytes(damaged)
        with pytest.raises(CorruptSnapshot):
            read_snapshot(path)


def test_sections_of_one_file_do_not_fit_another(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "two"
    write_snapshot(one, {"x": torch.tensor([1.0])})
    write_snapshot(other, {"x": torch.tensor([2.0])})
    assert len(one.read_bytes()) == len(other.read_bytes())
    mixed = one.read_bytes()[:-52] + other.read_bytes()[-52:]
    one.write_bytes(mixed)
    with pytest.raises(CorruptSnapshot, match="checksum"):
        read_snapshot(one)


def forge(path: Path, header: object, data: bytes = b"") -> None:
    """Write a file whose checksums are right and whose content is not."""
    text = json.dumps(header).encode()
    prefix = module._PREFIX.pack(module.MAGIC, module.FORMAT, len(text))
    digest = module.hashlib.sha256(prefix + text).digest()
    length = len(prefix) + len(text) + len(data) + module._FOOTER.size
    path.write_bytes(prefix + text + data + module._FOOTER.pack(digest, length, module.END))


EMPTY = module.hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize(
    "header",
    [
        [], {}, {"state": {}, "sections": []}, {"state": {"plain": 1}, "sections": []},
        {"state": {"list": []}, "sections": []}, {"state": {"dict": {"x": {"tensor": 0}}}, "sections": []},
        {"state": {"dict": {"x": {"code": "1"}}}, "sections": []},
        {"state": {"dict": {"x": {"plain": [1]}}}, "sections": []},
        {"state": {"dict": {}}, "sections": [{"dtype": "object", "shape": [0], "bytes": 0, "sha256": EMPTY}]},
        {"state": {"dict": {}}, "sections": [{"dtype": "int64", "shape": [5], "bytes": 0, "sha256": EMPTY}]},
        {"state": {"dict": {}}, "sections": [{"dtype": "int64", "shape": [0], "bytes": -8, "sha256": EMPTY}]},
    ],
    ids=str,
)  # fmt: skip
def test_a_file_with_right_checksums_and_wrong_structure_is_refused(tmp_path: Path, header: object) -> None:
    forge(tmp_path / "s", header)
    with pytest.raises(CorruptSnapshot):
        read_snapshot(tmp_path / "s")


def test_a_file_of_a_later_format_is_refused_by_its_number(tmp_path: Path) -> None:
    whole = bytearray(small(tmp_path / "s"))
    whole[8] = 2
    (tmp_path / "s").write_bytes(whole)
    with pytest.raises(CorruptSnapshot, match=r"format version 2.*format version 1"):
        read_snapshot(tmp_path / "s")


def test_a_file_that_is_not_there_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        read_snapshot(tmp_path / "absent")
    assert not isinstance(caught.value, CorruptSnapshot)


@pytest.mark.parametrize(
    "wrong",
    [object(), {1: 2}, (1, 2), {"a": [{"b": {1}}]}, torch.zeros(2, dtype=torch.complex64)],
    ids=["object", "integer key", "tuple", "set", "complex tensor"],
)
def test_what_is_no_state_is_refused_by_its_place(tmp_path: Path, wrong: object) -> None:
    with pytest.raises(StoreError, match=r"state\.x"):
        write_snapshot(tmp_path / "s", {"x": wrong})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_snapshot(tmp_path / "s", {"x": 1})

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"No space left.*room for"):
        write_snapshot(tmp_path / "s", {"x": 2})
    monkeypatch.undo()
    assert read_snapshot(tmp_path / "s") == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_file_and_folder_reach_the_disk_before_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("sync"), sync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda *pair: (order.append("rename"), replace(*pair))[1])
    write_snapshot(tmp_path / "s", {"x": 1})
    assert order == ["sync", "rename", "sync"]
