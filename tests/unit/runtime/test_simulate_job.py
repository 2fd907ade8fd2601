"""The analytic step and bound are what they are by hand; overheads are fitted."""

from __future__ import annotations

import pytest

from headrace.errors import ConfigError
from headrace.runtime.simulate_job import Overheads, SimulatedJob, analytic_step_s, bound
from headrace.runtime.simulate_patterns import (
    mixed_devices,
    no_stragglers,
    persistent_server,
    persistent_worker,
    transient_worker,
)

JOB = {"rows": 12_000, "batch": 400}


def test_bounds_by_hand() -> None:
    # 4 workers, sum of speeds 3 + 1/6
    own = persistent_worker(worker_row_s=0.001)
    assert bound(own, **JOB, replace=False).speedup == pytest.approx(6 * (3 + 1 / 6) / 4)
    assert bound(own, **JOB).speedup == pytest.approx(6.0)
    assert bound(own, **JOB).bsp_s == pytest.approx(18.0)
    transient = transient_worker(worker_row_s=0.001)
    assert bound(transient, **JOB).speedup == pytest.approx(2 / (2 / 3 + (4 / 3.25) / 3))
    assert bound(mixed_devices(worker_row_s=0.001), **JOB).speedup == pytest.approx(3 * (2 + 2 / 3) / 4)
    assert bound(no_stragglers(worker_row_s=0.001), **JOB).speedup == pytest.approx(1.0)


def test_bounds_of_servers_by_hand() -> None:
    own = persistent_server(worker_row_s=0.001, server_row_s=0.002)
    # 100 rows a worker: 0.1 s of compute, look-ups of 0.1 s, or 0.6 s at the slow server
    assert bound(own, **JOB).speedup == pytest.approx(0.7 / 0.2)
    # buckets by speed: 0.2 s / (1 + 1/6)
    assert bound(own, **JOB, replace=False).speedup == pytest.approx(0.7 / (0.1 + 0.2 / (7 / 6)))


def test_a_step_by_hand() -> None:
    pattern = persistent_server(worker_row_s=0.001, server_row_s=0.002)
    assert analytic_step_s(pattern, [100] * 4) == pytest.approx(0.7)
    assert analytic_step_s(pattern, [100, 50], shares=[0.0, 1.0]) == pytest.approx(0.3)
    assert analytic_step_s(persistent_worker(worker_row_s=0.01), [10, 30], generation=1) == pytest.approx(0.3)


def test_overheads_follow_the_measurements() -> None:
    assert Overheads.fitted({2: 0.004, 4: 0.006}).sync_s(8) == pytest.approx(0.010)
    assert Overheads.fitted({4: 0.008}, wait_s=3.0) == Overheads(step_s=0.008, wait_s=3.0)
    # noise: fewer seconds with more workers is not believed
    assert Overheads.fitted({2: 0.006, 4: 0.004}).sync_s(100) == pytest.approx(0.005)
    with pytest.raises(ConfigError):
        Overheads.fitted({})


@pytest.mark.parametrize("wrong", [{"mode": "both"}, {"workers": 0}, {"rows": 1}, {"noise": -1}])
def test_settings_are_checked(wrong) -> None:
    with pytest.raises(ConfigError):
        SimulatedJob(**{**JOB, **wrong})
