"""Who is measured on what, and how much time each way of running the benchmark takes."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from table_contenders.process import BENCHMARKS, Process

from pipeline_contenders.work import Made

PEERS = BENCHMARKS.parent / "build" / "peers"
PYTHONS = {"product": sys.executable, "ctr": str(PEERS / "ctr_env" / "bin" / "python"),
           "torchrec": str(PEERS / "env" / "bin" / "python")}  # fmt: skip
"""Interpreters: the product's, and those of the environments that scripts/peers_ctr.sh and scripts/peers.sh make."""
ZOO = PEERS / "FuxiCTR"
MODELS = ("DLRM", "DeepFM", "DCNv2", "DIN")
PEER_NAMES = ("fuxictr", "deepctr", "torchrec")


@dataclass(frozen=True)
class Entry:
    """A contender and its options.

    Attributes:
        name: As it is printed.
        module: File in this folder.
        options: What it is told.
        place: Which of `PYTHONS` runs it.
        needs: Package of that environment.
    """

    name: str
    module: str
    options: Mapping[str, Any] = field(default_factory=dict)
    place: str = "product"
    needs: str = ""

    def start(self, folder: Path, threads: int) -> Process:
        """Start the process and wait until its tables are filled."""
        return Process(self.module, folder, python=PYTHONS[self.place], threads=threads, package="pipeline_contenders",
                       **self.options)  # fmt: skip

    @property
    def there(self) -> bool:
        """Whether it can run here."""
        packages = Path(PYTHONS[self.place]).parents[1].glob(f"lib/python*/site-packages/{self.needs}")
        return not self.needs or (any(packages) and (self.module != "fuxictr_peer" or (ZOO / "model_zoo").is_dir()))


BOUND, OURS = Entry("bound", "bound"), Entry("ours", "ours")
READER = Entry("ours, reading alone", "ours", {"reader": True})
FUXICTR = (
    Entry("FuxiCTR, 1 reading process", "fuxictr_peer", {"workers": 1}, "ctr", "fuxictr"),
    Entry("FuxiCTR, no reading process", "fuxictr_peer", {"workers": 0}, "ctr", "fuxictr"),
)
DEEPCTR = (Entry("DeepCTR-Torch", "deepctr_peer", {}, "ctr", "deepctr_torch"),)
TORCHREC = (
    Entry("TorchRec, fused update", "torchrec_peer", {"fused": True}, "torchrec", "torchrec"),
    Entry("TorchRec, torch's optimiser", "torchrec_peer", {"fused": False}, "torchrec", "torchrec"),
)
WAYS = {"fuxictr": FUXICTR, "deepctr": DEEPCTR, "torchrec": TORCHREC}
"""Ways of running a peer; the fastest one is the peer."""

PLAIN = Entry("no read-ahead", "ours", {"depth": 0})
INTERLEAVED = (
    OURS, PLAIN,
    *(Entry(f"{count} micro-batches", "ours", {"micro": count}) for count in (2, 4)),
)  # fmt: skip
"""Ways of running ours."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        size: Name of the plan.
        models: Networks.
        made: The made data of the goals.
        rounds, steps: Of ours and the bound.
        peer_rounds, peer_steps: Of peers on the made data; 0 leaves them out.
        ways: Ways of running each peer that are tried.
        small: Real data sets.
        small_rows: Their first so many rows.
        small_rounds, small_steps: Of everyone there.
        fields: Of protocol R5.
        packing_rounds: Rounds of each of its cells.
        overlap: Network and rounds of the interleaving.
        overlap_ways: How many ways of running ours it compares.
    """

    size: str
    models: tuple[str, ...] = MODELS
    made: Made = field(default_factory=Made)
    rounds: int = 7
    steps: int = 12
    peer_rounds: int = 2
    peer_steps: int = 3
    ways: int = 2
    small: tuple[str, ...] = ("criteo", "movielens_tag", "movielens")
    small_rows: int = 60_000
    small_rounds: int = 3
    small_steps: int = 40
    fields: tuple[int, ...] = (26, 100, 200, 400)
    packing_rounds: int = 5
    overlap: tuple[str, int] = ("DLRM", 7)
    overlap_ways: int = 4


SMALL = {"dim": 8, "hidden": (64, 64), "batch": 1024}
"""Networks on small sets: those of benchmarks/ctr_accuracy.py, but 8 wide: FBGEMM's tables take multiples of 4."""


def plan(size: str) -> Plan:
    """Return the plan `tiny` (for tests), `quick` or `standard`."""
    if size == "tiny":
        made = Made(ids=2600, batches=2, settings={"batch": 64, "hidden": (8,), "bottom": (8,)})
        return Plan(size=size, models=("DLRM",), made=made, rounds=2, steps=2, peer_rounds=0, small=(), fields=(8,),
                    packing_rounds=2, overlap=("DLRM", 2), overlap_ways=2)  # fmt: skip
    if size == "quick":
        return Plan(size=size, models=("DeepFM",), made=Made(ids=1_000_000, batches=16), rounds=3, steps=4,
                    peer_rounds=1, peer_steps=2, ways=1, small=(), fields=(26, 100), packing_rounds=3,
                    overlap=("DeepFM", 2), overlap_ways=2)  # fmt: skip
    return Plan(size=size)


def threads() -> int:
    """Return the threads of every contender."""
    return min(2, os.cpu_count() or 1)
