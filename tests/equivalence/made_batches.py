"""Batches with two features of one table, for tests that learn them in several ways. No test: it is loaded by path."""

from __future__ import annotations

import numpy as np
import torch

from headrace.types import NO_VERSION, Batch, Jagged

ROWS, STEPS = 24, 6


def batches(*, place: bool = False) -> list[Batch]:
    """Return batches with two features of one table, and a history that is empty for some.

    Args:
        place: Whether there is a third id as well.
    """
    draw = np.random.default_rng(3)
    found = []
    for step in range(STEPS):
        lengths = draw.integers(0, 4, ROWS)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        one = torch.arange(ROWS + 1)
        ids = {
            "user": Jagged(torch.from_numpy(draw.integers(-8, 8, ROWS) + 6 * step), one),  # so that some expire
            "item": Jagged(torch.from_numpy(draw.integers(0, 40, ROWS)), one),
        }
        if place:
            ids["place"] = Jagged(torch.from_numpy(draw.integers(0, 60, ROWS)), one)
        ids["seen"] = Jagged(torch.from_numpy(draw.integers(0, 40, offsets[-1])), torch.from_numpy(offsets))
        times = torch.from_numpy(1_000_000 * (step + 1) + draw.integers(0, 1000, ROWS))
        ones = torch.ones(ROWS)
        found.append(Batch(
            ids=ids, dense=torch.from_numpy(draw.random((ROWS, 2), np.float32)),
            labels=torch.from_numpy((draw.random(ROWS) < 0.4).astype(np.float32)), weights=ones, event_times=times,
            accepted_times=times, example_ids=torch.arange(ROWS) + step * ROWS, predictions=ones * float("nan"),
            versions=torch.full((ROWS,), NO_VERSION), sample_rates=ones, extra={},
        ))  # fmt: skip
    return found
