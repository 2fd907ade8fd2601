"""Small choices made from held-out passages, answered by likelihood."""

from __future__ import annotations

import math

import pytest
import torch

from headrace.errors import ConfigError
from headrace.evaluate.language_tasks import accuracy, choices, cross_entropy, general_ability

ROWS, LENGTH = 40, 9


def passages() -> torch.Tensor:
    """Rows that count upwards from a random number: row r is n, n + 1, n + 2, ..."""
    starts = torch.randint(0, 50, (ROWS, 1), generator=torch.Generator().manual_seed(0))
    return starts + torch.arange(LENGTH)


def counting(prompts, completions) -> torch.Tensor:
    """Thinks that every number is followed by the next one, with probability e^-1, and any other with e^-5."""
    sums = []
    for row in range(len(prompts)):
        asked = prompts.values[prompts.offsets[row] : prompts.offsets[row + 1]]
        said = completions.values[completions.offsets[row] : completions.offsets[row + 1]]
        whole = torch.cat((asked[-1:], said))
        sums.append(torch.where(whole.diff() == 1, -1.0, -5.0).sum())
    return torch.stack(sums)


def test_who_knows_how_it_goes_on_is_right() -> None:
    made = choices(passages(), torch.arange(ROWS))
    assert set(made) == {"continuation", "order", "next_token"}
    for name, choice in made.items():
        assert accuracy(counting, choice) == 1.0, name


def test_who_knows_nothing_is_right_half_of_the_time() -> None:
    made = choices(passages(), torch.arange(ROWS))
    for choice in made.values():
        assert accuracy(lambda prompts, _: torch.zeros(len(prompts)), choice) == 0.5


def test_the_wrong_option_is_of_another_text_or_an_exchange() -> None:
    rows = passages()
    owners = torch.arange(ROWS) % 4
    made = choices(rows, owners, seed=3)
    for name, choice in made.items():
        assert not bool((choice.right == choice.wrong).all(1).any()), name
        assert choice.right.shape == choice.wrong.shape
    order = made["order"]
    assert torch.equal(order.right.sort(1).values, order.wrong.sort(1).values)
    assert bool(((order.right != order.wrong).sum(1) == 2).all())


def test_cross_entropy_is_a_mean_over_tokens() -> None:
    assert cross_entropy(counting, passages()) == pytest.approx(1.0)


def test_ability_is_told_kind_by_kind() -> None:
    rows = passages()
    found = general_ability(counting, {"count": (rows, choices(rows, torch.arange(ROWS)))})
    assert found["count/order"] == 1.0
    assert found["choices"] == 1.0
    assert found["cross_entropy"] == pytest.approx(1.0)
    assert math.isfinite(found["count/cross_entropy"])


def test_passages_of_one_text_are_refused() -> None:
    with pytest.raises(ConfigError, match="one text"):
        choices(passages(), torch.zeros(ROWS, dtype=torch.int64))
