"""Preparation of a Criteo-format file beside FuxiCTR's own, batches of prepared rows, and evaluation.

    python benchmarks/prepare.py [--quick | --tiny] [--json] [--record FILE]

The same file with the same settings (minimum count 10, log bins) is prepared in turn, round by round, each time in a
new process: by Headrace in one process and in two, and by FuxiCTR's `FeatureProcessor` and `build_dataset`, which use
all cores. Seconds are those from the raw file to the written one, without imports, with the start of workers (theirs
are Ray's). FuxiCTR runs in `build/peers/ctr_env`, which `scripts/peers_ctr.sh` makes; without it its figures are null.
Exit code 0: every goal holds; 3: some do not; 1: failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from evaluate_speed import ROWS, evaluate_1e7_s
from prepare_contenders.rows import write_rows
from table_contenders.delivery import deliver
from table_contenders.figures import Figures

from headrace.evaluate.claims import Goal

BENCHMARKS = Path(__file__).resolve().parent
BUILD = BENCHMARKS.parent / "build" / f"prepare-{os.getpid()}"
PEER_PYTHON = Path(os.environ.get("HEADRACE_CTR_PEERS", BUILD.parent / "peers" / "ctr_env" / "bin" / "python"))
MIN_COUNT = 10
PATIENCE_S = 1800.0
FASTER, SECONDS = Goal(">=", 5.0), Goal("<", 5.0)


class ContenderFailed(Exception):
    """A contender did not do its work; the text is the end of what it printed."""


def say(text: str) -> None:
    """Tell a person who waits."""
    print(text, file=sys.stderr, flush=True)


def run(python: Path | str, script: str, *arguments: object) -> dict[str, Any]:
    """Run a contender to its end and return what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        command = [str(python), str(BENCHMARKS / "prepare_contenders" / script), *map(str, arguments), str(result)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        if python != sys.executable:
            environment.pop("PYTHONPATH", None)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        if done.returncode or not result.exists():
            last = [line for line in done.stderr.splitlines() if line.strip()][-3:]
            raise ContenderFailed(f"{script} ended with {done.returncode}: {' | '.join(last)}")
        measured: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return measured


def rounds(file: Path, count: int, figures: Figures, *, peer: bool = True) -> dict[str, list[dict[str, Any]]]:
    """Measure the contenders in turn; a peer that cannot run is left out with a note."""
    found: dict[str, list[dict[str, Any]]] = {"one": [], "two": [], "fuxictr": []}
    for number in range(count):
        say(f"round {number + 1} of {count}: Headrace")
        found["one"].append(run(sys.executable, "ours.py", file, BUILD / "ours", 1, MIN_COUNT))
        found["two"].append(run(sys.executable, "ours.py", file, BUILD / "ours", 2, MIN_COUNT))
        if not peer or not PEER_PYTHON.exists() or (number and not found["fuxictr"]):
            continue
        say(f"round {number + 1} of {count}: FuxiCTR")
        try:
            found["fuxictr"].append(run(PEER_PYTHON, "fuxictr_peer.py", file, BUILD / "fuxictr", MIN_COUNT))
        except (ContenderFailed, subprocess.TimeoutExpired) as error:
            figures.notes.append(f"FuxiCTR did not do it: {error}")
    return found


def take(found: dict[str, list[dict[str, Any]]], figures: Figures) -> None:
    """Work out the figures of all rounds."""
    one, two, peer = found["one"], found["two"], found["fuxictr"]

    def speed(rounds: list[dict[str, Any]], what: str) -> list[float]:
        return [each["rows"] / each[what] for each in rounds]

    figures.add("prepare_rows_per_s/1_process", speed(one, "prepare_s"), unit="rows/s")
    figures.add("prepare_rows_per_s/2_processes", speed(two, "prepare_s"), unit="rows/s")
    figures.add("batches_rows_per_s/in_order", speed(one + two, "in_order_s"), unit="rows/s")
    figures.add("batches_rows_per_s/shuffled", speed(one + two, "shuffled_s"), unit="rows/s")
    if not peer:
        why = "FuxiCTR is not there (scripts/peers_ctr.sh)"
        figures.missing("prepare_rows_per_s/fuxictr", why, unit="rows/s")
        figures.missing("prepare_vs_fuxictr", why, goal=FASTER)
        return
    figures.add("prepare_rows_per_s/fuxictr", speed(peer, "prepare_s"), unit="rows/s")
    ratios = [theirs["prepare_s"] / ours["prepare_s"] for theirs, ours in zip(peer, one, strict=False)]
    figures.add("prepare_vs_fuxictr", ratios, goal=FASTER)
    same = peer[0]["values"] == one[0]["values"] and peer[0]["rows"] == one[0]["rows"]
    figures.notes.append("Both keep the same number of values of every category." if same else
                         f"The numbers of values kept differ: {one[0]['values']} and {peer[0]['values']}.")  # fmt: skip


SIZES = {"tiny": (3_000, 1, 100_000), "quick": (100_000, 1, ROWS), "standard": (1_500_000, 3, ROWS)}
"""Rows to prepare, rounds, and predictions to judge."""


def measure(size: str) -> dict[str, Any]:
    """Take all figures and return the result object."""
    figures = Figures()
    rows, count, judged = SIZES[size]
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True)
    try:
        say(f"writing {rows:,} rows")
        origin = write_rows(BUILD / "rows.csv", rows)
        volume = (BUILD / "rows.csv").stat().st_size
        take(rounds(BUILD / "rows.csv", count, figures, peer=size != "tiny"), figures)
    finally:
        shutil.rmtree(BUILD, ignore_errors=True)
    say("evaluation")
    figures.add("evaluate_1e7_s", [evaluate_1e7_s(judged, count)], unit="s", goal=SECONDS)
    flag = "" if size == "standard" else f" --{size}"
    return figures.result({
        "command": f"python benchmarks/prepare.py{flag}", "rows": rows, "rounds": count, "bytes": volume,
        "made of": origin, "min_count": MIN_COUNT,
        "prepare_vs_fuxictr": "one process of ours beside all cores of FuxiCTR",
        "interval": "95 %, order statistics of the rounds; their range where there are fewer than six",
    })  # fmt: skip


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="size", action="store_const", const="quick", help="a small file, once")
    size.add_argument("--tiny", dest="size", action="store_const", const="tiny", help="no useful numbers; for tests")
    parser.set_defaults(size="standard")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else")
    parser.add_argument("--record", type=Path, help="write the result there too")
    asked = parser.parse_args()
    if asked.size == "standard" and not PEER_PYTHON.exists():
        subprocess.run([str(BENCHMARKS.parent / "scripts" / "peers_ctr.sh")], check=False, stdout=sys.stderr)
    try:
        result = measure(asked.size)
    except (ContenderFailed, subprocess.TimeoutExpired) as error:
        say(f"benchmarks/prepare.py: {error}")
        return 1
    return deliver(result, record=asked.record, as_json=asked.json)


if __name__ == "__main__":
    sys.exit(main())
