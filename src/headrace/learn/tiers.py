"""How often the tables of a learner find their rows in memory, step by step, where cold rows lie in a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from headrace.protocols import Table
from headrace.store import TierStats
from headrace.store.cache import TieredTable

PART = "hot/"
"""Before the name of a table in `Loss.parts`."""


def tables_on_disk(tables: Mapping[str, Table]) -> dict[str, TieredTable]:
    """Return the tables whose cold rows lie in a file (`Storage(disk=...)`)."""
    found: dict[str, TieredTable] = {}
    for name, table in tables.items():
        storage = getattr(getattr(table, "config", None), "storage", None)
        if getattr(storage, "disk", None) is not None and hasattr(table, "tier"):
            found[name] = cast(TieredTable, table)
    return found


def tiers_of(tables: Mapping[str, TieredTable]) -> dict[str, TierStats]:
    """Return the present numbers of the tables that have any."""
    present = {name: table.tier() for name, table in tables.items()}
    return {name: tier for name, tier in present.items() if tier is not None}


def hot_shares(before: Mapping[str, TierStats], after: Mapping[str, TierStats]) -> dict[str, float]:
    """Return the share of learned rows that were in memory between two counts as `hot/<table>`; 1 where none learned.

    Example:
        >>> first, then = TierStats(1, 1, 0, 0, 10, 10, 0), TierStats(1, 1, 0, 0, 40, 20, 0)
        >>> hot_shares({"item": first}, {"item": then})
        {'hot/item': 0.75}
    """
    shares = {}
    for name, end in after.items():
        hits, misses = end.hits - before[name].hits, end.misses - before[name].misses
        shares[PART + name] = hits / (hits + misses) if hits + misses > 0 else 1.0
    return shares
