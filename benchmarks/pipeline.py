"""Whole training steps from Parquet on disk, beside the bound of the dense network and beside three peers.

    python benchmarks/pipeline.py [--quick] [--json] [--record FILE]

A step reads a batch, looks it up, goes forward and backward and updates tables and network. The bound is the same
network fed with ready embeddings. Peers are FuxiCTR, DeepCTR-Torch and TorchRec on the CPU: same network, data, batch,
precision, optimiser (Adagrad) and threads, each in its own environment, which `scripts/peers_ctr.sh` and
`scripts/peers.sh` make; without them their figures are null. Then protocol R5: packing, interleaving, and tables that
are larger than memory. Exit code 0: every goal holds; 3: some do not; 1: failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline_contenders import speed, wide
from pipeline_contenders.cases import PYTHONS, SMALL, ZOO, Plan, plan, threads
from table_contenders.delivery import deliver
from table_contenders.figures import Figures
from table_contenders.process import BENCHMARKS, ContenderFailed

from headrace.evaluate.claims import Goal

SETTINGS = {
    "optimizer": "Adagrad, eps 1e-10, for tables and network, on all sides; no regularisation",
    "networks": "hidden 400-400-400; DLRM bottom 512-256-64-16, top 512-256, 13 dense columns; DCNv2 3 cross layers "
                "beside the deep part; DIN attention 64 with Dice over up to 20 entries",
    "fuxictr": "its NumPy archive, held in memory by its loader, shuffled; gradient norm clipped as its fit does; 0 "
               "and 1 reading processes, the faster way counts",
    "deepctr": "columns in memory, its fit with shuffling, verbose 0; DLRM of its own layers, as it has none",
    "torchrec": "columns in memory, a batch is one gather of random rows; FBGEMM's fused update and torch's, the "
                "faster way counts; rows of 17 padded to 20",
    "ours": "Parquet read from disk every epoch, shuffled; default tables and pipeline",
    "interval": "95 %, order statistics of the rounds; their range where there are fewer than six",
}  # fmt: skip


def say(text: str) -> None:
    """Tell a person who waits."""
    print(text, file=sys.stderr, flush=True)


def measure(chosen: Plan, command: str) -> dict[str, Any]:
    """Take all figures of a plan and return the result object."""
    figures, count, began = Figures(), threads(), time.monotonic()
    speed.made(chosen, figures, count, say)
    speed.small(chosen, figures, count, say)
    speed.interleaving(chosen, figures, count, say)
    wide.packing(chosen, figures, count, say)
    larger_than_memory(chosen, figures, count)
    return figures.result({
        "command": command, "threads": count, "seconds": round(time.monotonic() - began), "small_networks": SMALL,
        **SETTINGS, **asdict(chosen),
    })  # fmt: skip


def larger_than_memory(chosen: Plan, figures: Figures, count: int) -> None:
    """Take the figures of tables with a cold tier."""
    if importlib.util.find_spec("pipeline_contenders.tiers") is None:
        goal = Goal(">=", 0.4)
        figures.missing("larger_than_memory_vs_in_memory", "tables have no cold tier here", goal=goal)
        return
    say("tables larger than memory")
    importlib.import_module("pipeline_contenders.tiers").measure(figures, chosen, count)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="size", action="store_const", const="quick", help="one network, under a minute")
    size.add_argument("--tiny", dest="size", action="store_const", const="tiny", help="no useful numbers; for tests")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else")
    parser.add_argument("--record", type=Path, help="write the result there too")
    parser.set_defaults(size="standard")
    return parser.parse_args()


def install_peers() -> None:
    """Make the peers' environments where they are missing."""
    for script, place in (("peers.sh", "torchrec"), ("peers_ctr.sh", "ctr")):
        if not Path(PYTHONS[place]).exists():
            subprocess.run([str(BENCHMARKS.parent / "scripts" / script)], check=False, stdout=sys.stderr)


def main() -> int:
    """Measure and print."""
    asked = arguments()
    flag = "" if asked.size == "standard" else f" --{asked.size}"
    os.environ.setdefault("FUXICTR_ZOO", str(ZOO))
    if asked.size == "standard":
        install_peers()
    try:
        result = measure(plan(asked.size), f"python benchmarks/pipeline.py{flag}")
    except ContenderFailed as error:
        say(f"benchmarks/pipeline.py: {error}")
        return 1
    return deliver(result, record=asked.record, as_json=asked.json)


if __name__ == "__main__":
    sys.exit(main())
