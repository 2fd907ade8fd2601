"""What is compared: patterns of slowness, methods against it, and one job of real processes with injected sleeps."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headrace.data import OrderSplit
from headrace.data.datasets import criteo as criteo_data
from headrace.elastic import ElasticConfig, run_elastic
from headrace.elastic.config import Mode, Sums
from headrace.elastic.toy import toy
from headrace.nn import DeepFM
from headrace.papers.antdt.work import Work
from headrace.ranking.config import FitConfig
from headrace.ranking.network import Network
from headrace.ranking.steps import Steps
from headrace.ranking.steps import ranker as deepfm
from headrace.runtime import AntDtDd, AntDtNd, Asp, BackupWorkers, LbBsp, RestartCost, Solution, Static, solution_json

LOG_ROWS, VALID_ROWS, TEST_ROWS = 80_000, 2_000, 20_000
"""Of the log: what is learned comes first, and the AUC is that of many more rows than a short job learns."""
PATTERNS = ("persistent_worker", "transient_worker", "persistent_server", "mixed_devices")
ND = AntDtNd(restart=RestartCost(wait_s=8.0, stall_s=1.0))


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to train.

    Attributes:
        solution: What is done about slow nodes.
        special: Another solution for one pattern.
        mode: `sync` or `async`.
        sums: Where gradients are added; backup workers need the head.
    """

    solution: Solution
    special: Mapping[str, Solution] = field(default_factory=dict)
    mode: Mode = "sync"
    sums: Sums = "gloo"

    def of(self, pattern: str) -> Solution:
        """Return what is done under a pattern."""
        return self.special.get(pattern, self.solution)


METHODS = {
    "BSP": Method(solution=Static()), "ASP": Method(solution=Asp(), mode="async"),
    "backup workers": Method(solution=BackupWorkers(count=1), sums="head"), "LB-BSP": Method(solution=LbBsp()),
    "AntDT": Method(solution=ND, special={"mixed_devices": AntDtDd()}),
    "AntDT, asynchronous": Method(solution=ND, mode="async"),
}  # fmt: skip
OURS, OURS_ASYNC = "AntDT", "AntDT, asynchronous"


def ranker(*, rows: int, batch_rows: int, seed: int = 0) -> FitConfig:
    """Return a small DeepFM that learns 80 % of so many rows of Criteo; of made clicks where there is no such file."""
    if criteo_data.find() is None:
        return toy(rows=rows, batch_rows=batch_rows, seed=seed)
    parts = {"train": rows * 8 // 10, "valid": VALID_ROWS, "test": TEST_ROWS}
    split = OrderSplit({part: count / LOG_ROWS for part, count in parts.items()})
    network = Network(family=DeepFM, hidden=(32,), prior=0.25)
    steps = Steps(lr=2e-3, batch_rows=batch_rows, epochs=1, seed=seed)
    return deepfm(
        "criteo-start",
        criteo_data.examples(rows=LOG_ROWS),
        criteo_data.preparation(min_count=4),
        split,
        network,
        steps,
        dim=8,
    )


def measured(work: Work, pattern: str, method: Method) -> Mapping[str, object]:
    """Run one job of real processes; return its figures and settings, see `run_elastic`."""
    ranker(rows=work.rows, batch_rows=work.batch_rows).data()  # prepared once, before many processes ask for it
    with tempfile.TemporaryDirectory(prefix="antdt-") as folder:
        config = ElasticConfig(
            recipe="headrace.papers.antdt.recipe:ranker", folder=Path(folder) / "run", audit=False, publish=False,
            arguments={"rows": work.rows, "batch_rows": work.batch_rows, "seed": work.seed}, workers=work.workers,
            servers=work.servers, mode=method.mode, sums=method.sums, solution=solution_json(method.of(pattern)),
            pattern=work.pattern(pattern), shard_rows=work.batch_rows,  # a lease is a step's rows: tails are short
        )  # fmt: skip
        report = run_elastic(config)
    return {**{name: figure.value for name, figure in report.figures.items()}, **report.settings}
