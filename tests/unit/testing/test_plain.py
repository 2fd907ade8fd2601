from __future__ import annotations

import pytest
import torch

from headrace.testing import Toy, ToyConfig, first_difference
from headrace.testing.plain import copied_state, frozen_batch, not_plain

PLAIN = {"a": None, "b": True, "c": [1, "x", {"d": 2.5}], "e": b"", "f": torch.zeros(2)}


def test_plain_values_are_plain() -> None:
    assert not_plain(PLAIN) is None


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": {1: 2}}, "state.a: the key 1 is not a string"),
        ({"a": (1, 2)}, "state.a: an 'tuple'"),
        ({"a": [0, {3}]}, "state.a[1]: an 'set'"),
        ({"a": torch.zeros(1, requires_grad=True)}, "state.a: a tensor that asks for a gradient"),
        ({"a": type("D", (dict,), {})()}, "state.a: a 'D'"),
    ],
)
def test_what_is_not_plain_is_named(value, path) -> None:
    assert not_plain(value) == path


def test_a_copy_shares_nothing() -> None:
    copy = copied_state(PLAIN)
    assert first_difference(PLAIN, copy) is None
    copy["f"].add_(1)
    copy["c"][2]["d"] = 0
    assert PLAIN["f"].sum() == 0
    assert PLAIN["c"][2]["d"] == 2.5


def test_a_frozen_batch_shows_any_change() -> None:
    batch = Toy(ToyConfig()).batch(0, 4)
    frozen = frozen_batch(batch)
    assert first_difference(frozen, frozen_batch(batch)) is None
    batch.sample_rates[2] = 0.5
    assert str(first_difference(frozen, frozen_batch(batch))).startswith("sample_rates[2]")
