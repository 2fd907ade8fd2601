"""States as a JSON tree and named tensors, and back: without pickle, and without two states ever looking alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from urllib.parse import quote

import torch
from torch import Tensor

from headrace.errors import CorruptSnapshot, StoreError
from headrace.types import State, StateValue

Tree = object
"""A plain JSON value in which containers, tensors, bytes and non-finite floats are objects with one tag each."""


def encode_state(state: State) -> tuple[Tree, dict[str, Tensor]]:
    """Split a state into a JSON tree and the tensors that it refers to.

    Every dict, list, tensor, bytes and non-finite float becomes an object with exactly one tag, so plain user data
    can never be taken for one. Tensors are named by their path, each step percent-encoded, so that no two paths
    give one name. Bytes become uint8 tensors.

    Raises:
        StoreError: If the state holds something that a state cannot hold; names the path.

    Example:
        >>> encode_state({"a": 1, "b": [b"x"]})
        ({'dict': {'a': 1, 'b': {'list': [{'bytes': '/b/0'}]}}}, {'/b/0': tensor([120], dtype=torch.uint8)})
    """
    tensors: dict[str, Tensor] = {}
    return _encode(state, "", tensors), tensors


def decode_state(tree: Tree, tensors: Mapping[str, Tensor]) -> State:
    """Put together what `encode_state` took apart.

    Raises:
        CorruptSnapshot: If the tree is not one that `encode_state` makes, or names a tensor that is not there.
    """
    state = _decode(tree, tensors)
    if not isinstance(state, dict):
        raise CorruptSnapshot("State", got=type(state).__name__, expected="a dict at the top")
    return state


def _encode(value: object, path: str, tensors: dict[str, Tensor]) -> Tree:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, bytes):
        tensors[path] = torch.frombuffer(bytearray(value), dtype=torch.uint8) if value else _NO_BYTES
        return {"bytes": path}
    if isinstance(value, list):
        return {"list": [_encode(item, f"{path}/{row}", tensors) for row, item in enumerate(value)]}
    if isinstance(value, dict):
        steps = {_text(key, path): f"{path}/{_step(key)}" for key in value}
        return {"dict": {key: _encode(value[key], step, tensors) for key, step in steps.items()}}
    raise StoreError(
        f"State {path or '/'}", got=f"a {type(value).__name__}",
        expected="None, bool, int, float, str, bytes, a tensor, or lists and dicts of them",
        do="A part's `state` must return plain values.",
    )  # fmt: skip


_NO_BYTES = torch.zeros(0, dtype=torch.uint8)


def _text(text: object, path: str) -> str:
    """Refuse keys that are no text, and halves of surrogate pairs: JSON would read two of them as one character."""
    if not isinstance(text, str):
        raise StoreError(f"State {path or '/'}", got=f"key {text!r}", expected="keys that are strings")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise StoreError(f"State {path or '/'}", got=repr(text), expected="text that is valid Unicode") from error
    return text


def _step(key: str) -> str:
    """Percent-encode one step of a path, so that no two paths give one name."""
    return quote(key, safe="")


def _decode(tree: Tree, tensors: Mapping[str, Tensor]) -> StateValue:
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    if isinstance(tree, dict) and len(tree) == 1:
        (tag, content), = tree.items()  # fmt: skip
        if tag == "dict" and isinstance(content, dict):
            return {key: _decode(item, tensors) for key, item in content.items()}
        if tag == "list" and isinstance(content, list):
            return [_decode(item, tensors) for item in content]
        if tag == "float" and content in ("nan", "inf", "-inf"):
            return float(content)
        if tag in ("tensor", "bytes") and content in tensors:
            tensor = tensors[content]
            return tensor if tag == "tensor" else tensor.numpy().tobytes()
    raise CorruptSnapshot("State", got=f"{str(tree)[:60]!r}", expected="a value written by this library")
