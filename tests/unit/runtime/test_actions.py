"""Actions survive JSON, and decisions say what, why and from which numbers."""

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
    Plan,
    Remove,
    Restart,
    action_from_json,
    action_json,
    action_text,
)  # fmt: skip

ACTIONS = [
    AdjustBatch({"worker-0": 3, "worker-1": 5}, {"worker-1": 2}), AdjustRate(0.5), Backup(1), Restart("server-0"),
    MoveBuckets({"server-0": 0.25, "server-1": 0.75}), Add(2), Remove(("worker-1", "worker-2")), Nothing("calm"),
]  # fmt: skip


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: type(action).__name__)
def test_an_action_comes_back_from_json(action) -> None:
    assert action_from_json(json.loads(json.dumps(action_json(action)))) == action
    assert action_text(action).startswith(type(action).__name__)


@pytest.mark.parametrize(
    "plain", [{}, {"action": "Restrat", "node": "x"}, {"action": "Restart"}, {"action": "Add", "x": 1}]
)
def test_what_is_no_action_is_refused(plain) -> None:
    with pytest.raises(ConfigError):
        action_from_json(plain)


def test_unknown_actions_are_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'Restart'"):
        action_from_json({"action": "Restrat"})


def test_a_long_text_is_cut() -> None:
    assert action_text(AdjustBatch({f"worker-{n}": 1 for n in range(100)})).endswith("and 84 more")


def test_a_plan_comes_back_from_json() -> None:
    plan = Plan({"worker-0": 3}, {"worker-0": 2}, 1, 0.5, 7)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_a_decision_is_one_line_with_action_reason_and_numbers() -> None:
    line = json.loads(json.dumps(Decision(Add(2), "too slow", {"lag": 9}, step=4, time_s=1.5).to_json()))
    assert (line["action"], line["reason"], line["numbers"], line["step"]) == ("Add 2", "too slow", {"lag": 9}, 4)
    assert action_from_json(line["order"]) == Add(2)
