"""The ways that ours is compared with, several at once, and solutions as plain values."""

from __future__ import annotations

import json

import pytest

from headrace.errors import ConfigError
from headrace.runtime.actions import AdjustBatch, Backup, Nothing
from headrace.runtime.controller import Controller, ControllerConfig
from headrace.runtime.solutions import (
    Asp,
    BackupWorkers,
    Hysteresis,
    LbBsp,
    Solution,
    Static,
    Together,
    solution_from_json,
    solution_json,
)
from headrace.runtime.solutions_dd import AntDtDd
from headrace.runtime.solutions_nd import AntDtNd, RestartCost
from headrace.runtime.solutions_scale import LagScaling

ALL = [
    Static(), Asp(), BackupWorkers(count=2), LbBsp(every=3), AntDtNd(restart=RestartCost(tries=0), rows_max=9),
    AntDtDd(kinds={"worker-0": "fast"}), LagScaling(target_s=5), Together(solutions=(LbBsp(), LagScaling())),
]  # fmt: skip


def driven(solution: Solution, row_s: list[float], *, steps: int = 20, batch: int = 120) -> Controller:
    """A controller after steps of workers with these speeds."""
    controller = Controller(solution, ControllerConfig(batch=batch))
    for place in range(len(row_s)):
        controller.join(f"worker-{place}", "worker", 0.0)
    for step in range(steps):
        for name, rows in controller.plan(step).sizes.items():
            controller.record_step(name, step, rows, rows * row_s[int(name[7:])])
        controller.tick(float(step), step, rows_left=(steps - step) * batch)
    return controller


@pytest.mark.parametrize("solution", ALL, ids=lambda each: type(each).__name__)
def test_a_solution_comes_back_from_json(solution) -> None:
    assert solution_from_json(json.loads(json.dumps(solution_json(solution)))) == solution
    assert isinstance(solution, Solution)


@pytest.mark.parametrize("plain", [{}, {"type": "headrace.runtime.solutions:Nobody"}, {"type": "nowhere:A"},
                                   {"type": "headrace.runtime.solutions:rounded"},
                                   {"type": "headrace.runtime.solutions:Static", "speed": 3}])  # fmt: skip
def test_other_json_is_refused(plain) -> None:
    with pytest.raises(ConfigError):
        solution_from_json(plain)


@pytest.mark.parametrize("solution", [Static(), Asp()])
def test_plain_ways_change_nothing(solution) -> None:
    controller = driven(solution, [1.0, 6.0])
    assert {type(decision.action) for decision in controller.decisions} == {Nothing}
    assert set(controller.plan(20).sizes.values()) == {60}


def test_backup_workers_are_set_once() -> None:
    controller = driven(BackupWorkers(count=5), [1.0, 1.0, 6.0])
    assert [decision.action for decision in controller.decisions if isinstance(decision.action, Backup)] == [Backup(2)]
    assert controller.plan(20).backup == 2


def test_balanced_sizes_follow_the_speeds() -> None:
    assert dict(driven(LbBsp(every=1), [1.0, 1.0, 2.0]).plan(20).sizes) == {
        "worker-0": 48,
        "worker-1": 48,
        "worker-2": 24,
    }


def test_all_solutions_of_several_are_heard() -> None:
    controller = driven(Together(solutions=(BackupWorkers(), LbBsp())), [1.0, 1.0, 2.0], steps=2)
    assert any(isinstance(decision.action, Backup) for decision in controller.decisions)
    controller = driven(Together(solutions=(Static(), LbBsp(every=1))), [1.0, 1.0, 2.0])
    assert any(isinstance(decision.action, AdjustBatch) for decision in controller.decisions)


@pytest.mark.parametrize("wrong", [{"ratio": 1.0}, {"min_change": 1.0}, {"patience": 0}, {"min_interval": -1}])
def test_settings_are_checked(wrong) -> None:
    with pytest.raises(ConfigError):
        Hysteresis(**wrong)
