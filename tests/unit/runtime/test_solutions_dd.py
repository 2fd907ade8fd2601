"""Devices of different kinds: measured, put into kinds, solved once."""

from __future__ import annotations

import pytest

from headrace.errors import ConfigError
from headrace.runtime.actions import AdjustBatch, Decision
from headrace.runtime.controller import Controller, ControllerConfig
from headrace.runtime.solutions_dd import AntDtDd


def made(
    solution: AntDtDd, row_s: list[float], *, batch: int = 800, steps: int = 12
) -> tuple[Controller, list[Decision]]:
    controller = Controller(solution, ControllerConfig(batch=batch))
    for place in range(len(row_s)):
        controller.join(f"worker-{place}", "worker", 0.0)
    changes = []
    for step in range(steps):
        for name, rows in controller.plan(step).sizes.items():
            controller.record_step(name, step, rows, rows * row_s[int(name[7:])])
        changes += controller.tick(float(step), step)
    return controller, changes


def test_unequal_devices_end_together() -> None:
    controller, changes = made(AntDtDd(), [0.001, 0.00102, 0.003, 0.00305])
    assert [type(change.action) for change in changes] == [AdjustBatch]
    assert changes[0].numbers["devices"] == [2, 2]
    assert list(controller.plan(12).sizes.values()) == [300, 300, 100, 100]


def test_memory_asks_for_accumulation() -> None:
    controller, _ = made(AntDtDd(rows_max=100), [0.001, 0.001, 0.003, 0.003])
    plan = controller.plan(12)
    assert dict(plan.accumulation) == {"worker-0": 3, "worker-1": 3, "worker-2": 1, "worker-3": 1}
    assert sum(plan.sizes.values()) == 800
    assert all(rows <= 100 * plan.accumulation[name] for name, rows in plan.sizes.items())


def test_it_is_solved_again_when_membership_changes() -> None:
    controller, _ = made(AntDtDd(), [0.001, 0.003])
    controller.join("worker-2", "worker", 20.0)
    changes = []
    for step in range(12, 24):
        for name, rows in controller.plan(step).sizes.items():
            controller.record_step(name, step, rows, rows * {"worker-0": 0.001, "worker-1": 0.003}.get(name, 0.001))
        changes += controller.tick(float(step), step)
    assert len(changes) == 1
    assert controller.plan(30).sizes["worker-2"] == controller.plan(30).sizes["worker-0"]


def test_kinds_may_be_given() -> None:
    solution = AntDtDd(kinds={"worker-0": "a", "worker-1": "b", "worker-2": "a"})
    _, changes = made(solution, [0.001, 0.001, 0.003], batch=600)
    assert changes == [] or changes[0].numbers["devices"] == [2, 1]


@pytest.mark.parametrize("wrong", [{"probe": 0}, {"alike": 0}, {"rows_min": 5, "rows_max": 4}])
def test_settings_are_checked(wrong) -> None:
    with pytest.raises(ConfigError):
        AntDtDd(**wrong)
