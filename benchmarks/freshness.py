"""How long it takes from an accepted click to an answer by a version that learned it, while events stream in.

    python benchmarks/freshness.py [--quick | --tiny] [--json] [--record FILE]

Everything runs on this machine as in production: a server with a worker process, joiner, learner and publisher, each a
process, joined by durable logs. Impressions and clicks come over HTTP at a steady rate. A prober asks for one score all
the time; a click counts as learned when an answer comes from a version that lists it among those it learned, so the
figure includes everything that a user would wait for. Beside it stands AUC against staleness: the same model, synced
less and less often, on a click log. Exit code 0: every goal holds; 3: some do not; 1: failed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from serve_contenders import model
from serve_contenders.processes import BENCHMARKS, Server, ServerFailed
from serve_contenders.streaming import Audience, Prober
from table_contenders.delivery import deliver
from table_contenders.figures import Figures

from headrace.data.datasets import trivago as trivago_data
from headrace.evaluate import auc
from headrace.evaluate.claims import ClaimTable, Goal
from headrace.loop import EveryEventTime, Never
from headrace.online import RunFolder, Supervisor, open_log
from headrace.online.experiment import Arm, ExampleLog, Rehearsal
from headrace.online.layout import CHANGES
from headrace.papers.monolith.recipe import examples, planted, planted_log, trivago
from headrace.publish import ChangeReader

RECIPE = "serve_contenders.model:stream"
INTERVALS_S = {"1 s": 1, "10 s": 10, "1 min": 60, "10 min": 600, "1 h": 3600, "6 h": 21_600, "never": None}
SETTINGS = {
    "processes": "server (supervisor, owner, 1 worker), joiner, learner, publisher; logs survive the process",
    "freshness": "from `accepted_time` of a click to the first answer of a version that learned it, seen by a client",
    "staleness": "the learner's rows and weights are served after so much event time; last 2/7 of the log, one seed",
    "monolith": "its paper syncs every minute, its code every 10 s; neither was run here",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        events_per_s: Impressions and clicks together.
        seconds: Of the stream, after `warm_s`.
        warm_s: Seconds that do not count.
        ids: Ids of every feature.
        staleness: Log of the second table: `trivago` (made data where there is none), `planted`, or none.
    """

    events_per_s: float = 2000.0
    seconds: float = 60.0
    warm_s: float = 15.0
    ids: int = 50_000
    staleness: str = "trivago"


PLANS = {
    "standard": Plan(), "quick": Plan(seconds=15.0, warm_s=6.0, staleness="planted"),
    "tiny": Plan(events_per_s=300.0, seconds=3.0, warm_s=1.0, ids=500, staleness=""),
}  # fmt: skip


def say(text: str) -> None:
    """Tell a person who waits."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """Run all processes for the length of the block."""
    path = os.pathsep.join([str(BENCHMARKS), *(entry for entry in sys.path if entry)])
    start = [sys.executable, "-m", "headrace", "run", RECIPE, "--folder", str(folder), "--role"]
    roles = Supervisor({role: [*start, role] for role in ("joiner", "learner", "publisher")}, folder / "logs",
                       {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"})  # fmt: skip
    roles.start()
    command = [sys.executable, "-m", "headrace", "serve", RECIPE, "--folder", str(folder), "--port", "{port}",
               "--workers", "1"]  # fmt: skip
    try:
        with first_version(folder), Server(command, {"PYTHONPATH": path}) as server:
            yield server
            roles.poll()
            for role, count in roles.restarts().items():
                if count:
                    raise ServerFailed(f"{role} was started again {count} times\n{roles.tail(role)}")
    finally:
        roles.stop()


@contextmanager
def first_version(folder: Path) -> Iterator[None]:
    """Give the joiner a few rows, so that there is a version for the server to start with."""
    from headrace.types import Events

    rows, now = 600, time.time_ns() // 1000
    draw = np.random.default_rng(1)
    columns: dict[str, object] = {name: draw.integers(0, 100, rows) for name in model.NAMES}
    columns |= {"item": [f"item-{n}" for n in range(rows)], "key": ["first"] * rows, "kind": ["impression"] * rows,
                "event_time": np.full(rows, now - 60_000_000), "accepted_time": np.full(rows, now)}  # fmt: skip
    later = {"key": ["last"], "kind": ["impression"], "event_time": [now], "accepted_time": [now],
             "item": ["item-0"], **{name: [0] for name in model.NAMES}}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with open_log(model.stream(), RunFolder(folder), "events") as log:
        log.append("events", Events.from_columns(columns))
        log.append("events", Events.from_columns(later))
    yield


def stream(plan: Plan, figures: Figures, folder: Path) -> None:
    """Record freshness."""
    with running(folder) as server:
        prober, audience = Prober(server.port), Audience(server.port, plan.events_per_s, plan.ids)
        prober.start()
        audience.start()
        time.sleep(plan.warm_s)
        began, events, cpu = time.time(), audience.sent.events, server.cpu_s()
        time.sleep(plan.seconds)
        ended = time.time()
        rate, used = (audience.sent.events - events) / (ended - began), server.cpu_s() - cpu
        time.sleep(2.0)  # the last clicks are learned and served
        audience.stop()
        prober.stop()
    reader = ChangeReader(open_log(model.stream(), RunFolder(folder), CHANGES), RunFolder(folder).snapshots)
    delays, unserved = served_after(reader, prober, began, ended)
    if not len(delays):
        raise ServerFailed("no click was learned in time")
    clicks = sum(taken for moment, taken in audience.sent.accepted if began <= moment < ended)
    figures.add("freshness_p50_s", [float(np.quantile(delays, 0.5))], unit="s", goal=Goal("<=", 0.5))
    figures.add("freshness_p99_s", [float(np.quantile(delays, 0.99))], unit="s", goal=Goal("<=", 2.0))
    figures.add("freshness_max_s", [float(delays.max())], unit="s")
    figures.add("events_per_s", [rate], unit="1/s", goal=Goal(">=", 0.98 * plan.events_per_s))
    figures.add("versions_per_s", [len([t for t in prober.first.values() if began <= t < ended]) / (ended - began)],
                unit="1/s")  # fmt: skip
    figures.add("clicks_learned_share", [len(delays) / max(clicks, 1)])
    figures.add("server_cpu_share", [used / (ended - began)], unit="cores")
    figures.notes.append(f"{len(delays)} clicks in {plan.seconds:.0f} s, {unserved} not served when it ended, "
                         f"{audience.sent.failed} calls failed, the sender was late by {audience.sent.late_s:.2f} s at "
                         "most")  # fmt: skip


def served_after(reader: ChangeReader, prober: Prober, began: float, ended: float) -> tuple[np.ndarray, int]:
    """Return the delay of every click accepted between two moments, and how many were never served."""
    delays, unserved = [], 0
    newest = reader.snapshot()
    changes = list(reader.read_since(-1 if newest is None or reader.changes.first() == 0 else newest.version.number))
    for change in changes:
        times = change.notes.get("accepted_times")
        if times is None:
            continue
        accepted = times[times > 0].numpy() / 1e6
        accepted = accepted[(accepted >= began) & (accepted < ended)]
        served = prober.served_at(change.version.number)
        if served is None:
            unserved += len(accepted)
        else:
            delays.append(served - accepted)
    return np.concatenate(delays) if delays else np.zeros(0), unserved


def staleness(plan: Plan, figures: Figures) -> None:
    """Record AUC against how old the served rows are."""
    if not plan.staleness:
        return
    found = trivago_data.find() if plan.staleness == "trivago" else None
    if found is not None:
        config, events, name = trivago(batch_rows=128), examples(trivago_data.load()), "trivago, real clicks"
    else:
        config, name = planted(batch_rows=32), "planted drift, simulated"
        events = planted_log(rows=12_000, hours=24.0, seed=0)
    say(f"AUC against staleness: {name}")
    log = ExampleLog.from_events(events, config.schema)
    start = int(log.starts[len(log) * 5 // 7])
    arms = {each: Arm(config, Never() if seconds is None else EveryEventTime(seconds * 1_000_000))
            for each, seconds in INTERVALS_S.items()}  # fmt: skip
    rehearsal = Rehearsal(config)
    rehearsal.learn(log, 0, start)
    edges = log.edges(start, len(log), max((len(log) - start) // config.batch_rows, 1))
    streamed = rehearsal.stream(log, edges, arms)
    labels, rows = log.labels[start:], []
    for each in INTERVALS_S:
        level = auc(labels, streamed.scores[each])
        figures.add(f"auc_when_synced/{each.replace(' ', '_')}", [level], unit="AUC")
        age = float(np.percentile(streamed.ages_s[each], 50))
        rows.append((each, f"{age:.0f}", f"{level:.4f}"))
    figures.tables.append(ClaimTable(f"AUC against staleness: {name}, {len(labels)} examples",
                                     ("synced every", "median age of the version, s", "AUC"), tuple(rows)))  # fmt: skip


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="size", action="store_const", const="quick", help="under a minute")
    size.add_argument("--tiny", dest="size", action="store_const", const="tiny", help="no useful numbers; for tests")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else")
    parser.add_argument("--record", type=Path, help="write the result there too")
    parser.set_defaults(size="standard")
    asked = parser.parse_args()
    plan, figures, began = PLANS[asked.size], Figures(), time.monotonic()
    flag = "" if asked.size == "standard" else f" --{asked.size}"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        with tempfile.TemporaryDirectory() as place:
            stream(plan, figures, Path(place) / "run")
        staleness(plan, figures)
    except ServerFailed as error:
        say(f"benchmarks/freshness.py: {error}")
        return 1
    result = figures.result({"command": f"python benchmarks/freshness.py{flag}", **SETTINGS, **asdict(plan),
                             "seconds_in_all": round(time.monotonic() - began)})  # fmt: skip
    return deliver(result, record=asked.record, as_json=asked.json)


if __name__ == "__main__":
    sys.exit(main())
