"""Ranking over HTTP, beside Ray Serve and FastAPI with torch, and beside the arithmetic bound.

    python benchmarks/serve.py [--quick | --tiny] [--json] [--record FILE]

100 candidates a request, DeepFM of 26 features x 16 (10 of them a candidate's own), hidden 256-128-64, as JSON over
HTTP/1.1 on loopback; two worker processes for every server, two cores in all. The load generator is a program of its
own on the same cores: its CPU is measured, and answers per second are those that the cores give without it. Peers get
the same weights, ids and bodies, in an environment that `scripts/peers_serve.sh` makes; without it their figures are
null. Exit code 0: every goal holds; 3: some do not; 1: failed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from serve_contenders import bound, measure, model
from serve_contenders.load import CORES, Load
from serve_contenders.measure import FASTAPI, OURS, RAY, Plan
from serve_contenders.processes import ROOT, ServerFailed, ours, peers_installed
from table_contenders.delivery import deliver
from table_contenders.figures import Figures

from headrace.evaluate.claims import ClaimTable, Goal

SETTINGS = {
    "ours": "headrace serve --workers 2, nothing logged; scores in native code, what candidates share computed once",
    "fastapi": "uvicorn with uvloop and httptools, two processes, body as bytes, orjson, one gather of all rows, torch "
               "in inference mode with one thread in the event loop",
    "ray_serve": "two replicas, RAY_SERVE_THROUGHPUT_OPTIMIZED=1, no access log, otherwise as FastAPI",
    "per_s": "answers per second of two cores without the load generator: raw * 2 / (2 - its CPU share)",
    "ratio": "our answers per second at a p99 not above the peer's at its own peak, over that peak; medians of rounds",
    "half load": "open loop: latency counts from when a request was due",
}  # fmt: skip
PLANS = {
    "standard": Plan(tune=True),
    "quick": Plan(rows=10_000, rounds=1, seconds=1.5, connections=(4, 16), swap_pairs=2, memory_rows=50_000,
                  peers=(FASTAPI,)),
    "tiny": Plan(rows=300, rounds=1, seconds=0.5, connections=(4,), swap_pairs=1, memory_rows=2_000, peers=()),
}  # fmt: skip


def say(text: str) -> None:
    """Tell a person who waits."""
    print(text, file=sys.stderr, flush=True)


def take(plan: Plan, command: str) -> dict[str, Any]:
    """Take all figures of a plan and return the result object."""
    figures, began = Figures(), time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        publisher = model.publish(folder / "run", plan.rows)
        model.export(folder / "case", plan.rows)
        load = Load(folder, model.bodies(512, plan.candidates, plan.rows))
        limit = arithmetic(plan, figures)
        compiled = plan.tune and FASTAPI in plan.peers and measure.compiled_is_faster(plan, load, folder / "case", say)
        start = measure.starters(plan, folder / "run", folder / "case", compiled=compiled)
        found = measure.curves(plan, load, start, say)
        if OURS not in found.taken:
            raise ServerFailed(found.problems[OURS])
        compare(plan, figures, found, limit)
        latencies(plan, figures, load, folder / "run", publisher, found)
        memory(plan, figures, folder / "memory")
        if plan.tune:
            way = "compiled" if compiled else "not compiled"
            figures.notes.append(f"rank_vs_fastapi_torch: its network {way}, which was faster")
    return figures.result({"command": command, **SETTINGS, **asdict(plan),
                           "seconds_in_all": round(time.monotonic() - began)})  # fmt: skip


def arithmetic(plan: Plan, figures: Figures) -> float:
    """Record the bound; returns requests per second."""
    work = bound.work_per_request(plan.candidates)
    limits = [bound.peak(plan.seconds / 4, CORES) / work for _ in range(max(plan.rounds, 1))]
    figures.add("bound_requests_per_s", limits, unit="1/s")
    products = [bound.torch_speed(plan.seconds, plan.candidates, CORES) for _ in range(plan.rounds)]
    figures.add("torch_products_per_s", products, unit="1/s")
    say(f"bound: {statistics.median(limits):.0f}/s, torch's products {statistics.median(products):.0f}/s")
    return statistics.median(limits)


def compare(plan: Plan, figures: Figures, found: measure.Curves, limit: float) -> None:
    """Record peaks, CPU per request and ratios."""
    rows = []
    for name in (OURS, FASTAPI, RAY):
        peaks = found.peaks(name)
        if peaks:
            figures.add(f"requests_per_s/{name}", [run.per_s for run in peaks], unit="1/s")
            figures.add(f"cpu_ms_per_request/{name}", [run.cpu_ms for run in peaks], unit="ms")
            run = peaks[0]
            rows.append((name, f"{run.per_s:.0f}", f"{run.raw_per_s:.0f}", f"{run.p50_ms:.1f}", f"{run.p99_ms:.1f}",
                         f"{run.cpu_ms:.3f}", str(run.failed)))  # fmt: skip
    columns = ("server", "answers/s", "as they came", "p50 ms", "p99 ms", "CPU ms/answer", "failed")
    figures.tables.append(ClaimTable(title="At the peak, first round", rows=tuple(rows), columns=columns))
    figures.add("rank_vs_bound", [run.per_s / limit for run in found.peaks(OURS)])
    for name, figure in ((RAY, "rank_vs_ray_serve"), (FASTAPI, "rank_vs_fastapi_torch")):
        if ratios := found.ratios(name):
            peer = statistics.median(run.per_s for run in found.peaks(name))
            figures.add(figure, ratios, goal=Goal(">=", round(min(3.0, 0.7 * limit / peer), 3)))
        else:
            why = found.problems.get(name, "it was not asked for" if peers_installed() else
                                     "scripts/peers_serve.sh has not made its environment")  # fmt: skip
            figures.missing(figure, why, goal=Goal(">=", 3.0))


def latencies(plan: Plan, figures: Figures, load: Load, run: Path, publisher: Any, found: measure.Curves) -> None:
    """Record p99 at half of the peak, with and without new versions, and answers that are logged."""
    half = 0.5 * statistics.median(one.raw_per_s for one in found.peaks(OURS))
    with ours(run, plan.workers) as server:
        load.run(server, connections=8, seconds=1.0)
        figures.add("rank_p99_ms_at_half_load", measure.half_load(plan, load, server, half), unit="ms",
                    goal=Goal("<=", 15.0))  # fmt: skip
        say("swaps of versions")
        changes, versions = measure.swaps(plan, load, server, run, publisher, half)
        figures.add("swap_p99_change", changes, goal=Goal("<=", 0.2))
        figures.notes.append(f"swap_p99_change: {versions} versions came, each of {plan.swap_rows} rows and all "
                             "dense tensors")  # fmt: skip
        logged = [load.run(server, connections=16, seconds=plan.seconds, target="/v1/rank?log_impressions=true")
                  for _ in range(plan.rounds)]  # fmt: skip
        figures.add("requests_per_s/headrace_logged", [one.per_s for one in logged], unit="1/s")
        figures.add("p99_ms/headrace_logged", [one.p99_ms for one in logged], unit="ms")


def memory(plan: Plan, figures: Figures, folder: Path) -> None:
    """Record the memory of more workers over that of one."""
    say("memory")
    model.publish(folder, plan.memory_rows)
    bodies = model.bodies(256, plan.candidates, plan.memory_rows)
    found = measure.memory(plan, folder, bodies, (1, plan.workers, 2 * plan.workers))
    figures.add("workers_memory_vs_one", [found[plan.workers] / found[1]], goal=Goal("<=", 1.2))
    figures.add("workers_memory_vs_one/twice_as_many", [found[2 * plan.workers] / found[1]])
    for count, used in found.items():
        figures.add(f"memory_mb/{count}_workers", [used / 1e6], unit="MB")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="size", action="store_const", const="quick", help="FastAPI only, under a minute")
    size.add_argument("--tiny", dest="size", action="store_const", const="tiny", help="no useful numbers; for tests")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else")
    parser.add_argument("--record", type=Path, help="write the result there too")
    parser.set_defaults(size="standard")
    asked = parser.parse_args()
    plan = PLANS[asked.size]
    if asked.size == "standard" and not peers_installed():
        subprocess.run([str(ROOT / "scripts" / "peers_serve.sh")], check=False, stdout=sys.stderr)
    if not peers_installed():
        plan = replace(plan, peers=())
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    flag = "" if asked.size == "standard" else f" --{asked.size}"
    try:
        result = take(plan, f"python benchmarks/serve.py{flag}")
    except (ServerFailed, subprocess.CalledProcessError) as error:
        say(f"benchmarks/serve.py: {error}")
        return 1
    return deliver(result, record=asked.record, as_json=asked.json)


if __name__ == "__main__":
    sys.exit(main())
