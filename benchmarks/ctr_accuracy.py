"""Accuracy of the model families beside FuxiCTR's: same data, split, preparation, order of examples and settings.

    python benchmarks/ctr_accuracy.py [--quick | --full] [--families A,B] [--data A,B] [--workers N] [--json] [--record]

Every cell (a family on a data set with a seed) is trained by each side in a process of its own with one thread, Adam
with one rate for everything, no regularisation, a few epochs. Shown are the test AUC at the best validation and after
one pass. The gap is ours minus FuxiCTR's at the best; its goal is to lose no more than seeds differ. Answers are kept
under `build/ctr`, so a run that was cut short goes on. The peer runs in `build/peers/ctr_env`, which
`scripts/peers_ctr.sh` makes. Exit code 0: every goal holds; 3: some do not; 1: failed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ctr_contenders.cases import DATA, FAMILIES, PLANS, Plan
from ctr_contenders.prepared import folder_of
from ctr_contenders.results import Comparison, compare, tables
from ctr_contenders.runs import Run, peer_python, run_all, zoo

from headrace.config import git_commit
from headrace.errors import DataError
from headrace.evaluate import ClaimRecord, Goal, mean_over_seeds
from headrace.evaluate.claims import render_tables

ROOT = Path(__file__).resolve().parents[1]
PEER_VERSION = "fuxictr 2.3.10, model zoo 0245987"


def say(text: str) -> None:
    """Tell a person who waits."""
    print(text, file=sys.stderr, flush=True)


def measure(plan: Plan, command: str, workers: int) -> dict[str, Any]:
    """Train every cell of a plan and return the result object."""
    folders, notes = {}, [f"{name}: {FAMILIES[name].note}" for name in plan.families if FAMILIES[name].note]
    notes += [f"{name}: {FAMILIES[name].epochs} epochs" for name in plan.families if FAMILIES[name].epochs]
    for name in plan.data:
        try:
            folders[name] = str(folder_of(name, plan.rows))
        except DataError as error:
            notes.append(f"{name} was left out: {error}")
    versions = {"ours": git_commit(), "zoo": PEER_VERSION}
    runs = [
        Run(contender, plan.cell(contender, family, folder, seed), versions[contender])
        for seed in plan.seeds for family in plan.families for folder in folders.values()
        for contender in ("zoo", "ours")
    ]  # fmt: skip
    answers = run_all(runs, workers, say)
    found = compare(list(zip(runs, answers, strict=True)), plan, folders)
    record = ClaimRecord()
    record.tables += tables(found, folders)
    for one in found:
        add_figures(record, one)
    return record.to_json({
        "command": command, "peer": PEER_VERSION, "workers": workers, **asdict(plan),
        "rows": {name: rows_of(folder) for name, folder in folders.items()}, "notes": notes,
        "goal": "the mean gap at the best validation is not below minus the spread: the largest difference between two "
                "seeds of one side",
    })  # fmt: skip


def add_figures(record: ClaimRecord, one: Comparison) -> None:
    """Record what a row of the table says."""
    name = f"{one.family}/{one.data}"
    if not one.whole:
        for kind in ("auc_gap", "auc_spread"):
            record.figures[f"{kind}/{name}"] = {
                "value": None, "low": None, "high": None, "unit": "AUC", "goal": None, "holds": None, "spread": None,
            }  # fmt: skip
        return
    spread = one.spread if math.isfinite(one.spread) else 0.0
    goal = Goal(">=", -spread) if len(one.ours) > 1 else None
    record.add(f"auc_gap/{name}", mean_over_seeds(one.gaps("best")), unit="AUC", goal=goal)
    record.add(f"auc_gap_one_pass/{name}", mean_over_seeds(one.gaps("one_pass")), unit="AUC")
    record.add(f"auc_spread/{name}", mean_over_seeds([spread]), unit="AUC")
    record.add(f"auc/{name}", mean_over_seeds(one.values("ours", "best")), unit="AUC")
    record.add(f"log_loss/{name}", mean_over_seeds(one.values("ours", "log_loss")), unit="nats")
    record.add(f"examples_per_s/{name}", mean_over_seeds(one.values("ours", "rate")), unit="examples/s")
    record.add(f"time_vs_fuxictr/{name}", mean_over_seeds(one.values("ours", "speedup")), unit="ratio")


def rows_of(folder: str) -> dict[str, int]:
    """Return the number of ids of every feature of a data set."""
    found: dict[str, int] = json.loads((Path(folder) / "sizes.json").read_text(encoding="utf-8"))
    return found


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="one family on one small data set, under a minute")
    size.add_argument("--full", action="store_true", help="all rows, and three passes")
    parser.add_argument("--families", help=f"only these, of {','.join(FAMILIES)}")
    parser.add_argument("--data", help=f"only these, of {','.join(DATA)}")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="processes at once")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else")
    parser.add_argument("--record", type=Path, help="write the result there too")
    return parser.parse_args()


def main() -> int:
    """Measure and print."""
    asked = arguments()
    size = "quick" if asked.quick else "full" if asked.full else "standard"
    plan = PLANS[size]
    for name in ("families", "data"):
        if getattr(asked, name):
            plan = replace(plan, **{name: tuple(getattr(asked, name).split(","))})
    if not peer_python().exists() or not (zoo() / "model_zoo").is_dir():
        subprocess.run([str(ROOT / "scripts" / "peers_ctr.sh")], check=False, stdout=sys.stderr)
    if not peer_python().exists() or not (zoo() / "model_zoo").is_dir():
        say("benchmarks/ctr_accuracy.py: there is no FuxiCTR to compare with; scripts/peers_ctr.sh says why")
        return 1
    flags = "".join(f" --{name} {getattr(asked, name)}" for name in ("families", "data") if getattr(asked, name))
    told = "" if size == "standard" else f" --{size}"
    result = measure(plan, f"python benchmarks/ctr_accuracy.py{told}{flags}", asked.workers)
    if not result["figures"]:
        say("benchmarks/ctr_accuracy.py: no data set is there; HEADRACE_DATA names their folder")
        return 1
    if asked.record:
        asked.record.parent.mkdir(parents=True, exist_ok=True)
        asked.record.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result) if asked.json else render_tables(result))
    for note in [] if asked.json else result["settings"]["notes"]:
        print(note)
    return 3 if any(figure["holds"] is False for figure in result["figures"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
