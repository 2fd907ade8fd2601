"""How long the evaluation of 10 million predictions takes: AUC, grouped AUC and normalised entropy.

    python benchmarks/evaluate_speed.py [--quick] [--json] [--peer]

Predictions are float32 as models give them, labels are drawn from them, groups are users of very different activity.
`--peer` times scikit-learn's AUC and log-loss on the same rows (it has no grouped AUC). At most two cores are used.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.evaluate import (
    ClaimRecord,
    ClaimTable,
    Goal,
    auc,
    auc_interval,
    evaluate,
    grouped_auc,
    mean_over_seeds,
    normalised_entropy,
)
from headrace.evaluate.claims import render_tables

ROWS = 10_000_000


class Predictions(NamedTuple):
    """One evaluation set: labels and probabilities float32, groups int64, all (N,)."""

    labels: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    groups: npt.NDArray[np.int64]


def predictions(rows: int = ROWS, seed: int = 0) -> Predictions:
    """Draw an evaluation set: about 10 % clicks, a tenth as many users as rows, active ones far more often."""
    draw = np.random.default_rng(seed)
    probability = (1 / (1 + np.exp(-draw.normal(-2.6, 1.2, rows)))).astype(np.float32)
    labels = (draw.random(rows, dtype=np.float32) < probability).astype(np.float32)
    groups = (draw.random(rows) ** 2 * (rows // 10 + 1)).astype(np.int64)
    return Predictions(labels, probability, groups)


def numbers(data: Predictions, threads: int = 2) -> dict[str, float]:
    """Return AUC, GAUC and normalised entropy, the two sorts beside each other."""
    with ThreadPoolExecutor(max_workers=threads) as pool:
        grouped = pool.submit(grouped_auc, data.labels, data.probabilities, data.groups)
        whole = pool.submit(auc, data.labels, data.probabilities)
        entropy = pool.submit(normalised_entropy, data.labels, data.probabilities)
        return {"auc": whole.result(), "gauc": grouped.result(), "ne": entropy.result()}


def timed(work: Callable[[], object], repeats: int) -> list[float]:
    """Return the seconds that some runs took."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds


def evaluate_1e7_s(rows: int = ROWS, repeats: int = 3) -> float:
    """Return the seconds that AUC, GAUC and normalised entropy of 10 million predictions take together (median)."""
    data = predictions(rows)
    return statistics.median(timed(lambda: numbers(data), repeats))


def measure(rows: int, repeats: int, *, peer: bool) -> ClaimRecord:
    """Return all figures; the goal is for 10 million rows."""
    data, record = predictions(rows), ClaimRecord()
    works: dict[str, Callable[[], object]] = {
        "evaluate_1e7_s": lambda: numbers(data), "one_thread_s": lambda: numbers(data, threads=1),
        "auc_s": lambda: auc(data.labels, data.probabilities),
        "gauc_s": lambda: grouped_auc(data.labels, data.probabilities, data.groups),
        "ne_s": lambda: normalised_entropy(data.labels, data.probabilities),
        "auc_interval_s": lambda: auc_interval(data.labels, data.probabilities),
        "all_with_intervals_s": lambda: evaluate(data.labels, data.probabilities, data.groups),
    }  # fmt: skip
    if peer:
        from sklearn.metrics import log_loss, roc_auc_score

        works["sklearn_auc_s"] = lambda: roc_auc_score(data.labels, data.probabilities)
        works["sklearn_log_loss_s"] = lambda: log_loss(data.labels, data.probabilities)
    for name, work in works.items():
        goal = Goal("<=", 5.0) if name == "evaluate_1e7_s" and rows == ROWS else None
        record.add(
            name, mean_over_seeds(timed(work, 1 if name.endswith("intervals_s") else repeats)), unit="s", goal=goal
        )
    cells = tuple((name, f"{figure['value']:.3f}") for name, figure in record.figures.items())
    record.tables.append(ClaimTable(f"{rows:,} predictions", ("figure", "seconds"), cells))
    return record


def main() -> int:
    """Measure and print; 3 when the goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a hundredth of the rows, without a goal")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--peer", action="store_true", help="time scikit-learn too")
    arguments = parser.parse_args()
    rows = ROWS // 100 if arguments.quick else ROWS
    record = measure(rows, 3, peer=arguments.peer)
    result = record.to_json({"rows": rows, "repeats": 3, "threads": 2})
    print(json.dumps(result, indent=2) if arguments.json else render_tables(result))
    return 3 if any(figure["holds"] is False for figure in record.figures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
