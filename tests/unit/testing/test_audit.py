from __future__ import annotations

import pytest
import torch

from headrace.errors import ConfigError
from headrace.testing.faults import audit


def test_all_learned_once_is_clean() -> None:
    found = audit(torch.ones(1000, dtype=torch.int64))
    assert found.clean
    assert found.learned == 1000
    assert "1,000 examples: 1,000 learned, 0 quarantined, 0 lost, 0 doubled, 0 unaccounted" in found.text()


def test_lost_and_doubled_are_named() -> None:
    found = audit([1, 0, 1, 3])
    assert not found.clean
    assert (found.lost, found.doubled) == ((1,), (3,))


def test_quarantined_examples_are_accounted_for_unless_they_were_learned_after_all() -> None:
    assert audit([1, 0, 1], quarantined={1: "poison"}).clean
    assert audit([1, 1, 1], quarantined={1: "poison"}).unaccounted == (1,)
    assert audit([1, 1], quarantined=[7]).unaccounted == (7,)
    assert audit([1, 1], others=[9]).unaccounted == (9,)


def test_several_epochs_count_as_often() -> None:
    assert audit([2, 2], epochs=2).clean
    found = audit([2, 1, 3, 1], epochs=2, quarantined=[3])
    assert (found.lost, found.doubled, found.unaccounted) == ((1,), (2,), ())


@pytest.mark.parametrize("settings", [{"counts": [[1]]}, {"counts": [1], "epochs": 0}])
def test_what_is_no_ledger_is_refused(settings) -> None:
    with pytest.raises(ConfigError):
        audit(**settings)
