"""Slow nodes of a shared cluster: rows by speed at once, another node when it pays, buckets of slow servers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headrace.runtime.actions import AdjustBatch, MoveBuckets, Nothing, Restart
from headrace.runtime.controller import Controller, ControllerConfig
from headrace.runtime.monitor import MonitorConfig
from headrace.runtime.solutions import Hysteresis
from headrace.runtime.solutions_nd import AntDtNd, RestartCost

COST = RestartCost(wait_s=5.0, stall_s=1.0)


class Cluster:
    """A controller and nodes whose speed is set from outside."""

    def __init__(self, solution: AntDtNd, workers: int = 4, servers: int = 2, batch: int = 400) -> None:
        self.controller = Controller(solution, ControllerConfig(batch=batch, monitor=MonitorConfig(long=20)))
        self.row_s = {f"worker-{place}": 0.001 for place in range(workers)}
        self.row_s |= {f"server-{place}": 0.001 for place in range(servers)}
        for name in self.row_s:
            self.controller.join(name, name[:6], 0.0)
        self.step, self.now = 0, 0.0

    def run(self, steps: int, rows_left: int | None = 1_000_000) -> list:
        """Take steps; return what was decided."""
        made = []
        for _ in range(steps):
            plan = self.controller.plan(self.step)
            took = max(rows * self.row_s[name] for name, rows in plan.sizes.items())
            for name, rows in plan.sizes.items():
                self.controller.record_step(name, self.step, rows, rows * self.row_s[name])
            for name in self.controller.monitor.nodes("server"):
                share = self.controller.shares.get(name, 0.5)
                rows = max(round(400 * share), 1)
                self.controller.record_requests(name, rows, rows * self.row_s[name])
            self.now += took
            made += self.controller.tick(self.now, self.step, rows_left=rows_left)
            self.step += 1
        return made

    def sizes(self) -> list[int]:
        return list(self.controller.plan(self.step).sizes.values())


def actions(decisions: list) -> list[type]:
    return [type(decision.action) for decision in decisions]


def test_rows_follow_speeds_three_steps_after_a_large_change() -> None:
    cluster = Cluster(AntDtNd(restart=COST))
    assert cluster.run(10) == []
    cluster.row_s["worker-2"] = 0.004
    made = cluster.run(4)
    assert actions(made) == [AdjustBatch]
    assert made[0].step == 12
    # sum of speeds is 3.25 workers
    assert cluster.sizes() == [124, 123, 30, 123]


def test_rows_come_back_when_the_node_is_fast_again() -> None:
    cluster = Cluster(AntDtNd(restart=RestartCost(tries=0)))
    cluster.run(10)
    cluster.row_s["worker-2"] = 0.004
    cluster.run(10)
    cluster.row_s["worker-2"] = 0.001
    made = cluster.run(15)
    assert actions(made) == [AdjustBatch]
    assert cluster.sizes() == [100] * 4


def test_a_node_that_is_slow_for_good_is_started_again_once() -> None:
    cluster = Cluster(AntDtNd(restart=COST))
    cluster.row_s["worker-0"] = 0.006
    made = cluster.run(60)
    assert actions(made) == [AdjustBatch, Restart]
    assert made[1].action == Restart("worker-0")
    assert made[1].numbers["saved_s"] > made[1].numbers["stall_s"]
    cluster.controller.done(cluster.controller.orders()[0], cluster.now)
    cluster.controller.join("worker-0", "worker", cluster.now)
    # no faster elsewhere: slow by kind, so never again
    assert Restart not in actions(cluster.run(100))


def test_a_restart_that_does_not_pay_is_not_done_and_the_log_says_why() -> None:
    cluster = Cluster(AntDtNd(restart=COST))
    cluster.row_s["worker-0"] = 0.006
    assert actions(cluster.run(60, rows_left=20 * 400)) == [AdjustBatch]
    why = [decision for decision in cluster.controller.decisions if isinstance(decision.action, Nothing)]
    assert any("costs more than it saves" in decision.reason and "saved_s" in decision.numbers for decision in why)


def test_a_stream_has_no_end_so_a_restart_pays() -> None:
    cluster = Cluster(AntDtNd(restart=COST))
    cluster.row_s["worker-0"] = 0.006
    assert Restart in actions(cluster.run(60, rows_left=None))


def test_a_slow_server_gives_buckets_away_and_is_then_started_again() -> None:
    cluster = Cluster(AntDtNd(restart=COST))
    cluster.row_s["server-1"] = 0.006
    made = cluster.run(4)
    assert actions(made) == [MoveBuckets]
    assert dict(made[0].action.shares) == pytest.approx({"server-0": 6 / 7, "server-1": 1 / 7}, abs=0.02)
    assert made[0].action.shares["server-1"] < 1 / 7  # steps wait for the worst of its requests
    cluster.controller.done(cluster.controller.orders()[0], cluster.now)
    made = cluster.run(40)
    assert [decision.action for decision in made] == [Restart("server-1")]


def test_a_move_that_came_to_less_than_was_meant_is_corrected_once_it_shows() -> None:
    cluster = Cluster(AntDtNd(restart=COST, restart_server=RestartCost(tries=0)))
    cluster.row_s["server-1"] = 0.006
    controller = cluster.controller
    assert actions(cluster.run(4)) == [MoveBuckets]
    controller.done(controller.orders()[0], cluster.now)
    meant, controller.shares = dict(controller.shares), {"server-0": 0.82, "server-1": 0.18}  # what rows really do

    def view(*args):
        return replace(Controller.view(controller, *args), shares=meant)

    controller.view = view
    made = cluster.run(10)
    assert actions(made) == [MoveBuckets]
    assert made[0].step > 6  # not before it is known
    controller.done(controller.orders()[0], cluster.now)
    assert cluster.run(40) == []


def test_look_ups_that_take_no_time_to_speak_of_move_nothing() -> None:
    cluster = Cluster(AntDtNd())
    cluster.row_s |= {"server-0": 1e-6, "server-1": 6e-6}
    assert cluster.run(40) == []


def test_batches_are_not_changed_for_a_slow_server() -> None:
    cluster = Cluster(AntDtNd(move_buckets=False, restart_server=RestartCost(tries=0)))
    cluster.row_s["server-1"] = 0.006
    assert cluster.run(40) == []


def test_limits_of_memory_are_kept() -> None:
    cluster = Cluster(AntDtNd(rows_max=110, rows_min=10, restart=RestartCost(tries=0)))
    cluster.row_s["worker-0"] = 0.1
    cluster.run(20)
    assert cluster.sizes() == [70, 110, 110, 110]


def test_small_changes_are_left_alone() -> None:
    cluster = Cluster(AntDtNd())
    cluster.row_s["worker-0"] = 0.00115
    assert cluster.run(200) == []


def test_a_change_of_little_gain_waits_for_the_interval() -> None:
    cluster = Cluster(AntDtNd(restart=RestartCost(tries=0), hysteresis=Hysteresis(min_interval=30, ratio=1.1)))
    cluster.run(40)
    cluster.row_s["worker-0"] = 0.004
    cluster.run(4)
    cluster.row_s["worker-0"] = 0.003
    made = cluster.run(60)
    assert made
    assert made[0].step >= 43 + 29


@pytest.mark.parametrize("workers", [1, 2, 50])
def test_any_number_of_workers(workers) -> None:
    cluster = Cluster(AntDtNd(restart=COST), workers=workers, batch=100 * workers)
    cluster.row_s[f"worker-{workers - 1}"] = 0.005
    cluster.run(10)
    sizes = cluster.sizes()
    assert sum(sizes) == 100 * workers
    assert workers == 1 or sizes[-1] < 50


def test_the_view_alone_decides() -> None:
    cluster = Cluster(AntDtNd())
    cluster.run(20)
    view = cluster.controller.view(cluster.now)
    slow = replace(view, workers=replace(view.workers, row_s=np.array([0.001, 0.001, 0.001, 0.01])))
    assert isinstance(AntDtNd().decide(slow)[0].action, AdjustBatch)
    assert isinstance(AntDtNd().decide(view)[0].action, Nothing)
