"""Equal or not, and where not: deep comparison of states, changes, batches and events, with the path of the difference.

Two runs that should be the same (stopped and resumed, cached and uncached, native and reference) are compared bit for
bit unless a tolerance is given. NaN equals NaN: a number that is missing in both is no difference.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from headrace.types import Events


@dataclasses.dataclass(frozen=True, slots=True)
class Tolerance:
    """How far floating-point numbers may be apart: `|a - b| <= absolute + relative * |b|`. The default: not at all."""

    absolute: float = 0.0
    relative: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether bits are compared."""
        return self.absolute == 0 and self.relative == 0

    def close(self, one: float, other: float) -> bool:
        """Return whether two numbers are close enough."""
        if math.isnan(one) and math.isnan(other):
            return True
        if self.exact:
            return one == other and math.copysign(1.0, one) == math.copysign(1.0, other)
        if one == other or math.isinf(one) or math.isinf(other):
            return one == other
        return abs(one - other) <= self.absolute + self.relative * abs(other)


EXACT = Tolerance()


def first_difference(one: object, other: object, tolerance: Tolerance = EXACT, path: str = "") -> str | None:
    """Return where and how two values differ, or None when they do not.

    Values are nested mappings, sequences, dataclasses (`Change`, `RowChange`, `Batch`, `Loss`, ...), `Events`,
    tensors, arrays and plain values. A mapping's order does not matter. Types and shapes have to agree.

    Cost: one pass over the data.

    Example:
        >>> first_difference({"a": [1, 2.5]}, {"a": [1, 2.75]})
        'a[1]: 2.5 and 2.75'
        >>> first_difference({"a": [1, 2.5]}, {"a": [1, 2.75]}, Tolerance(absolute=0.5)) is None
        True
    """
    where = path or "value"
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return _tensors(one, other, tolerance, where)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return _tensors(torch.from_numpy(np.array(one)), torch.from_numpy(np.array(other)), tolerance, where)
    if isinstance(one, Events) and isinstance(other, Events):
        return _events(one, other, tolerance, where)
    if type(one) is not type(other) and not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        return f"{where}: a {type(one).__name__} and a {type(other).__name__}"
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return _mappings(one, other, tolerance, path)
    if dataclasses.is_dataclass(one) and not isinstance(one, type):
        return _mappings(_fields(one), _fields(other), tolerance, path)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return _sequences(one, other, tolerance, path)
    if isinstance(one, float) and isinstance(other, float):
        return None if tolerance.close(one, other) else f"{where}: {one!r} and {other!r}"
    return None if one == other else f"{where}: {_short(one)} and {_short(other)}"


def assert_same_state(one: object, other: object, *, absolute: float = 0.0, relative: float = 0.0) -> None:
    """Raise AssertionError with the path of the first difference, unless two states are the same.

    Args:
        one: A state, change, batch or anything `first_difference` takes.
        other: The one to compare with.
        absolute: Tolerance for floating-point numbers; 0 with `relative` 0 compares bits.
        relative: Tolerance relative to `other`.
    """
    difference = first_difference(one, other, Tolerance(absolute, relative))
    if difference is not None:
        raise AssertionError(f"The states differ at {difference}")


def assert_same_trajectory(
    one: Sequence[object], other: Sequence[object], *, absolute: float = 0.0, relative: float = 0.0
) -> None:
    """Raise AssertionError naming the first step at which two runs part, unless they are the same all along.

    Args:
        one: What one run was at each step: losses, states or changes.
        other: The same of the other run.
        absolute: As in `assert_same_state`.
        relative: As in `assert_same_state`.
    """
    tolerance = Tolerance(absolute, relative)
    for step, (left, right) in enumerate(zip(one, other, strict=False)):
        difference = first_difference(left, right, tolerance)
        if difference is not None:
            raise AssertionError(f"The runs part at step {step}: {difference}")
    if len(one) != len(other):
        raise AssertionError(f"The runs have {len(one)} and {len(other)} steps; they are the same as far as both go")


def _fields(value: object) -> dict[str, object]:
    assert dataclasses.is_dataclass(value)
    return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}


def _mappings(
    one: Mapping[object, object] | Mapping[str, object],
    other: Mapping[object, object] | Mapping[str, object],
    tolerance: Tolerance,
    path: str,
) -> str | None:
    left, right = {str(key): value for key, value in one.items()}, {str(key): value for key, value in other.items()}
    for key in sorted(left.keys() | right.keys()):
        inner = f"{path}.{key}" if path else key
        if key not in left or key not in right:
            return f"{inner}: only in the {'first' if key in left else 'second'}"
        found = first_difference(left[key], right[key], tolerance, inner)
        if found is not None:
            return found
    return None


def _sequences(one: Sequence[object], other: Sequence[object], tolerance: Tolerance, path: str) -> str | None:
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        found = first_difference(left, right, tolerance, f"{path}[{index}]")
        if found is not None:
            return found
    return None if len(one) == len(other) else f"{path or 'value'}: {len(one)} and {len(other)} entries"


def _tensors(one: Tensor, other: Tensor, tolerance: Tolerance, where: str) -> str | None:
    if one.dtype != other.dtype or one.shape != other.shape:
        kinds = [f"{tensor.dtype} {tuple(tensor.shape)}".removeprefix("torch.") for tensor in (one, other)]
        return f"{where}: {kinds[0]} and {kinds[1]}"
    left, right = one.detach().cpu(), other.detach().cpu()
    if not left.is_floating_point():
        unequal = left != right
    elif tolerance.exact:
        unequal = ~((left == right) & (left.signbit() == right.signbit()) | (left.isnan() & right.isnan()))
    else:
        unequal = ~torch.isclose(left, right, rtol=tolerance.relative, atol=tolerance.absolute, equal_nan=True)
    count = int(unequal.sum())
    if not count:
        return None
    index = tuple(int(i) for i in unequal.nonzero()[0])
    place = f"{where}[{', '.join(map(str, index))}]" if index else where
    more = f" ({count} of {left.numel()} elements differ)" if left.numel() > 1 else ""
    return f"{place}: {left[index].item()!r} and {right[index].item()!r}{more}"


def _events(one: Events, other: Events, tolerance: Tolerance, where: str) -> str | None:
    if one.batch.schema.remove_metadata() != other.batch.schema.remove_metadata():
        missing = sorted(set(one.names) ^ set(other.names))
        return f"{where}: other columns ({missing})" if missing else f"{where}: columns of another order or type"
    if len(one) != len(other):
        return f"{where}: {len(one)} and {len(other)} rows"
    for name in one.names:
        left, right = one.column(name), other.column(name)
        if tolerance.exact and not pa.types.is_floating(left.type) and left.equals(right):
            continue
        found = first_difference(left.to_pylist(), right.to_pylist(), tolerance, f"{where}.{name}")
        if found is not None:
            return found
    return None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
