"""PICASSO's optimisations, measured: packing, interleaving and caching, each on and off, with what does not pay.

Protocol R5. `card.md` says what the paper claims, what the settings are and what came out.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from headrace.evaluate import ClaimRecord, ClaimTable, Goal, Plot, mean_over_seeds, run_size
from headrace.evaluate.claims import Estimate, render_tables
from headrace.papers.picasso.arms import gain, operators, ready_step, seconds, table_calls, torch_step
from headrace.papers.picasso.recipe import Work
from headrace.papers.picasso.stream import Streamed, in_turns, reading_s, write
from headrace.papers.picasso.tiers import Tried, tried

_log = logging.getLogger(__name__)

SEEDS = (0, 1, 2)
FIELDS = (26, 100, 200, 400)
DIMS = (8, 16, 32)
BATCHES = (128, 512, 2048)
BASE_DIM, BASE_BATCH = 16, 512
SHARES = (0.0, 0.01, 0.05, 0.2)
WAYS: dict[str, tuple[int | None, int]] = {
    "one after the other": (0, 1),
    "read ahead": (None, 1),
    "read ahead, 2 micro-batches": (None, 2),
    "read ahead, 4 micro-batches": (None, 4),
}
"""Ways of running a step: batches read ahead (None: chosen while it runs), and micro-batches."""


def run(size: str) -> dict[str, object]:
    """Measure at one size and return the result object, with its tables.

    Raises:
        ConfigError: For a size that this paper does not have.
    """
    return run_size(size, {"toy": toy, "small": small})


def render(result: Mapping[str, object]) -> str:
    """Return the tables as text."""
    return render_tables(result)


def toy(record: ClaimRecord) -> dict[str, object]:
    """Each of the three with one small cell, in seconds."""
    cells = [Work(fields=fields, batch_rows=64, rows=500, batches=2) for fields in (8, 64)]
    packing(record, cells, rounds=2)
    interleaving(record, Work(fields=8, batch_rows=64, rows=500, batches=8), steps=8, rounds=2)
    tiered = Work(fields=2, batch_rows=512, rows=20_000, batches=8)
    caching(record, [tiered], shares=(0.0, 0.2), rounds=2, goals=False)
    return {"seeds": list(SEEDS)}


def small(record: ClaimRecord) -> dict[str, object]:
    """The grid of R5."""
    cells = [Work(fields=fields, dim=dim, batch_rows=BASE_BATCH) for fields in FIELDS for dim in DIMS]
    cells += [Work(fields=fields, dim=BASE_DIM, batch_rows=rows)
              for rows in BATCHES if rows != BASE_BATCH for fields in FIELDS]  # fmt: skip
    packing(record, cells, rounds=3)
    interleaving(record, Work(fields=100, batch_rows=2048, batches=16), steps=6, rounds=4)
    tiers = [Work(fields=8, rows=200_000, batch_rows=2048, batches=8, skew=skew) for skew in (1.05, 0.0)]
    caching(record, tiers, shares=SHARES, rounds=3)
    return {"seeds": list(SEEDS), "fields": list(FIELDS), "dims": list(DIMS), "batches": list(BATCHES),
            "shares": list(SHARES)}  # fmt: skip


# Packing -------------------------------------------------------------------------------------------------------------


def packing(record: ClaimRecord, cells: Sequence[Work], *, rounds: int) -> None:
    """Every cell with its tables packed and not, beside torch's own embeddings and a network without tables."""
    rows, gains, differ = [], dict[tuple[int, int, int], Estimate](), 0.0
    for work in cells:
        found = [packed_and_not(work, seed, rounds) for seed in SEEDS]
        ratio, control = (mean_over_seeds([one[name] for one in found]) for name in ("gain", "control"))
        differ = max(differ, *(one["differ"] for one in found))
        gains[work.fields, work.dim, work.batch_rows] = ratio
        rows.append(packing_row(work, found, ratio, control))
        _log.info("packing, %d fields, dim %d, batch %d: %s, again %s", work.fields, work.dim, work.batch_rows,
                  ratio.text(2), control.text(2))  # fmt: skip
        base = work.dim == BASE_DIM and work.batch_rows == cells[0].batch_rows
        name = f"{work.fields}" if base else f"{work.fields}/dim_{work.dim}/batch_{work.batch_rows}"
        goal = Goal(">=", 1.0) if base and work.fields >= FIELDS[0] else None
        record.add(f"R5_packing/{name}", ratio, unit="times as fast", goal=goal)
        record.add(f"R5_packing_control/{name}", control, unit="times as fast")
    record.add("R5_packing_rows_differ", mean_over_seeds([differ]), unit="largest difference", goal=Goal("<=", 0.0))
    record.tables.append(ClaimTable(
        "R5. Packing: one call for all tables, or calls for every table",
        ("fields", "dim", "batch", "table calls", "packed", "torch ops", "examples/s", "packed", "gain", "spread",
         "again", "torch tables", "no tables"), tuple(rows),
        (f"{len(SEEDS)} seeds, {rounds} rounds each, a whole training step on one core, of CPU time. Gain: packed over",
         "not; again: packed over packed, the noise. Torch tables: an nn.Embedding a field with sparse gradients.",
         "No tables: the network alone. Rows after training are equal to the bit, packed and not."),
    ))  # fmt: skip
    record.plots.append(gain_plot(gains))


def packed_and_not(work: Work, seed: int, rounds: int) -> dict[str, float]:
    """Measure one cell with one seed."""
    work = replace(work, seed=seed)
    batches = work.content()
    packed, again, unpacked = work.learner(), work.learner(), work.learner(packed=False)
    steps = {"packed": packed.learn, "again": again.learn, "unpacked": unpacked.learn, "torch": torch_step(work),
             "ready": ready_step(work)}  # fmt: skip
    times = seconds(steps, batches, rounds)
    ids = torch.arange(work.rows)
    differ = max(float((packed.tables[name].lookup(ids) - unpacked.tables[name].lookup(ids)).abs().max())
                 for name in work.names)  # fmt: skip
    calls = {"calls": table_calls(unpacked, batches[0]), "packed_calls": table_calls(packed, batches[0])}
    rates = {f"{name}_rate": work.batch_rows / statistics.median(each) for name, each in times.items()}
    return {"gain": gain(times["unpacked"], times["packed"]), "control": gain(times["again"], times["packed"]),
            "differ": differ, "operators": operators(packed.learn, batches[0]), **calls, **rates}  # fmt: skip


def packing_row(
    work: Work, found: Sequence[Mapping[str, float]], ratio: Estimate, control: Estimate
) -> tuple[str, ...]:
    """Return a cell's row of the table."""

    def mean(name: str) -> str:
        return f"{statistics.mean(one[name] for one in found):,.0f}"

    return (str(work.fields), str(work.dim), f"{work.batch_rows:,}", mean("calls"), mean("packed_calls"),
            mean("operators"), mean("unpacked_rate"), mean("packed_rate"), f"{ratio.value:.2f}x", f"{ratio.spread:.2f}",
            f"{control.value:.2f}x", mean("torch_rate"), mean("ready_rate"))  # fmt: skip


def gain_plot(gains: Mapping[tuple[int, int, int], Estimate]) -> Plot:
    """Return the gain over the number of fields, a line per width and batch."""
    lines, bands = {}, {}
    for _, dim, rows in gains:
        own = sorted((fields, each) for (fields, *rest), each in gains.items() if rest == [dim, rows])
        name, xs = f"dim {dim}, batch {rows:,}", [fields for fields, _ in own]
        lines[name] = (xs, [each.value for _, each in own])
        bands[name] = ([each.low or each.value for _, each in own], [each.high or each.value for _, each in own])
    return Plot(title="What packing gains, a whole training step on one core", x_label="fields",
                y_label="times as fast", lines=lines, bands=bands, level=1.0, log_x=True)  # fmt: skip


# Interleaving --------------------------------------------------------------------------------------------------------


def interleaving(record: ClaimRecord, work: Work, *, steps: int, rounds: int) -> None:
    """One cell from a file: reading ahead or not, micro-batches or not; all learn the same batches in one order."""
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    gains: dict[str, list[float]] = {way: [] for way in WAYS}
    differ, reading = dict.fromkeys(WAYS, 0.0), []
    for seed in SEEDS:
        own = replace(work, seed=seed)
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            path = Path(folder, "rows.parquet")
            write(own, path)
            arms = {way: Streamed.over(own, path, stack, depth=depth, micro_batches=slices)
                    for way, (depth, slices) in WAYS.items()}  # fmt: skip
            times = in_turns(arms, steps, rounds)
            reading.append(reading_s(own, path, steps))
            plain = next(iter(arms))
            for way, arm in arms.items():
                rates[way].append(own.batch_rows / statistics.median(times[way]))
                gains[way].append(gain(times[plain], times[way]))
                differ[way] = max(differ[way], rows_apart(own, arm, arms[plain]))
        _log.info("interleaving, seed %d: %s", seed, {way: each[-1] for way, each in gains.items()})
    for place, way in enumerate(WAYS):
        if place:
            name = "read_ahead" if place == 1 else f"micro_batches_{WAYS[way][1]}"
            record.add(f"R5_interleaving/{name}", mean_over_seeds(gains[way]), unit="times as fast")
    exact, rounded = differ["read ahead"], max(differ.values())
    record.add("R5_read_ahead_rows_differ", mean_over_seeds([exact]), unit="largest difference", goal=Goal("<=", 0.0))
    record.add("R5_micro_batches_rows_differ", mean_over_seeds([rounded]), unit="largest difference",
               goal=Goal("<=", 1e-4))  # fmt: skip
    read = statistics.mean(reading)
    record.tables.append(ClaimTable(
        f"R5. Interleaving: {work.fields} fields, dim {work.dim}, batch {work.batch_rows:,}, from a file",
        ("way", "examples/s", "gain", "spread", "rows differ by"),
        tuple((way, f"{statistics.mean(rates[way]):,.0f}", f"{each.value:.2f}x", f"{each.spread:.2f}",
               f"{differ[way]:.1e}") for way in WAYS if (each := mean_over_seeds(gains[way]))),
        (f"{len(SEEDS)} seeds, {rounds} rounds each, of wall time, all threads on as many cores as there are.",
         f"Reading alone takes {1e3 * read:.1f} ms a batch, {work.batch_rows / read:,.0f} examples/s."),
    ))  # fmt: skip


def rows_apart(work: Work, one: Streamed, other: Streamed) -> float:
    """Return the largest difference between the rows of two learners."""
    ids = torch.arange(work.rows)
    return max(float((one.learner.tables[name].lookup(ids) - other.learner.tables[name].lookup(ids)).abs().max())
               for name in work.names)  # fmt: skip


# Caching -------------------------------------------------------------------------------------------------------------


def caching(
    record: ClaimRecord, cells: Sequence[Work], *, shares: Sequence[float], rounds: int, goals: bool = True
) -> None:
    """A share of the rows in memory and the others in a file; the first cell has goals, the others are controls."""
    rows, lines, differ = [], {}, 0.0
    for work in cells:
        base, law = work is cells[0], f"Zipf {work.skew}" if work.skew else "uniform"
        seen = [tiers_tried(work, seed, shares, rounds) for seed in SEEDS]
        differ = max(differ, *(one.differ for one in seen))
        for share in shares:
            name = f"{share:.0%}".rstrip("%") + ("" if base else "/uniform")
            record.add(f"R5_hit_rate/{name}", mean_over_seeds([one.hits[share] for one in seen]), unit="share")
            if share:
                goal = Goal(">=", 1.0) if goals and base else None
                disk, paged = (mean_over_seeds(tier_gains(seen, kind, share)) for kind in ("disk", "paged"))
                record.add(f"R5_caching/{name}", disk, unit="times as fast", goal=goal)
                record.add(f"R5_caching_paged/{name}", paged, unit="times as fast")
        rows += [caching_row(work, law, share, seen) for share in (*shares, None)]
        lines[law] = ([100 * share for share in shares],
                      [statistics.mean(tier_gains(seen, "disk", share)) for share in shares])  # fmt: skip
    record.add("R5_caching_rows_differ", mean_over_seeds([differ]), unit="largest difference", goal=Goal("<=", 0.0))
    record.tables.append(ClaimTable(
        f"R5. Caching: {cells[0].fields} fields of {cells[0].rows:,} ids, dim {cells[0].dim}, batch "
        f"{cells[0].batch_rows:,}, examples/s",
        ("ids", "rows in memory", "hit rate", "page cache", "gain", "spread", "from disk", "gain", "spread"),
        tuple(rows),
        (f"{len(SEEDS)} seeds, {rounds} rounds each, of wall time. Gain: over the smallest memory that a table takes",
         "(0 %). Page cache: the system caches the file itself. From disk: it had to give that back before each step.",
         "Hit rate: share of a step's distinct rows that were in memory. Uniform ids are the control."),
    ))  # fmt: skip
    record.plots.append(Plot(title="What rows in memory gain, cold rows read from disk", x_label="rows in memory, %",
                             y_label="times as fast as none", lines=lines, level=1.0))  # fmt: skip


def tiers_tried(work: Work, seed: int, shares: Sequence[float], rounds: int) -> Tried:
    """Measure one cell of the caching with one seed."""
    with tempfile.TemporaryDirectory() as folder:
        found = tried(replace(work, seed=seed), (None, *shares), Path(folder), rounds, disk_steps=2)
    _log.info("caching, skew %s, seed %d: hits %s, from disk %s", work.skew, seed, found.hits,
              {share: gain(found.disk[0.0], found.disk[share]) for share in shares})  # fmt: skip
    return found


def tier_gains(seen: Sequence[Tried], kind: str, share: float | None) -> list[float]:
    """Return how many times as fast as with a share of 0 % it was, by seed."""
    times = [getattr(one, kind) for one in seen]
    return [gain(each[0.0], each[share]) for each in times]


def caching_row(work: Work, law: str, share: float | None, seen: Sequence[Tried]) -> tuple[str, ...]:
    """Return a share's row of the table."""
    cells = []
    for kind in ("paged", "disk"):
        rate = statistics.mean(work.batch_rows / statistics.median(getattr(one, kind)[share]) for one in seen)
        ratio = mean_over_seeds(tier_gains(seen, kind, share))
        cells += [f"{rate:,.0f}", f"{ratio.value:.2f}x", f"{ratio.spread:.2f}"]
    hits = statistics.mean(one.hits[share] for one in seen)
    return (law, "all, no file" if share is None else f"{share:.0%}", f"{hits:.1%}", *cells)
