"""How often the clips of the tables fire, step by step: with a mean-reduced loss a published bound may never."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

from headrace.protocols import Table
from headrace.store import Clipping

PART = "clipped/"
"""Before the name of a table in `Loss.parts`."""


class ClippingTable(Protocol):
    """A table that counts what its clips do."""

    def clipping(self) -> Clipping:
        """Return the counts so far."""
        ...


def tables_that_clip(tables: Mapping[str, Table]) -> dict[str, ClippingTable]:
    """Return the tables of which a row transform is a clip (whatever does not say `clips = False`)."""
    found: dict[str, ClippingTable] = {}
    for name, table in tables.items():
        transforms = getattr(getattr(table, "config", None), "transforms", ())
        if any(getattr(transform, "clips", True) for transform in transforms) and hasattr(table, "clipping"):
            found[name] = cast(ClippingTable, table)
    return found


def clipped_shares(before: Mapping[str, Clipping], after: Mapping[str, Clipping]) -> dict[str, float]:
    """Return the share of rows clipped between two counts as `clipped/<table>`; 0 where no row learned.

    Example:
        >>> clipped_shares({"item": Clipping(10, 1)}, {"item": Clipping(30, 6)})
        {'clipped/item': 0.25}
    """
    shares = {}
    for name, end in after.items():
        learned = end.learned - before[name].learned
        shares[PART + name] = (end.clipped - before[name].clipped) / learned if learned else 0.0
    return shares
