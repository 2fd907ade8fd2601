"""Figures of protocol R5 about packing."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from table_contenders.figures import Figures

from headrace.evaluate.claims import ClaimTable, Goal
from pipeline_contenders.cases import Entry, Plan
from pipeline_contenders.rounds import Bench
from pipeline_contenders.work import Case

DIM, BATCH = 16, 512
STEPS = 8


def packing(plan: Plan, figures: Figures, threads: int, say: Callable[[str], None]) -> None:
    """Measure whole steps of a factorization machine over many tables, packed and not."""
    rows = []
    for fields in plan.fields:
        say(f"packing, {fields} fields")
        told = {"fields": fields, "dim": DIM, "batch": BATCH}
        on, off = Entry("packed", "packing", told | {"packed": True}), Entry("not packed", "packing",
                                                                           told | {"packed": False})  # fmt: skip
        with tempfile.TemporaryDirectory() as name:
            Case(model="FM", sizes={}).write(Path(name))
            with Bench(Path(name), BATCH, threads) as bench:
                for number in range(plan.packing_rounds):
                    bench.round(number, [on, off], STEPS)
        found = bench.found
        gains = found.against(on.name, off.name)
        figures.add(f"packing/{fields}", gains, goal=Goal(">=", 1.0))
        calls = [str(found.facts[entry.name]["calls"]) for entry in (off, on)]
        rates = [f"{statistics.median(found.rates[entry.name]):,.0f}" for entry in (off, on)]
        rows.append((str(fields), *calls, *rates, f"{statistics.median(gains):.2f}x"))
    figures.tables.append(ClaimTable(
        f"Packing: a factorization machine, dim {DIM}, batch {BATCH}, 10,000 ids a field, Zipf 1.05",
        ("fields", "table calls a step", "packed", "examples/s", "packed", "gain"), tuple(rows),
        ("Other widths and batches: the paper folder picasso.",),
    ))  # fmt: skip
