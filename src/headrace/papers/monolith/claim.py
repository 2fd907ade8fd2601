"""Monolith's claims, measured: online against frozen, collisionless against hashed, lost shards, cost of freshness.

Protocols R1 to R4 in one function each; `toy` plants a drift and looks whether online learning follows it. `card.md`
says what the paper claims, what the settings are and what came out.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import md5

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.config import tree
from headrace.data.datasets import criteo as criteo_data
from headrace.data.datasets import trivago as trivago_data
from headrace.data.files import sha256
from headrace.evaluate import ClaimRecord, ClaimTable, Goal, auc, mean_over_blocks, mean_over_seeds, run_size
from headrace.evaluate.claims import render_tables
from headrace.loop import EveryEventTime, Never
from headrace.online.config import OnlineConfig
from headrace.online.experiment import (
    Arm,
    EveryBlocks,
    ExampleLog,
    Rehearsal,
    block_gains,
    shuffled_requests,
    with_lost_shards,
)
from headrace.papers.monolith.recipe import criteo, examples, movielens, planted, planted_log, ratings, trivago
from headrace.publish.change import encode
from headrace.types import Events

_log = logging.getLogger(__name__)

SEEDS = (0, 1, 2, 3, 4)
FEW_SEEDS = SEEDS[:3]
"""For R2, the dearest part."""
CRITEO_ROWS = 80_000
SHARDS = (10, 50, 100)
LOGGED = ", logged position"
"""Scored with the position that each hotel had, which a server could not know, and not with the reference value."""
MODULI = (1_000, 3_000, 10_000, 30_000, 100_000)
PASSES = 2
"""Over the training ratings of the random split; one over those of the folds."""
SERVERS = 1000
DRAWS = {1: 20, 10: 10, 100: 5}
"""Lost servers to how often so many are drawn, per seed."""
INTERVALS_S = {"1 min": 60, "5 min": 300, "15 min": 900, "1 h": 3600, "6 h": 21_600}
SYNC_ROWS = 128
"""Rows between two looks at the clock in R4: about a minute of the trivago log."""

NOTES = {
    "R1": (
        f"{len(SEEDS)} seeds. Spread: sd of the paired difference over seed x shard blocks. AUCs: over all shards.",
        "Shuffled: the same rows in random order; there, learning on can only gain from having seen more.",
        "Paper (Criteo, 7 days, 45.8 M rows), in AUC: +0.0024 at N = 10, +0.0034 at 50, +0.0037 at 100.",
    ),
    "R2": (
        f"{len(FEW_SEEDS)} seeds. Cost: AUC without collisions minus AUC with them (95 %). AUC, pass 1, pass 2: a",
        "random fifth of the ratings held out. Folds: the published folds.",
        "Paper, Table 1 (MovieLens-25M, one hash): users 162,541 to 149,970 (7.73 % lost), movies 59,047 to 57,361",
        "(2.86 % lost). Figure 7: collisionless above hashed after each of 10 passes; the values are not tabulated.",
    ),
    "R3": (
        f"{len(SEEDS)} seeds. Measured on the quarter after the loss, before anything is learned again.",
        "Paper: 1000 servers that fail with 0.01 % a day lose a day's updates of 15,000 of 15 M users every ten days;",
        "with daily snapshots it saw nearly no loss. It gives no AUC.",
    ),
    "R4": (
        f"{len(SEEDS)} seeds. Rows, kB: of one version on average, with the whole dense part, as encoded for the log.",
        "Age (minutes): event time from the newest example in a version to a row that it scores.",
        "AUC served: position at its reference value; logged: as it was, and so the difference.",
        "Paper: rows every minute, dense part daily; 100,000 rows a minute of 1,024 floats are 400 MB a minute.",
    ),
}

Paired = tuple[tuple[float, float], npt.NDArray[np.float64]]


def run(size: str) -> dict[str, object]:
    """Measure at one size and return the result object of DESIGN §7, with its tables.

    Raises:
        ConfigError: For a size that this paper does not have.
        DataError: If a data file is missing; names it.
    """
    return run_size(size, {"toy": toy, "small": small})


def render(result: Mapping[str, object]) -> str:
    """Return the tables as text."""
    return render_tables(result)


# toy -----------------------------------------------------------------------------------------------------------------


def toy(record: ClaimRecord) -> dict[str, object]:
    """Planted drift: online follows, frozen does not, a minute beats an hour; without drift nobody gains."""
    rows, hours, block, start = 10_000, 10.0, 16, 7_000
    found: dict[tuple[bool, str], list[float]] = {}
    for drift, seed in itertools.product((True, False), FEW_SEEDS):
        config = planted(seed=seed, batch_rows=block)
        log = ExampleLog.from_events(planted_log(rows=rows, seed=seed, drift=drift, hours=hours), config.schema)
        intervals = {"minute": 60, "hour": 3600, "frozen": None}
        arms = {name: Arm(config, _every(seconds)) for name, seconds in intervals.items()}
        rehearsal = Rehearsal(config)
        rehearsal.learn(log, 0, start)
        stream = rehearsal.stream(log, [*range(start, rows, block), rows], arms)
        for name, scores in stream.scores.items():
            found.setdefault((drift, name), []).append(auc(log.labels[start:], scores))
    goals = {
        "online_minus_frozen_auc/planted": (True, "frozen", Goal(">=", 0.05)),
        "minute_minus_hour_auc/planted": (True, "hour", Goal(">=", 0.02)),
        "online_minus_frozen_auc/planted_without_drift": (False, "frozen", Goal("<=", 0.01)),
        "minute_minus_hour_auc/planted_without_drift": (False, "hour", Goal("<=", 0.01)),
    }
    for name, (drift, other, goal) in goals.items():
        gain = np.subtract(found[drift, "minute"], found[drift, other])
        record.add(name, mean_over_seeds(gain), unit="AUC", goal=goal)
    record.tables.append(ClaimTable(
        "Planted drift: AUC of the served version over the last 3 of 10 hours",
        ("appeal of items", "synced every minute", "every hour", "never (frozen)"),
        tuple((word, *(f"{np.mean(found[drift, arm]):.4f}" for arm in ("minute", "hour", "frozen")))
              for drift, word in ((True, "swings every 8 h"), (False, "stays"))),
        (f"{len(FEW_SEEDS)} seeds, {rows} examples, in order; every arm begins with what was learned in 7 hours.",),
    ))  # fmt: skip
    return {"seeds": list(FEW_SEEDS), "rows": rows, "hours": hours}


def small(record: ClaimRecord) -> dict[str, object]:
    """R1 to R4 on real data."""
    recorded = {"criteo": criteo_data.load(rows=CRITEO_ROWS), "trivago": trivago_data.load()}
    logs, (rated, path) = {name: examples(log) for name, log in recorded.items()}, ratings()
    online_against_frozen(record, logs)
    collisions(record, rated)
    lost_servers(record, logs["criteo"])
    sync_budget(record, logs["trivago"])
    return {
        "seeds": list(SEEDS), "seeds_r2": list(FEW_SEEDS),
        "rows": {name: len(events) for name, events in (*logs.items(), ("movielens", rated))},
        "files": {name: sha256(log.path) for name, log in recorded.items()} | {"movielens": sha256(path)},
        "recipes": {config.name: {"rule": tree(config.tables.rule), "tables": config.schema.tables,
                                  "batch_rows": config.batch_rows, "dense_lr": config.dense_lr}
                    for config in (criteo(), trivago(), movielens())},
        "shards": list(SHARDS), "moduli": list(MODULI), "passes": PASSES, "servers": SERVERS,
        "intervals_s": dict(INTERVALS_S), "sync_rows": SYNC_ROWS,
    }  # fmt: skip


# R1: Algorithm 1 of the paper ----------------------------------------------------------------------------------------


def online_against_frozen(record: ClaimRecord, logs: Mapping[str, Events]) -> None:
    """Train on 5/7 of a log and serve the rest: learning after each of N shards, against the weights left alone."""
    cells: list[tuple[str, ...]] = []
    reached: list[float] = []
    for name, recipe in (("criteo", criteo), ("trivago", trivago)):
        cases = [(name, recipe, logs[name]), (f"{name}, shuffled", recipe, shuffled_requests(logs[name], seed=0))]
        if name == "trivago":
            cases.append(("trivago, history features", partial(trivago, history=True), logs[name]))
        measured: dict[tuple[str, int], Paired] = {}
        for case, builder, events in cases:
            views = {case: False, case + LOGGED: True} if name == "trivago" else {case: False}
            measured |= _algorithm_1(builder, events, views)
        for (view, shards), (levels, blocks) in measured.items():
            found = mean_over_blocks(blocks)
            cells.append((view, str(shards), *(f"{level:.4f}" for level in levels), found.text(),
                          f"{found.spread:.4f}", f"{found.errors_above_zero:+.1f}"))  # fmt: skip
            if shards == SHARDS[-1]:
                goal = Goal(">=", 0.0) if view == name else None
                record.add(f"online_minus_frozen_auc/{_slug(view)}", found, unit="AUC", goal=goal)
        reached.append(min(mean_over_blocks(measured[name, n][1]).errors_above_zero for n in SHARDS))
    record.add("online_minus_frozen_standard_errors/better_log", mean_over_seeds([max(reached)]),
               unit="standard errors", goal=Goal(">=", 2.0))  # fmt: skip
    record.tables.append(ClaimTable(
        "R1. Online minus frozen on the last 2/7 of a log, learning on after each of N shards",
        ("log", "N", "online AUC", "frozen AUC", "difference (95 %)", "spread", "in errors"), tuple(cells),
        NOTES["R1"],
    ))  # fmt: skip


def _algorithm_1(
    recipe: Callable[..., OnlineConfig], events: Events, views: Mapping[str, bool]
) -> dict[tuple[str, int], Paired]:
    """Return, per (view, N): the mean AUC online and frozen, and the paired differences (seeds, N)."""
    log = ExampleLog.from_events(events, recipe().schema)
    start = int(log.starts[len(log) * 5 // 7])
    edges = log.edges(start, len(log), SHARDS[-1])
    labels = log.labels[start:]
    levels: dict[tuple[str, int], list[tuple[float, float]]] = {}
    blocks: dict[tuple[str, int], list[list[float]]] = {}
    for seed in SEEDS:
        config = recipe(seed=seed)
        arms = {(view, n): Arm(config, EveryBlocks(SHARDS[-1] // n) if n else Never(), logged=logged)
                for view, logged in views.items() for n in (0, *SHARDS)}  # fmt: skip
        rehearsal = Rehearsal(config)
        rehearsal.learn(log, 0, start)
        stream = rehearsal.stream(log, edges, {f"{view}/{n}": arm for (view, n), arm in arms.items()})
        for view, n in itertools.product(views, SHARDS):
            online, frozen = stream.scores[f"{view}/{n}"], stream.scores[f"{view}/0"]
            cuts = [edge - start for edge in edges[:: SHARDS[-1] // n]]
            levels.setdefault((view, n), []).append((auc(labels, online), auc(labels, frozen)))
            blocks.setdefault((view, n), []).append(block_gains(labels, online, frozen, cuts))
        _log.info("R1 %s, seed %d: %s", config.name, seed, {key: value[-1] for key, value in levels.items()})
    return {key: (tuple(np.mean(levels[key], axis=0)), np.asarray(found)) for key, found in blocks.items()}


# R2: what collisions cost --------------------------------------------------------------------------------------------


def collisions(record: ClaimRecord, rated: Events) -> None:
    """Learn ratings of 4 and 5 against the rest with every id in a row of its own, and with md5(id) % modulus."""
    found: dict[tuple[str, int], list[float]] = {}
    left: dict[int, tuple[int, int]] = {}
    for modulus in (0, *MODULI):
        events, left[modulus] = _hashed(rated, modulus)
        for seed in FEW_SEEDS:
            for split, passes in (("random", PASSES), ("folds", 1)):
                for number, reached in enumerate(_split_auc(events, split, seed, passes), start=1):
                    found.setdefault((f"{split} {number}", modulus), []).append(reached)
        _log.info("R2 modulus %d: %s", modulus, {key: value for key, value in found.items() if key[1] == modulus})
    columns = ["random 1", f"random {PASSES}", "folds 1"]
    cells = []
    for modulus in (*MODULI, 0):
        cost = [mean_over_seeds(np.subtract(found[name, 0], found[name, modulus])) for name in columns]
        if modulus:
            record.add(f"collisionless_minus_hashed_auc/{modulus}", cost[1], unit="AUC", goal=Goal(">=", 0.0))
        cells.append((
            f"{modulus:,}" if modulus else "none", *map(_collided, left[0], left[modulus]),
            f"{np.mean(found[columns[1], modulus]):.4f}", *(each.text() if modulus else "" for each in cost),
        ))  # fmt: skip
    record.tables.append(ClaimTable(
        "R2. What it costs in test AUC to hash the ids of MovieLens-1M (rating >= 3.5) to md5(id) % modulus",
        ("modulus", "users left", "movies left", "AUC", "cost, pass 1", f"pass {PASSES}", "folds, pass 1"),
        tuple(cells), NOTES["R2"],
    ))  # fmt: skip


def _hashed(rated: Events, modulus: int) -> tuple[Events, tuple[int, int]]:
    """Return the ratings with hashed ids (0: as they are), and how many different users and movies are left."""
    columns, left = {}, []
    for name in ("user_id", "item"):
        encoded = rated.column(name).dictionary_encode()
        buckets = [int(md5(str(one).encode(), usedforsecurity=False).hexdigest(), 16) % modulus if modulus else place
                   for place, one in enumerate(encoded.dictionary.to_pylist())]  # fmt: skip
        left.append(len(set(buckets)))
        columns[name] = pa.array(np.asarray(buckets, np.int64)[encoded.indices.to_numpy()])
    return rated.with_columns(columns), (left[0], left[1])


def _split_auc(events: Events, split: str, seed: int, passes: int) -> list[float]:
    """Return the test AUC after each pass over the training rows, each in another order."""
    draw = np.random.default_rng(seed)
    if split == "random":
        test = draw.permutation(len(events)) < len(events) // 5
    else:
        test = events.column("fold").to_numpy() == seed + 1
    config, reached = movielens(seed=seed), []
    rehearsal, train = Rehearsal(config), np.flatnonzero(~test)
    held = ExampleLog.from_events(events.take(np.flatnonzero(test)), config.schema)
    for _ in range(passes):
        log = ExampleLog.from_events(events.take(draw.permutation(train)), config.schema)
        rehearsal.learn(log, 0, len(log))
        reached.append(auc(held.labels, rehearsal.score(held.served)))
    return reached


def _collided(before: int, after: int) -> str:
    return f"{after:,} ({100 * (before - after) / before:.2f} % lost)" if after < before else f"{after:,}"


# R3: losing parameter servers ----------------------------------------------------------------------------------------


def lost_servers(record: ClaimRecord, events: Events) -> None:
    """Learn half of a log, take a snapshot, learn a quarter, lose servers; the last quarter tells the loss."""
    log = ExampleLog.from_events(events, criteo().schema)
    quarter, losses = len(log) // 4, dict[str, list[list[float]]]()
    for seed in SEEDS:
        rehearsal, draw = Rehearsal(criteo(seed=seed)), np.random.default_rng(seed)
        rehearsal.learn(log, 0, 2 * quarter)
        then = rehearsal.moment()
        rehearsal.learn(log, 2 * quarter, 3 * quarter)
        now = rehearsal.moment()
        cases = {str(count): [(draw.choice(SERVERS, count, replace=False), now.dense) for _ in range(draws)]
                 for count, draws in DRAWS.items()}  # fmt: skip
        cases |= {"dense part": [(np.arange(0), then.dense)], "all tables": [(np.arange(SERVERS), now.dense)],
                  "everything": [(np.arange(SERVERS), then.dense)]}  # fmt: skip
        test, labels = log.served.slice(3 * quarter, len(log)), log.labels[3 * quarter :]
        whole = auc(labels, rehearsal.score(test))
        for name, drawn in cases.items():
            losses.setdefault(name, []).append([])
            for lost, dense in drawn:
                tables = {table: with_lost_shards(state, then.tables[table], lost.tolist(), SERVERS)
                          for table, state in now.tables.items()}  # fmt: skip
                rehearsal.set_to(tables, dense)
                losses[name][-1].append(whole - auc(labels, rehearsal.score(test)))
        _log.info("R3 seed %d, AUC %.4f: %s", seed, whole, {name: np.mean(found[-1]) for name, found in losses.items()})
    cells = []
    for name, found in losses.items():
        estimate, numbered = mean_over_seeds(np.mean(found, axis=1)), name.isdigit()
        record.add(f"auc_loss_shards_lost/{name}" if numbered else f"auc_loss/{_slug(name)}", estimate, unit="AUC",
                   goal=Goal("<=", 0.0005) if name == "1" else None)  # fmt: skip
        cells.append((name, str(len(found[0])), estimate.text(6), f"{np.max(found):+.6f}"))
    record.tables.append(ClaimTable(
        f"R3. AUC lost when k of {SERVERS} servers fall back to a snapshot one quarter of the log old (criteo)",
        ("lost", "draws per seed", "AUC loss (95 %)", "worst draw"), tuple(cells), NOTES["R3"],
    ))  # fmt: skip


# R4: what freshness costs --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Synced:
    """What R4 measured for one interval, one entry per seed; `gains` per view and block, against never."""

    sent: list[tuple[float, ...]] = field(default_factory=list)
    levels: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    gains: dict[bool, list[list[float]]] = field(default_factory=lambda: {False: [], True: []})


def sync_budget(record: ClaimRecord, events: Events) -> None:
    """Serve the last 2/7 of a log with the learner's rows sent every so often: bytes against a full copy, and AUC."""
    log = ExampleLog.from_events(events, trivago().schema)
    start = int(log.starts[len(log) * 5 // 7])
    edges = log.edges(start, len(log), (len(log) - start) // SYNC_ROWS)
    cuts = [edge - start for edge in log.edges(start, len(log), SHARDS[0])]
    found = {name: _Synced() for name in (*INTERVALS_S, "never")}
    for seed in SEEDS:
        config = trivago(seed=seed, batch_rows=SYNC_ROWS)
        arms = {(name, logged): Arm(config, _every(INTERVALS_S.get(name)), logged=logged, weigh=not logged)
                for name, logged in itertools.product(found, (False, True))}  # fmt: skip
        rehearsal = Rehearsal(config)
        rehearsal.learn(log, 0, start)
        stream = rehearsal.stream(log, edges, {f"{name} {logged}": arm for (name, logged), arm in arms.items()})
        labels, full = log.labels[start:], len(encode(arms[next(iter(found)), False].snapshot()))
        for (name, logged), arm in arms.items():
            scores, never = stream.scores[f"{name} {logged}"], stream.scores[f"never {logged}"]
            found[name].levels[logged].append(auc(labels, scores))
            found[name].gains[logged].append(block_gains(labels, scores, never, cuts))
            if arm.bytes:
                ages = np.percentile(stream.ages_s[f"{name} {logged}"], (50, 99)) / 60
                mean_rows, mean_bytes = float(np.mean(arm.rows)), float(np.mean(arm.bytes))
                found[name].sent.append((len(arm.bytes), mean_rows, mean_bytes, full, *ages))
        _log.info("R4 seed %d: %s", seed, {name: (each.sent[-1:], each.levels) for name, each in found.items()})
    _report_sync(record, found)


def _report_sync(record: ClaimRecord, found: Mapping[str, _Synced]) -> None:
    cells = []
    for name, each in found.items():
        levels = [f"{np.mean(each.levels[logged]):.4f}" for logged in (False, True)]
        if not each.sent:
            cells.append((name, *[""] * 6, *levels, ""))
            continue
        place, first = _slug(name), name == next(iter(found))
        count, rows, delta, full, median, high = np.mean(each.sent, axis=0)
        share = mean_over_seeds([sent[2] / sent[3] for sent in each.sent])
        gains = {logged: mean_over_blocks(blocks) for logged, blocks in each.gains.items()}
        sent = [f"{number:.0f}" for number in (count, rows, delta / 1e3, full / 1e3)]
        sent += [f"{100 * share.value:.2f} %", f"{median:.0f} / {high:.0f}"]
        cells.append((name, *sent, *levels, gains[True].text()))
        record.add("delta_bytes_vs_full" if first else f"delta_bytes_vs_full/{place}", share,
                   unit="share of a full copy", goal=Goal("<=", 0.1) if first else None)  # fmt: skip
        record.add(f"synced_minus_never_auc/{place}", gains[False], unit="AUC")
        record.add(f"synced_minus_never_auc/{place}_logged_position", gains[True], unit="AUC")
    record.tables.append(ClaimTable(
        "R4. What is sent, and the AUC, against the interval between two versions (trivago, event time)",
        ("interval", "versions", "rows", "kB", "kB full", "share", "age p50/p99", "AUC served", "logged",
         "minus never (95 %)"), tuple(cells), NOTES["R4"],
    ))  # fmt: skip


def _every(seconds: int | None) -> EveryEventTime | Never:
    return Never() if seconds is None else EveryEventTime(seconds * 1_000_000)


def _slug(name: str) -> str:
    return name.replace(", ", "_").replace(" ", "_")
