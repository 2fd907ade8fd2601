"""A change as bytes: whatever goes in comes out, and whatever was damaged is refused."""

from __future__ import annotations

import hashlib
import json
import struct

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from headrace.errors import CorruptSnapshot, VersionError
from headrace.publish import decode, encode
from headrace.types import Change, RowChange, Version

IDS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=8, unique=True)
NAMES = st.text(min_size=1, max_size=6)
DTYPES = st.sampled_from(
    [torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool]
)
RELAXED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    seed = draw(st.integers(0, 1000))
    values = np.random.default_rng(seed).normal(size=shape) * 100
    return torch.from_numpy(np.asarray(values)).to(draw(DTYPES)).reshape(shape)


@st.composite
def row_changes(draw: st.DrawFn) -> RowChange:
    ids = draw(IDS)
    put = sorted(ids[: len(ids) // 2])
    removed = sorted(ids[len(ids) // 2 :])
    width = draw(st.integers(1, 4))
    rows = torch.from_numpy(np.random.default_rng(draw(st.integers(0, 99))).normal(size=(len(put), width)))
    return RowChange(
        torch.tensor(put, dtype=torch.int64), rows.to(torch.float32), torch.tensor(removed, dtype=torch.int64)
    )


@st.composite
def changes(draw: st.DrawFn) -> Change:
    number = draw(st.integers(0, 2**40))
    return Change(
        version=Version(number, draw(st.integers(-1, number - 1))),
        tables=draw(st.dictionaries(NAMES, row_changes(), max_size=3)),
        dense=draw(st.dictionaries(NAMES, tensors(), max_size=3)),
        notes=draw(st.dictionaries(NAMES, tensors(), max_size=2)),
        spec=draw(st.dictionaries(NAMES, st.text(max_size=10), max_size=3)), full=draw(st.booleans()),
    )  # fmt: skip


def small() -> Change:
    return Change(
        version=Version(3, 2), dense={"w": torch.arange(6.0).reshape(2, 3)}, spec={"table/user": "{}"},
        tables={"user": RowChange(torch.tensor([1, 5]), torch.ones(2, 3), torch.tensor([2]))},
        notes={"accepted_times": torch.tensor([7, 8])},
    )  # fmt: skip


@RELAXED
@given(changes())
def test_what_goes_in_comes_out(change: Change) -> None:
    back = decode(encode(change))
    assert back.checksum() == change.checksum()
    assert (back.version, back.full, dict(back.spec)) == (change.version, change.full, dict(change.spec))
    assert list(back.tables) == sorted(change.tables)
    for name, tensor in change.dense.items():
        assert back.dense[name].dtype == tensor.dtype
        assert back.dense[name].shape == tensor.shape


@RELAXED
@given(changes(), st.data())
def test_a_flipped_bit_is_refused(change: Change, data: st.DataObject) -> None:
    content = bytearray(encode(change))
    place = data.draw(st.integers(0, len(content) * 8 - 1))
    content[place // 8] ^= 1 << (place % 8)
    with pytest.raises(CorruptSnapshot):
        decode(bytes(content))


@RELAXED
@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(CorruptSnapshot):
        decode(noise)
    with pytest.raises(CorruptSnapshot):
        decode(encode(small()) + noise[:1] + b"x")


def test_every_truncation_is_refused() -> None:
    content = encode(small())
    for size in range(len(content)):
        with pytest.raises(CorruptSnapshot):
            decode(content[:size])


def test_every_bit_of_a_small_change_counts() -> None:
    content = encode(small())
    for place in range(len(content) * 8):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << (place % 8)
        with pytest.raises(CorruptSnapshot):
            decode(bytes(damaged))


def forged(alter: object) -> bytes:
    """Return the bytes of a small change with another header and a right checksum: made by an enemy or a bug."""
    content = encode(small())
    magic, layout, size, _ = struct.unpack_from("<8sIIQ", content)
    header = json.loads(content[24 : 24 + size])
    alter(header)  # type: ignore[operator]
    text = json.dumps(header).encode()
    start = 24 + size
    start += -start % 64
    gap = -(24 + len(text)) % 64
    body = text + bytes(gap) + content[start:-32]
    head = struct.pack("<8sIIQ", magic, layout, len(text), 24 + len(body) + 32)
    return head + body + hashlib.sha256(head + body).digest()


FORGERIES = {
    "untouched": lambda h: None,
    "negative shape": lambda h: h["tensors"][0][4].__setitem__(0, -1),
    "huge shape": lambda h: h["tensors"][0][4].__setitem__(0, 2**60),
    "offset beyond the end": lambda h: h["tensors"][0].__setitem__(5, 2**40),
    "offset not aligned": lambda h: h["tensors"][0].__setitem__(5, 1),
    "unknown type": lambda h: h["tensors"][0].__setitem__(3, "object"),
    "a tensor missing": lambda h: h["tensors"].pop(1),
    "unknown group": lambda h: h["tensors"][0].__setitem__(0, "code"),
    "parent after number": lambda h: h.__setitem__("parent", 9),
    "no number": lambda h: h.pop("number"),
    "number is text": lambda h: h.__setitem__("number", "x"),
    "spec is a list": lambda h: h.__setitem__("spec", []),
}


@pytest.mark.parametrize("name", [name for name in FORGERIES if name != "untouched"])
def test_a_wrong_header_with_a_right_checksum_is_refused(name: str) -> None:
    assert decode(forged(FORGERIES["untouched"])).checksum() == small().checksum()
    with pytest.raises(CorruptSnapshot):
        decode(forged(FORGERIES[name]))


def test_a_later_layout_is_refused_with_the_version() -> None:
    content = bytearray(encode(small()))
    content[8] = 9
    with pytest.raises(CorruptSnapshot, match="layout version 9"):
        decode(content)


def test_equal_changes_give_equal_bytes() -> None:
    assert encode(small()) == encode(decode(encode(small())))


BROKEN = {
    "ids descend": RowChange(torch.tensor([5, 1]), torch.ones(2, 3), torch.tensor([], dtype=torch.int64)),
    "ids repeat": RowChange(torch.tensor([1, 1]), torch.ones(2, 3), torch.tensor([], dtype=torch.int64)),
    "put and removed": RowChange(torch.tensor([1]), torch.ones(1, 3), torch.tensor([1])),
    "too few rows": RowChange(torch.tensor([1, 2]), torch.ones(1, 3), torch.tensor([], dtype=torch.int64)),
    "rows in double": RowChange(torch.tensor([1]), torch.ones(1, 3).double(), torch.tensor([], dtype=torch.int64)),
    "ids in int32": RowChange(torch.tensor([1]).int(), torch.ones(1, 3), torch.tensor([], dtype=torch.int64)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_change_that_breaks_its_contract_is_not_written(name: str) -> None:
    with pytest.raises(VersionError):
        encode(Change(version=Version(1, 0), tables={"t": BROKEN[name]}))


def test_a_tensor_type_that_cannot_be_read_back_is_not_written() -> None:
    with pytest.raises(VersionError, match="complex64"):
        encode(Change(version=Version(1, 0), dense={"w": torch.zeros(1, dtype=torch.complex64)}))


def test_decoded_tensors_may_be_written_to() -> None:
    change = decode(encode(small()))
    change.dense["w"][0, 0] = 5.0
    assert float(change.dense["w"][0, 0]) == 5.0
