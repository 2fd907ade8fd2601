"""Property: whatever a state holds comes back from disk exactly, types and bits included."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headrace.learn import ManifestCheckpoint
from headrace.learn.encoding import decode_state, encode_state
from headrace.types import StateValue

KEYS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    st.sampled_from(["", "/", "a/b", "a%2Fb", "dict", "list", "tensor", "bytes", "float", "__metadata__", "0"]),
)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Draw a tensor of any kind that parts keep, empty and zero-dimensional ones and views included."""
    dtype = draw(st.sampled_from([torch.int64, torch.float32, torch.uint8, torch.bool, torch.float64, torch.int32]))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    raw = torch.randint(0, 256, (math.prod(shape) * dtype.itemsize,), dtype=torch.uint8,
                        generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))  # fmt: skip
    value = (raw % 2).view(torch.bool) if dtype is torch.bool else raw.view(dtype)
    return value.reshape(shape).transpose(0, -1) if len(shape) > 1 and draw(st.booleans()) else value.reshape(shape)


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.binary(max_size=20), tensors(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)  # fmt: skip
STATES = st.dictionaries(
    KEYS,
    st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)),
    max_size=5,
)


def same(left: StateValue, right: StateValue) -> bool:
    """Compare with types, NaN patterns and signs of zero."""
    if type(left) is not type(right):
        return False
    if isinstance(left, Tensor):
        assert isinstance(right, Tensor)
        bits = left.contiguous().numpy().tobytes() == right.contiguous().numpy().tobytes()
        return left.dtype == right.dtype and left.shape == right.shape and bits
    if isinstance(left, dict):
        assert isinstance(right, dict)
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        assert isinstance(right, list)
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        assert isinstance(right, float)
        return repr(left) == repr(right)
    return left == right


@settings(max_examples=150, deadline=None)
@given(state=STATES)
def test_encoding_loses_nothing(state: dict[str, StateValue]) -> None:
    tree, named = encode_state(state)
    assert same(decode_state(tree, named), state)


@settings(max_examples=60, deadline=None)
@given(state=STATES)
def test_the_disk_loses_nothing(state: dict[str, StateValue]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ManifestCheckpoint(Path(folder)).save(state)
        loaded = ManifestCheckpoint(Path(folder)).load()
        assert loaded is not None
        assert same(loaded, state)


@settings(max_examples=150, deadline=None)
@given(left=STATES, right=STATES)
def test_different_states_never_look_alike(left: dict[str, StateValue], right: dict[str, StateValue]) -> None:
    encoded = [encode_state(state) for state in (left, right)]
    trees_alike = encoded[0][0] == encoded[1][0] and repr(encoded[0][0]) == repr(encoded[1][0])
    tensors_alike = same(dict(encoded[0][1]), dict(encoded[1][1]))
    assert (trees_alike and tensors_alike) == same(left, right)
