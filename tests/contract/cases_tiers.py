"""Tables whose cold rows lie in a file: the contract of any table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from headrace.store import AdmitAll, AdmitCount, Disk, NativeTable, Storage, TableConfig, Zeros
from headrace.testing import Verdict, check_table


def tiered_tables() -> Iterator[tuple]:
    for name, admission, admit_at, untried in (("all", AdmitAll(), 1, (17,)), ("count", AdmitCount(4), 4, ())):

        def run(folder: Path, admission=admission, admit_at=admit_at) -> Verdict:
            storage = Storage(disk=Disk(folder=str(folder), memory_bytes=10**7))

            def make(**other):
                settings = {"name": "user", "dim": 5, "admission": admission, "seed": 3, "storage": storage, **other}
                return lambda: NativeTable(TableConfig(**settings), _hot_rows=3)

            others = [make(dim=6), make(seed=4), make(init=Zeros()), make(name="item")]
            return check_table(make(), others=others, admit_at=admit_at)

        yield ("Table", NativeTable, run, untried, f"tiers-{name}")


CASES = [tiered_tables]
