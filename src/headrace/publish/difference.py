"""All rows as what differs from those that are held, and rows in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from headrace.types import RowChange

PIECE_ROWS = 4096


@runtime_checkable
class Listed(Protocol):
    """A table that can list its rows; those of `headrace.store` can."""

    def rows(self) -> RowChange:
        """Return every row, ids ascending."""
        ...


def difference(wanted: Mapping[str, RowChange], tables: Mapping[str, object]) -> dict[str, RowChange] | None:
    """Return what has to be put and removed so that tables hold the wanted rows and no others.

    Args:
        wanted: All rows by table; a table that is not named is to be empty.
        tables: The tables as they stand; nobody writes to them meanwhile.

    Returns:
        The differences by table, or None if a table cannot list its rows.

    Cost: one copy of the rows of one table at a time, and a pass over both sides.
    """
    found: dict[str, RowChange] = {}
    for name, table in tables.items():
        if not isinstance(table, Listed):
            return None
        found[name] = _difference(wanted.get(name), table.rows())
    return found


def _difference(wanted: RowChange | None, held: RowChange) -> RowChange:
    if wanted is None or not len(wanted.ids):
        return RowChange(held.ids[:0], held.rows[:0], held.ids)
    places = torch.searchsorted(held.ids, wanted.ids)
    if len(held.ids):
        near = places.clamp(max=len(held.ids) - 1)
        equal = held.ids[near] == wanted.ids
        # by bits, so that -0.0 and 0.0 are told apart
        same = (held.rows[near].view(torch.int32) == wanted.rows.view(torch.int32)).all(dim=1)
        differs = ~(equal & same)
    else:
        differs = torch.ones(len(wanted.ids), dtype=torch.bool)
    return RowChange(wanted.ids[differs], wanted.rows[differs], held.ids[~_among(held.ids, wanted.ids)])


def _among(some: Tensor, ascending: Tensor) -> Tensor:
    return torch.from_numpy(np.isin(some.numpy(), ascending.numpy(), assume_unique=True))


def pieces(rows: RowChange | None, size: int = PIECE_ROWS) -> Iterator[RowChange]:
    """Yield a table's removals, then its puts, at most `size` at a time.

    Example:
        >>> one = RowChange(torch.arange(5), torch.zeros(5, 2), torch.tensor([9]))
        >>> [(len(piece.ids), len(piece.removed)) for piece in pieces(one, size=3)]
        [(0, 1), (3, 0), (2, 0)]
    """
    if rows is None:
        return
    for start in range(0, len(rows.removed), size):
        yield RowChange(rows.ids[:0], rows.rows[:0], rows.removed[start : start + size])
    for start in range(0, len(rows.ids), size):
        yield RowChange(rows.ids[start : start + size], rows.rows[start : start + size], rows.removed[:0])
