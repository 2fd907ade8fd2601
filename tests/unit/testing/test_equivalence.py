from __future__ import annotations

import numpy as np
import pytest
import torch

from headrace.testing import Tolerance, Toy, ToyConfig, assert_same_state, assert_same_trajectory, first_difference
from headrace.testing.publish_checks import toy_changes
from headrace.types import Events, Version

TENSOR = torch.tensor([[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize(
    "value",
    [
        None, True, 3, 2.5, "text", b"bytes", float("nan"), [1, [2, None]], {"a": {"b": 1}}, TENSOR, np.arange(3),
        torch.tensor([float("nan"), 1.0]), torch.zeros(0, 3), torch.tensor(1), (1, 2), toy_changes(1)[0],
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_thing_equals_itself(value) -> None:
    assert first_difference(value, value) is None


@pytest.mark.parametrize(
    ("one", "other", "path"),
    [
        ({"a": 1}, {"a": 2}, "a: 1 and 2"),
        ({"a": 1}, {}, "a: only in the first"),
        ({}, {"a": 1}, "a: only in the second"),
        ({"a": {"b": [0, 1]}}, {"a": {"b": [0, 2]}}, "a.b[1]: 1 and 2"),
        ([1, 2], [1], "value: 2 and 1 entries"),
        (1, 1.0, "value: a int and a float"),
        (True, 1, "value: a bool and a int"),
        (0.0, -0.0, "value: 0.0 and -0.0"),
        (1.0, float("nan"), "value: 1.0 and nan"),
        ("a", "b", "value: 'a' and 'b'"),
        (TENSOR, TENSOR + torch.tensor([0.0, 1.0]), "value[0, 1]: 2.0 and 3.0 (2 of 4 elements differ)"),
        (TENSOR, TENSOR.double(), "value: float32 (2, 2) and float64 (2, 2)"),
        (TENSOR, TENSOR[0], "value: float32 (2, 2) and float32 (2,)"),
        (torch.tensor([0.0]), torch.tensor([-0.0]), "value[0]: 0.0 and -0.0"),
        (torch.tensor(1), torch.tensor(2), "value: 1 and 2"),
        (np.arange(3), np.array([0, 1, 3]), "value[2]: 2 and 3 (1 of 3 elements differ)"),
        ({"t": TENSOR}, {"t": [1]}, "t: a Tensor and a list"),
        (Version(1, 0), Version(1, -1), "parent: 0 and -1"),
    ],
)
def test_the_first_difference_is_named(one, other, path) -> None:
    assert first_difference(one, other) == path


def test_the_order_of_a_mapping_does_not_matter() -> None:
    assert first_difference({"a": 1, "b": 2}, {"b": 2, "a": 1}) is None


def test_changes_are_compared_to_the_last_tensor() -> None:
    one, other = toy_changes(2)[1], toy_changes(2)[1]
    assert first_difference(one, other) is None
    other.tables["toy"].rows[1, 1] += 1
    assert str(first_difference(one, other)).startswith("tables.toy.rows[1, 1]: ")


def test_batches_are_compared_to_the_last_id() -> None:
    one, other = (Toy(ToyConfig()).batch(0, 5) for _ in range(2))
    assert first_difference(one, other) is None
    other.ids["user"].values[3] += 1
    assert str(first_difference(one, other)).startswith("ids.user.values[3]: ")


def events(values, name="value") -> Events:
    rows = len(values)
    return Events.from_columns({"key": ["r"] * rows, "kind": ["k"] * rows, "event_time": [0] * rows, name: values})


def test_events_are_compared_by_column_and_row() -> None:
    assert first_difference(events([1.0, 2.0]), events([1.0, 2.0])) is None
    assert first_difference(events([1.0, 2.0]), events([1.0, 3.0])) == "value.value[1]: 2.0 and 3.0"
    assert first_difference(events(["a"]), events(["b"])) == "value.value[0]: 'a' and 'b'"
    assert first_difference(events([1.0]), events([1.0, 2.0])) == "value: 1 and 2 rows"
    assert first_difference(events([1.0]), events([1.0], "other")) == "value: other columns (['other', 'value'])"
    assert first_difference(events([1.0]), events([1])) == "value: columns of another order or type"


def test_missing_numbers_in_events_are_equal() -> None:
    assert first_difference(events([float("nan"), None]), events([float("nan"), None])) is None


@pytest.mark.parametrize(
    ("one", "other", "close"),
    [
        (1.0, 1.05, True), (1.0, 1.2, False), (torch.tensor([1.0]), torch.tensor([1.05]), True),
        (torch.tensor([1.0]), torch.tensor([1.2]), False), (0.0, -0.0, True), (float("inf"), float("inf"), True),
        (float("inf"), 1e308, False), (float("nan"), 1.0, False),
    ],
)  # fmt: skip
def test_a_tolerance_is_kept(one, other, close) -> None:
    assert (first_difference(one, other, Tolerance(absolute=0.1)) is None) == close


def test_a_relative_tolerance_is_relative_to_the_second() -> None:
    assert first_difference(100.0, 101.0, Tolerance(relative=0.02)) is None
    assert first_difference(1.0, 2.0, Tolerance(relative=0.02)) is not None


def test_whole_numbers_have_no_tolerance() -> None:
    assert first_difference(torch.tensor([1]), torch.tensor([2]), Tolerance(absolute=5.0)) is not None


def test_long_values_are_cut_in_the_message() -> None:
    assert len(str(first_difference("a" * 1000, "b" * 1000))) < 200


def test_same_states_pass_and_others_are_named() -> None:
    assert_same_state({"a": TENSOR}, {"a": TENSOR.clone()})
    assert_same_state({"a": TENSOR}, {"a": TENSOR + 1e-7}, absolute=1e-6)
    with pytest.raises(AssertionError, match=r"differ at a\[0, 0\]"):
        assert_same_state({"a": TENSOR}, {"a": TENSOR + 1e-6})


def test_same_trajectories_pass() -> None:
    assert_same_trajectory([1.0, TENSOR], [1.0, TENSOR.clone()])
    assert_same_trajectory([1.0], [1.001], relative=0.01)


def test_the_step_at_which_runs_part_is_named() -> None:
    with pytest.raises(AssertionError, match=r"part at step 2: value: 3\.0 and 4\.0"):
        assert_same_trajectory([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])


def test_a_shorter_run_is_not_the_same() -> None:
    with pytest.raises(AssertionError, match="2 and 3 steps"):
        assert_same_trajectory([1, 2], [1, 2, 3])
