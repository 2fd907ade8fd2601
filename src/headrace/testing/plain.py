"""What states may consist of, and copies of them: shared by the checks."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from headrace.types import Batch, State, StateValue


def not_plain(value: object, path: str = "state") -> str | None:
    """Return the path of the first thing in a state that is not a plain value, bytes, tensor, list or dict; else None.

    Example:
        >>> not_plain({"a": [1, object()]})
        "state.a[1]: an 'object'"
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                return f"{path}: the key {key!r} is not a string"
            found = not_plain(inner, f"{path}.{key}")
            if found is not None:
                return found
        return None if type(value) is dict else f"{path}: a '{type(value).__name__}'"
    if type(value) is list:
        found_parts = (not_plain(inner, f"{path}[{index}]") for index, inner in enumerate(value))
        return next((found for found in found_parts if found is not None), None)
    if isinstance(value, Tensor):
        return f"{path}: a tensor that asks for a gradient" if value.requires_grad else None
    if value is None or type(value) in (bool, int, float, str, bytes):
        return None
    return f"{path}: an '{type(value).__name__}'"


def copied(value: StateValue) -> StateValue:
    """Return a deep copy of a state's value."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: copied(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [copied(inner) for inner in value]
    return value


def copied_state(state: State) -> State:
    """Return a deep copy of a state."""
    return {key: copied(value) for key, value in state.items()}


def frozen_batch(batch: Batch) -> dict[str, object]:
    """Return a copy of everything in a batch."""
    ids = {name: (jagged.values.clone(), jagged.offsets.clone()) for name, jagged in batch.ids.items()}
    parts: dict[str, object] = {"ids": ids}
    for name in ("dense", "labels", "weights", "event_times", "accepted_times", "example_ids", "predictions",
                 "versions", "sample_rates"):  # fmt: skip
        parts[name] = getattr(batch, name).clone()
    return {**parts, "extra": {name: tensor.clone() for name, tensor in batch.extra.items()}}
