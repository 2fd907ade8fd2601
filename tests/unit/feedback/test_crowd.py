from __future__ import annotations

import numpy as np
import pytest

from headrace.errors import DataError
from headrace.feedback import Answers


def test_the_order_of_the_rows_changes_nothing() -> None:
    rows = [("b", "x", "no"), ("a", "y", "yes"), ("a", "x", "no"), ("b", "y", "no")]
    first, second = (Answers.encode(*zip(*order, strict=True)) for order in (rows, rows[::-1]))
    assert first.item_names == second.item_names == ("a", "b")
    assert first.classes == ("no", "yes")
    assert np.array_equal(first.votes(), second.votes())
    assert first.votes().tolist() == [[1, 1], [2, 0]]


def test_an_unknown_group_is_no_group() -> None:
    answers = Answers.encode([1, 1, 2], ["x", "y", "x"], [0, 1, 1], groups={"age": ["old", None, None]})
    assert answers.attributes["age"].codes.tolist() == [0, -1]
    assert answers.attributes["age"].levels == ("old",)


def test_items_with_features_and_no_answer_are_kept() -> None:
    answers = Answers.encode(["b"], ["x"], [1], classes=[0, 1], features=(["c", "b"], np.array([[3.0], [2.0]])))
    assert answers.item_names == ("b", "c")
    assert answers.features is not None
    assert answers.features.tolist() == [[2.0], [3.0]]


@pytest.mark.parametrize(
    ("columns", "more", "says"),
    [
        ((["a"], ["x", "y"], [0, 1]), {}, "equally long"),
        ((["a", None], ["x", "y"], [0, 1]), {}, r"items, row 1.*null"),
        ((["a", "b"], ["x", "y"], [0, 0]), {}, r"Classes: got 1"),
        ((["a", "b"], ["x", "y"], [0.5, 1.0]), {}, r"the number 0\.5.*bins"),
        ((["a", "b"], ["x", "y"], [0, 2]), {"classes": [0, 1]}, r"got 2.*one of the classes"),
        ((["a", "b"], ["x", "x"], [0, 1]), {"groups": {"age": ["old", "young"]}}, r"'age' of annotator 'x'.*both"),
        ((["a", "b"], ["x", "y"], [0, 1]), {"groups": {"age": ["old"]}}, r"got 1 rows, expected 2"),
        ((["a", "b"], ["x", "y"], [0, 1]), {"features": (["a"], np.ones((1, 1)))}, r"Features of item 'b'"),
        ((["a", "b"], ["x", "y"], [0, 1]), {"features": (["a", "b"], np.full((2, 1), np.nan))}, "not finite"),
    ],
)
def test_what_cannot_be_used_is_refused(columns, more, says) -> None:
    with pytest.raises(DataError, match=says):
        Answers.encode(*columns, **more)


def test_permuted_groups_deal_out_whole_people() -> None:
    people = [f"p{n}" for n in range(20)]
    groups = {"age": [n % 3 for n in range(20)], "sex": [n % 3 for n in range(20)]}
    answers = Answers.encode(["a"] * 20, people, [0, 1] * 10, groups=groups)
    mixed = answers.permuted_groups(1)
    assert np.array_equal(mixed.attributes["age"].codes, mixed.attributes["sex"].codes)
    assert not np.array_equal(mixed.attributes["age"].codes, answers.attributes["age"].codes)
    assert sorted(mixed.attributes["age"].codes) == sorted(answers.attributes["age"].codes)
