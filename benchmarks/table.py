"""The table engine beside its peers: training step, lookup, memory, snapshots, growth and threads.

    python benchmarks/table.py [--quick | --full] [--json] [--record FILE]

Contenders are processes of their own with two threads each, measured in turn, round by round: Headrace, torch
(`nn.Embedding(sparse=True)` with Adagrad), FBGEMM on the CPU, TorchRec's managed collision, and the bound: a plain
array in C++ with the same arithmetic and no map. A step is lookup, backward with fixed gradients and update of 8192
examples with 26 features. Peers that need packages of their own run in `build/peers/env`, which `scripts/peers.sh`
makes; without it their figures are null. Exit code 0: every goal holds; 3: some do not; 1: failed.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from table_contenders import cases, speed_figures, storage_figures
from table_contenders.delivery import deliver
from table_contenders.figures import Figures
from table_contenders.process import BENCHMARKS, ContenderFailed

THREADS = min(2, os.cpu_count() or 1)


def say(text: str) -> None:
    """Tell a person who waits."""
    print(text, file=sys.stderr, flush=True)


def measure(size: str, command: str) -> dict[str, Any]:
    """Take all figures of a plan and return the result object."""
    plan, figures = cases.plan(size), Figures()
    say("training and lookup")
    speed_figures.main_case(plan, figures, THREADS)
    say("memory, growth and snapshots")
    storage_figures.take(plan, figures, THREADS)
    speed_figures.other_cases(plan, figures, THREADS, say)
    return figures.result({
        "command": command, "processor": processor(), "threads": THREADS, **asdict(plan),
        "interval": "95 %, order statistics of the rounds; their range where there are fewer than six",
    })  # fmt: skip


def processor() -> str:
    """Return the processor's model, where the system says it."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="size", action="store_const", const="quick", help="small tables, under a minute")
    size.add_argument("--full", dest="size", action="store_const", const="full", help="every other case too")
    size.add_argument("--tiny", dest="size", action="store_const", const="tiny", help="no useful numbers; for tests")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else")
    parser.add_argument("--record", type=Path, help="write the result there too")
    parser.set_defaults(size="standard")
    return parser.parse_args()


def main() -> int:
    """Measure and print."""
    asked = arguments()
    flag = "" if asked.size == "standard" else f" --{asked.size}"
    if asked.size in {"standard", "full"} and not cases.PEER_PYTHON.exists():
        subprocess.run([str(BENCHMARKS.parent / "scripts" / "peers.sh")], check=False, stdout=sys.stderr)
    try:
        result = measure(asked.size, f"python benchmarks/table.py{flag}")
    except ContenderFailed as error:
        say(f"benchmarks/table.py: {error}")
        return 1
    return deliver(result, record=asked.record, as_json=asked.json)


if __name__ == "__main__":
    sys.exit(main())
