"""Plans are agreed in advance and exact, orders are given once, decisions are written down."""

from __future__ import annotations

import json

import pytest

from headrace.errors import ConfigError
from headrace.runtime.actions import (
    Add,
    AdjustBatch,
    AdjustRate,
    Backup,
    Decision,
    MoveBuckets,
    Nothing,
    Remove,
    Restart,
)
from headrace.runtime.controller import AWAITED_S, NOTHING_EVERY_S, Controller, ControllerConfig, read_decisions


class Scripted:
    """A solution that wants what it is told, once."""

    def __init__(self, *wanted) -> None:
        self.wanted = list(wanted)

    def decide(self, view):
        return (Decision(self.wanted.pop(0) if self.wanted else Nothing("calm"), "as told"),)


def controller(*wanted, workers: int = 2, batch: int = 40, **settings) -> Controller:
    made = Controller(Scripted(*wanted), ControllerConfig(batch=batch, **settings))
    for place in range(workers):
        made.join(f"worker-{place}", "worker", 0.0)
    return made


def test_a_change_takes_effect_where_nobody_was_told_the_plan() -> None:
    own = controller(AdjustBatch({"worker-0": 30, "worker-1": 10}), margin=2)
    told = {step: own.plan(step) for step in range(5)}
    made = own.tick(1.0, 1)
    assert made[0].agree_at == 6
    assert {step: own.plan(step) for step in range(5)} == told
    assert dict(own.plan(5).sizes) == {"worker-0": 20, "worker-1": 20}
    assert dict(own.plan(6).sizes) == {"worker-0": 30, "worker-1": 10}
    assert own.plan(6).number > own.plan(5).number


def test_a_change_begins_at_once_where_nobody_has_begun_the_next_step() -> None:
    own = controller(AdjustBatch({"worker-0": 30, "worker-1": 10}), AdjustRate(0.5))
    for step in range(5):
        own.plan(step)
    assert own.tick(1.0, 1, anew=True)[0].agree_at == 2
    assert dict(own.plan(1).sizes) == {"worker-0": 20, "worker-1": 20}
    assert dict(own.plan(2).sizes) == {"worker-0": 30, "worker-1": 10}
    assert own.tick(2.0, 2, anew=True)[0].agree_at == 3
    assert (own.plan(2).rate, own.plan(3).rate) == (1.0, 0.5)


def test_nothing_is_decided_while_a_change_is_under_way() -> None:
    own = controller(AdjustRate(0.5), AdjustRate(0.25))
    own.plan(9)
    assert len(own.tick(1.0, 0)) == 1
    assert own.tick(2.0, 5) == []
    own.plan(10)
    assert own.tick(3.0, 10)[0].action == AdjustRate(0.25)


def test_the_batch_stays_exact_when_workers_come_and_go() -> None:
    own = controller(workers=3, batch=41)
    for change in (lambda: own.leave("worker-0", 1.0), lambda: own.join("worker-9", "worker", 2.0),
                   lambda: own.leave("worker-1", 3.0), lambda: own.leave("nobody", 3.0)):  # fmt: skip
        change()
        assert sum(own.plan(0).sizes.values()) == 41
    assert set(own.plan(0).sizes) == {"worker-2", "worker-9"}


def test_steps_that_are_not_committed_are_planned_afresh_by_new_members() -> None:
    own = controller(AdjustBatch({"worker-0": 30, "worker-1": 10}))
    own.plan(3)
    own.tick(1.0, 0)
    own.leave("worker-1", 1.0, "dead")
    assert [dict(own.plan(step).sizes) for step in (1, 4)] == [{"worker-0": 40}] * 2


def test_after_a_balanced_plan_a_new_member_gets_what_its_speed_may_be() -> None:
    own = controller(AdjustBatch({"worker-0": 30, "worker-1": 10}))
    for step in range(1, 5):
        own.record_step("worker-0", step, 10, 1.0)
        own.record_step("worker-1", step, 10, 3.0)
    own.tick(1.0, 4)
    own.join("worker-2", "worker", 2.0)
    assert dict(own.plan(5).sizes) == {"worker-0": 22, "worker-1": 7, "worker-2": 11}


def test_rows_by_worker_may_stay_instead_and_the_rate_follows() -> None:
    own = controller(workers=1, batch=10, keep="per_worker", rate_rule="sqrt")
    for place in range(1, 4):
        own.join(f"worker-{place}", "worker", 0.0)
    assert own.batch == 40
    assert own.plan(0).rate == 2.0
    assert dict(own.plan(0).sizes) == {f"worker-{place}": 10 for place in range(4)}
    assert own.decisions[-1].action == AdjustRate(2.0)


def test_with_backup_workers_those_waited_for_have_the_batch() -> None:
    own = controller(Backup(1), workers=4, batch=30)
    own.tick(0.0, 0)
    plan = own.plan(1)
    assert (plan.backup, dict(plan.sizes)) == (1, {f"worker-{place}": 10 for place in range(4)})
    own.leave("worker-0", 1.0)
    assert sum(own.plan(1).sizes.values()) == 30 + 15


@pytest.mark.parametrize("order", [Restart("worker-0"), MoveBuckets({"server-0": 1.0}), Add(1), Remove(("worker-1",))])
def test_an_order_is_given_once_until_it_is_done(order) -> None:
    own = controller(order, order, order, order)
    assert [own.tick(1.0, 0)[0].action, own.tick(2.0, 1), own.orders()] == [order, [], [order]]
    assert own.orders() == []
    own.done(order, 4.0)
    if isinstance(order, (Restart, Add)):  # it is awaited until it is there
        assert own.tick(4.5, 2) == []
        own.join("worker-0" if isinstance(order, Restart) else "worker-5", "worker", 4.6)
    own.tick(5.0, 5)
    assert own.orders() == [order]


def test_waiting_for_nodes_is_measured() -> None:
    own = controller(Restart("worker-0"))
    own.tick(1.0, 0)
    assert own.view(1.0).moving == {"worker-0"}
    own.done(own.orders()[0], 2.0)
    assert own.view(3.0).moving == {"worker-0"}
    own.leave("worker-0", 3.0)
    own.join("worker-0", "worker", 8.0)
    assert own.view(8.0).moving == frozenset()
    assert (own.view(9.0).pending_s, dict(own.view(9.0).attempts)) == (7.0, {"worker-0": 1})


def test_shares_hold_when_buckets_have_moved() -> None:
    own = controller(MoveBuckets({"server-0": 0.2, "server-1": 0.8}), MoveBuckets({"server-0": 1.0}))
    own.tick(1.0, 0)
    assert own.shares == {}
    own.done(own.orders()[0], 2.0)
    own.tick(3.0, 1)
    own.done(own.orders()[0], 4.0, worked=False)
    assert own.shares == {"server-0": 0.2, "server-1": 0.8}


def test_the_first_steps_under_a_plan_are_not_looked_at() -> None:
    own = controller(ignored=2)
    for step in range(5):
        own.record_step("worker-0", step, 10, 1.0)
    # two of the plan, and one that warms the worker up; they overlap
    assert own.monitor.speeds("worker").samples.tolist() == [3, 0]


def test_plans_that_are_not_exact_are_refused() -> None:
    for sizes in ({"worker-0": 40}, {"worker-0": 30, "worker-1": 9}, {"worker-0": 41, "worker-1": -1}):
        with pytest.raises(ConfigError):
            controller(AdjustBatch(sizes)).tick(0.0, 0)


def test_decisions_are_lines_with_numbers_and_reasons(tmp_path) -> None:
    log = tmp_path / "decisions.jsonl"
    own = Controller(Scripted(Add(1)), ControllerConfig(batch=4), log=log)
    own.join("worker-0", "worker", 0.0)
    for step in range(200):
        own.tick(step * 0.1, step)
    with log.open("a") as file:
        file.write('{"cut')
    lines = list(read_decisions(log))
    assert [line["action"] for line in lines] == ["Add 1", "Nothing calm"]
    assert all(set(line) >= {"time", "step", "action", "order", "reason", "numbers"} for line in lines)
    assert json.dumps(lines)
    own.tick(NOTHING_EVERY_S + 30, 200)
    assert len(own.decisions) == 3


def test_memory_is_bounded() -> None:
    own = controller()
    for step in range(3000):
        own.plan(step)
        own.tick(float(step) * 100, step)
    assert len(own.decisions) <= 1000
    assert len(own._plans) <= 2


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"batch": 1, "keep": "x"}, {"batch": 1, "rate_rule": "x"},
                                   {"batch": 1, "margin": 0}])  # fmt: skip
def test_settings_are_checked(wrong) -> None:
    with pytest.raises(ConfigError):
        ControllerConfig(**wrong)


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ConfigError, match="'worker'"):
        controller().join("x", "wroker", 0.0)


def test_a_full_disk_ends_nothing_and_its_torn_lines_are_left_out(tmp_path) -> None:
    log = tmp_path / "there" / "decisions.jsonl"
    own = Controller(Scripted(Add(1), Restart("worker-0"), AdjustRate(0.5)), ControllerConfig(batch=4), log=log)
    own.join("worker-0", "worker", 0.0)
    own.tick(1.0, 0)  # there is no such folder
    log.parent.mkdir()
    log.write_text('{"action": "Add 1", "ord')  # and this much of it may have been written
    own.tick(2.0, 1)
    own.tick(3.0, 2)
    assert [line["action"] for line in read_decisions(log)] == ["Restart worker-0", "AdjustRate 0.5"]
    assert [line["action"] for line in own.noted] == ["Add 1", "Restart worker-0", "AdjustRate 0.5"]
    later = Controller(Scripted(), ControllerConfig(batch=4), log=log)
    assert [line["action"] for line in later.noted] == ["Restart worker-0", "AdjustRate 0.5"]


def test_a_node_that_never_comes_may_be_ordered_again() -> None:
    own = controller(Restart("worker-0"), Restart("worker-0"), Restart("worker-0"))
    own.tick(1.0, 0)
    own.done(own.orders()[0], 2.0)
    own.tick(AWAITED_S, 1)
    assert own.orders() == []
    own.tick(AWAITED_S + 2.0, 2)
    assert own.orders() == [Restart("worker-0")]


def test_nobody_is_left_out_where_all_workers_make_the_sums() -> None:
    with pytest.raises(ConfigError, match="sums"):
        controller(Backup(1), leaves_out=False).tick(0.0, 0)
    controller(Backup(0), leaves_out=False).tick(0.0, 0)
