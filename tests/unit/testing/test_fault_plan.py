from __future__ import annotations

from itertools import pairwise

import pytest

from headrace.errors import ConfigError, DataError
from headrace.testing.faults import KINDS, Fault, FaultPlan

ROLES = ["head", "server-0", "worker-0", "worker-1"]


def test_the_same_seed_gives_the_same_plan_and_another_one_another() -> None:
    one, other = (FaultPlan.draw(5, ROLES, 50) for _ in range(2))
    assert one == other
    assert one != FaultPlan.draw(6, ROLES, 50)


def test_all_roles_and_kinds_come_up_in_order_of_time() -> None:
    plan = FaultPlan.draw(1, ROLES, 300, kinds=list(KINDS), every_s=(0.1, 0.2), length_s=(0.3, 0.4))
    assert {fault.name for fault in plan.faults} == set(ROLES)
    assert set(plan.counts()) == set(KINDS)
    times = [fault.at_s for fault in plan.faults]
    assert times == sorted(times)
    gaps = [later - sooner for sooner, later in pairwise(times)]
    assert 0.09 < min(gaps) <= max(gaps) < 0.21
    assert {fault.length_s for fault in plan.faults if fault.kind == "kill"} == {0.0}
    assert all(0.3 <= fault.length_s <= 0.4 for fault in plan.faults if fault.kind == "freeze")
    assert all(0.1 <= (fault.amount or 0) <= 0.5 for fault in plan.faults if fault.kind == "slow-cpu")
    assert plan.end_s >= times[-1]


def test_weights_decide_how_often_a_kind_comes_up() -> None:
    plan = FaultPlan.draw(2, ROLES, 400, kinds={"kill": 9.0, "freeze": 1.0})
    assert 320 <= plan.counts()["kill"] <= 395


def test_a_plan_goes_through_a_file(tmp_path) -> None:
    plan = FaultPlan.draw(3, ROLES, 40, kinds=list(KINDS))
    plan.write(tmp_path / "plan.json")
    assert FaultPlan.read(tmp_path / "plan.json") == plan


@pytest.mark.parametrize("text", ["", "[]", '{"faults": [{"kind": "kill"}]}', '{"faults": 3}'])
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="Plan of faults"):
        FaultPlan.from_json(text)


@pytest.mark.parametrize(
    "faults",
    [
        (Fault(1.0, "kill", "a"), Fault(0.5, "kill", "a")), (Fault(0.0, "kil", "a"),), (Fault(0.0, "slow-link", "a"),),
        (Fault(0.0, "freeze", "a", -1.0),),
    ],
)  # fmt: skip
def test_plans_that_cannot_be_carried_out_are_refused(faults) -> None:
    with pytest.raises(ConfigError):
        FaultPlan(faults=faults)


@pytest.mark.parametrize(
    "settings", [{"roles": []}, {"count": -1}, {"kinds": ["sabotage"]}, {"every_s": (1.0, 0.5)}, {"length_s": (-1, 1)}]
)
def test_draws_that_make_no_sense_are_refused(settings) -> None:
    with pytest.raises(ConfigError):
        FaultPlan.draw(**{"seed": 0, "roles": ROLES, "count": 3, **settings})
