"""Workers are added while a stream runs away and removed when fewer would do; neither for noise."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.errors import ConfigError
from headrace.runtime.actions import Add, Remove
from headrace.runtime.controller import Controller, ControllerConfig
from headrace.runtime.solutions_scale import LagScaling


def streamed(comes_per_s, *, workers: int = 2, seconds: int = 200, noise: float = 0.0, **settings) -> Controller:
    """Learn a stream with workers of 100 rows a second each; orders are carried out ten seconds later."""
    controller = Controller(LagScaling(**settings), ControllerConfig(batch=40))
    for place in range(workers):
        controller.join(f"worker-{place}", "worker", 0.0)
    draw, waiting, total, step, ready = np.random.default_rng(0), 0.0, 0.0, 0, []
    for second in range(seconds):
        names = controller.monitor.nodes("worker")
        able = 100.0 * len(names)
        waiting += (comes_per_s(second) if callable(comes_per_s) else comes_per_s) * draw.lognormal(0, noise)
        learned = min(waiting, able)
        waiting -= learned
        for name in names:
            controller.record_step(name, step + 1, int(learned / len(names)), learned / len(names) / 100)
        total += learned
        step = int(total / 40)
        controller.record_lag(int(waiting), float(second))
        controller.tick(float(second), step)
        ready += [(second + 10, order) for order in controller.orders()]
        for at, order in list(ready):
            if at <= second:
                ready.remove((at, order))
                for number in range(order.count if isinstance(order, Add) else 0):
                    controller.join(f"worker-{second}-{number}", "worker", float(second))
                for name in order.nodes if isinstance(order, Remove) else ():
                    controller.leave(name, float(second))
                controller.done(order, float(second))
    return controller


def made(controller: Controller) -> list:
    return [decision.action for decision in controller.decisions if isinstance(decision.action, (Add, Remove))]


def test_workers_come_until_the_stream_is_kept_up_with() -> None:
    controller = streamed(450.0)
    kinds = [type(action) for action in made(controller)]
    assert kinds == sorted(kinds, key=[Add, Remove].index)  # none is added after one was removed
    assert 5 <= len(controller.monitor.nodes("worker")) <= 9
    assert controller.monitor.lag[-1][1] < 4500


def test_workers_go_when_the_stream_is_thin() -> None:
    controller = streamed(80.0, workers=4)
    assert all(isinstance(action, Remove) for action in made(controller))
    assert len(controller.monitor.nodes("worker")) == 2


def test_a_stream_that_is_kept_up_with_is_left_alone() -> None:
    assert made(streamed(170.0, noise=0.2)) == []


def test_bounds_are_kept() -> None:
    assert len(streamed(5000.0, workers_max=3).monitor.nodes("worker")) == 3
    assert len(streamed(1.0, workers=2, workers_min=2).monitor.nodes("worker")) == 2
    assert made(streamed(10.0, workers=1, workers_min=2, seconds=30))[0] == Add(1)


@pytest.mark.parametrize("wrong", [{"target_s": 0}, {"workers_min": 0}, {"window": 1}, {"spare": 1.0}])
def test_settings_are_checked(wrong) -> None:
    with pytest.raises(ConfigError):
        LagScaling(**wrong)
