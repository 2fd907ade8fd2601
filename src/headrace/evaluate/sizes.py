"""Running a paper's claim at one of its sizes, the same way for every paper."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

import torch

from headrace.config import known_name
from headrace.evaluate.claims import ClaimRecord

Size = Callable[[ClaimRecord], Mapping[str, object]]
"""Measures into a record and returns the settings it measured with."""


def run_size(size: str, sizes: Mapping[str, Size]) -> dict[str, object]:
    """Measure at one size, on one thread of torch, and return the result object of DESIGN §7 with its tables.

    One thread means one order of summation: the same numbers whatever the number of cores. `settings` gets `seconds`
    and `cpu_seconds`, that of finished child processes included.

    Args:
        size: Which.
        sizes: Those that the paper has.

    Raises:
        ConfigError: For a size that the paper does not have.
    """
    known_name("size", size, sizes)
    record, wall, processor, threads = ClaimRecord(), time.monotonic(), _processor_s(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        settings = sizes[size](record)
    finally:
        torch.set_num_threads(threads)
    spent = {"seconds": time.monotonic() - wall, "cpu_seconds": _processor_s() - processor}
    return record.to_json({"size": size, **settings, **{name: round(value) for name, value in spent.items()}})


def _processor_s() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
