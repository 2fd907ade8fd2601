"""Patterns say the same to the simulator and to a real run, and survive JSON."""

from __future__ import annotations

import json

import pytest

from headrace.errors import ConfigError
from headrace.runtime.simulate_patterns import (
    Pattern,
    Slow,
    mixed_devices,
    no_stragglers,
    persistent_server,
    persistent_worker,
    transient_worker,
)  # fmt: skip

PATTERNS = [
    no_stragglers(worker_row_s=0.001), persistent_worker(worker_row_s=0.001), transient_worker(worker_row_s=0.001),
    persistent_server(worker_row_s=0.001, server_row_s=0.002), mixed_devices(worker_row_s=0.001),
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.name)
def test_a_pattern_comes_back_from_json(pattern) -> None:
    assert Pattern.from_json(json.loads(json.dumps(pattern.to_json()))) == pattern
    assert Pattern.from_json(json.dumps(pattern.to_json())) == pattern


def test_slowness_begins_and_ends() -> None:
    pattern = transient_worker(worker_row_s=0.01)
    assert [pattern.worker_s(0, 10, progress) for progress in (0.0, 0.33, 0.34, 0.66, 0.67, 1.0)] == pytest.approx(
        [0.1, 0.1, 0.4, 0.4, 0.1, 0.1]
    )
    assert pattern.worker_s(1, 10, 0.5) == pytest.approx(0.1)


def test_the_last_row_is_as_slow_as_those_before_it() -> None:
    assert persistent_worker(worker_row_s=0.1).worker_s(0, 1, 1.0) == pytest.approx(0.6)


def test_another_node_heals_what_is_slow_by_place_and_not_what_is_slow_by_kind() -> None:
    assert persistent_worker(worker_row_s=0.1).worker_s(0, 1, 0.5, generation=1) == pytest.approx(0.1)
    assert mixed_devices(worker_row_s=0.1).worker_s(3, 1, 0.5, generation=1) == pytest.approx(0.3)


def test_servers_are_slow_by_row() -> None:
    pattern = persistent_server(worker_row_s=0.0, server_row_s=0.001, index=1)
    assert pattern.server_s(0, 100) == pytest.approx(0.1)
    assert pattern.server_s(1, 100) == pytest.approx(0.6)


def test_two_reasons_multiply() -> None:
    assert Pattern(slow=(Slow(factor=2.0), Slow(factor=3.0, start=0.5))).factor("worker", 0, 0.6) == 6.0


@pytest.mark.parametrize("wrong", [{"factor": 0.5}, {"start": 0.6, "stop": 0.5}, {"kind": "heads"}, {"index": -1}])
def test_wrong_slowness_is_refused(wrong) -> None:
    with pytest.raises(ConfigError):
        Slow(**wrong)


def test_other_json_is_refused() -> None:
    with pytest.raises(ConfigError):
        Pattern.from_json({"nonsense": 1})
