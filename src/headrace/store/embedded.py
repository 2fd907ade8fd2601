"""What an embedding gives a model: rows by feature, and the rows of features that lie side by side as one tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


class Embedded(dict[str, Tensor]):
    """Rows by feature. A network that wants those of all its features as one tensor asks for `joint` first.

    Args:
        rows: Feature -> rows (B, D), or (L, D) where nothing is pooled.
        joints: Tensors (B, N, D) by the names of their N features, in order; they share memory with `rows`.
    """

    def __init__(self, rows: Mapping[str, Tensor], joints: Mapping[tuple[str, ...], Tensor]) -> None:
        super().__init__(rows)
        self._joints = joints

    def joint(self, features: Sequence[str]) -> Tensor | None:
        """Return the rows of exactly these features, in this order, as (B, N, D); None where they lie elsewhere."""
        return self._joints.get(tuple(features))


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Lookups whose outputs lie side by side in one array (B, N, D): pooled, and of one width.

    Attributes:
        features: Their names, in order.
        places: Their places among all lookups.
        dim: D.
    """

    features: tuple[str, ...]
    places: tuple[int, ...]
    dim: int


def side_by_side(lookups: Iterable[tuple[str, str]], dims: Sequence[int]) -> list[SideBySide]:
    """Return which lookups, (feature, pooling) each, lie side by side: all pooled ones of a width, where several are.

    Example:
        >>> [group.features for group in side_by_side([("a", "sum"), ("b", "none"), ("c", "mean")], [4, 4, 4])]
        [('a', 'c')]
    """
    groups: dict[int, list[tuple[str, int]]] = {}
    for place, (feature, pooling) in enumerate(lookups):
        if pooling != "none":
            groups.setdefault(dims[place], []).append((feature, place))
    return [
        SideBySide(tuple(name for name, _ in group), tuple(place for _, place in group), dim)
        for dim, group in groups.items() if len(group) > 1
    ]  # fmt: skip


def in_rows(grad: Tensor) -> Tensor:
    """Return a tensor (N, D) whose rows are in one piece each and apart from each other; mostly itself."""
    width = grad.shape[1]
    apart = (width <= 1 or grad.stride(1) == 1) and (len(grad) <= 1 or grad.stride(0) >= width)
    return grad if apart else grad.contiguous()
