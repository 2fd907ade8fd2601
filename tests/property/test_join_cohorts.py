"""Cohorts close exactly when they are complete, when the examples come from the event-time join."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.data import Collator, DenseFeature, Schema
from headrace.data.event_joiner import EventJoiner
from headrace.data.join import EventJoin, JoinConfig
from headrace.evaluate.progressive import ProgressiveMetric
from headrace.types import Events

SECOND = 1_000_000
WINDOW, LATENESS = 20, 6


def world(seed: int) -> list[Events]:
    """Entries of impressions and clicks, disordered within the lateness, in pieces of any size."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.uniform(0, 200, 300))
    clicked = rng.random(300) < 0.3
    moments = np.concatenate([times, (times + rng.uniform(0, WINDOW, 300))[clicked]])
    numbers = np.concatenate([np.arange(300), np.flatnonzero(clicked)])
    kinds = np.array(["impression"] * 300 + ["click"] * int(clicked.sum()))
    order = np.argsort(moments + rng.uniform(0, LATENESS * 0.999, len(moments)), kind="stable")
    rows = Events.from_columns({
        "key": [f"r{number}" for number in numbers[order]], "kind": kinds[order].tolist(),
        "event_time": (moments[order] * SECOND).astype(np.int64), "item": ["x"] * len(order),
        "price": pa.array(np.zeros(len(order)), pa.float32()),
        "score": pa.array(rng.uniform(0.1, 0.9, len(order)), pa.float32()),
    })  # fmt: skip
    cuts = np.sort(rng.choice(len(order), int(rng.integers(1, 40)), replace=False)).tolist()
    return [rows.slice(a, b - a) for a, b in zip([0, *cuts], [*cuts, len(order)], strict=True) if b > a]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([None, float(WINDOW + LATENESS)]), st.sampled_from([0.2, 1.0]))
@pytest.mark.filterwarnings("ignore")
def test_no_example_comes_after_its_cohort_closed(seed: int, attribution: float | None, rate: float) -> None:
    config = JoinConfig(window_s=WINDOW, lateness_s=LATENESS, negative_rate=rate)
    joiner = EventJoiner(EventJoin(config), Collator(Schema(features=(DenseFeature("price"),)), 1))
    metric = ProgressiveMetric(window_s=15, attribution_s=attribution)
    for entry in world(seed):
        batch = joiner.add(entry, None, None)
        for piece in batch.split(7) if batch is not None else ():
            metric.update(piece)
    early = metric.compute()["cohorts"]
    last = joiner.flush()
    if last is not None:
        metric.update(last)
    assert metric.compute()["after_close"] == 0
    assert early > 0
