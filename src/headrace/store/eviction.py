"""Expiry: rows that no event has touched for `ttl_s` seconds of event time are removed, and their counts forgotten.

A table's `evict(before)` scans all its rows, so it should run now and then, not at every step. `Expiry` says when, as
a function of event times alone: a replay of the same stream removes the same rows at the same places.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from headrace.config import require
from headrace.errors import CorruptSnapshot
from headrace.store.table_config import TableConfig
from headrace.types import State

CHECKS_PER_TTL = 20
"""Expiry runs this often per time to live, so a row outlives its time by at most 5 %."""


class Expiring(Protocol):
    """What expiry needs of a table."""

    @property
    def config(self) -> TableConfig:
        """What the table is made of."""
        ...

    def evict(self, before: int) -> int:
        """Remove what was last touched before event time `before` (µs)."""
        ...


class Expiry:
    """Evicts expired rows as event time goes on; `advance` is cheap when nothing is due.

    Event time is cut into a fixed grid of `ttl_s / 20` per table; whenever the newest time enters another cell of
    the grid, the table drops what is older than its time to live. Time that goes backwards does nothing.

    Args:
        tables: Tables by name; those without `ttl_s` never expire.

    Raises:
        ConfigError: If a table has a `ttl_s` and keeps no event times.

    Example:
        >>> from headrace.store import ReferenceTable, TableConfig
        >>> table = ReferenceTable(TableConfig(name="user", dim=2, ttl_s=3600.0))
        >>> Expiry({"user": table}).advance(1_700_000_000_000_000)
        0
    """

    def __init__(self, tables: Mapping[str, Expiring]) -> None:
        self._tables = {name: table for name, table in sorted(tables.items()) if table.config.ttl_s is not None}
        for table in self._tables.values():
            _require_times(table)
        self._cells: dict[str, int] = {}

    def advance(self, newest: int) -> int:
        """Take notice that event time has reached `newest` (µs), and evict where that is due.

        Returns:
            Rows removed from all tables.
        """
        removed = 0
        for name, table in self._tables.items():
            ttl = table.config.ttl_us
            assert ttl is not None
            cell = newest // max(ttl // CHECKS_PER_TTL, 1)
            if cell > self._cells.get(name, cell):
                removed += table.evict(newest - ttl)
            self._cells[name] = max(cell, self._cells.get(name, cell))
        return removed

    def state(self) -> State:
        """Return where on the grid each table stands."""
        return {"cells": dict(self._cells)}

    def restore(self, state: State) -> None:
        """Continue from `state`.

        Raises:
            CorruptSnapshot: If it is not a state of an expiry.
        """
        cells = state.get("cells")
        if not isinstance(cells, dict) or not all(isinstance(cell, int) for cell in cells.values()):
            raise CorruptSnapshot("State of the expiry", got=repr(cells)[:80], expected="table names to integers")
        self._cells = {name: int(cell) for name, cell in cells.items() if isinstance(cell, int)}


def expire(table: Expiring, now: int) -> int:
    """Evict from one table what is older than its `ttl_s` at event time `now` (µs); return rows removed.

    Raises:
        ConfigError: If the table has no `ttl_s`, or keeps no event times.
    """
    ttl = table.config.ttl_us
    require(ttl is not None, f"Table '{table.config.name}', ttl_s", got=None, expected="seconds",
            do="Give TableConfig a ttl_s.")  # fmt: skip
    assert ttl is not None
    _require_times(table)
    return table.evict(now - ttl)


def _require_times(table: Expiring) -> None:
    require(table.config.storage.event_times, f"Table '{table.config.name}', storage", got="event_times=False",
            expected="event_times=True, because rows expire by them")  # fmt: skip
