"""DIN: Dice, the attention unit, and the layout of the deep part's input."""

from __future__ import annotations

import pytest
import torch

from headrace.errors import ConfigError
from headrace.nn.din import DICE_EPSILON, DICE_MOMENTUM, AttentionUnit, Dice, DINSettings
from headrace.nn.layers import generator
from headrace.nn.sequence import History


def test_dice_equals_its_formula_and_moves_its_statistics_in_training() -> None:
    dice, inputs = Dice(3), torch.randn(50, 3, generator=generator(0)) * 2 + 1
    with torch.no_grad():
        dice.slope.copy_(torch.tensor([0.1, 0.2, -0.3]))
    share = torch.sigmoid((inputs - inputs.mean(0)) / (inputs.var(0, unbiased=False) + DICE_EPSILON).sqrt())
    torch.testing.assert_close(dice(inputs), share * inputs + (1 - share) * dice.slope * inputs)
    torch.testing.assert_close(dice.mean, DICE_MOMENTUM * inputs.mean(0))
    torch.testing.assert_close(dice.variance, 1 - DICE_MOMENTUM + DICE_MOMENTUM * inputs.var(0))
    dice.eval()
    share = torch.sigmoid((inputs - dice.mean) / (dice.variance + DICE_EPSILON).sqrt())
    torch.testing.assert_close(dice(inputs), share * inputs + (1 - share) * dice.slope * inputs)


@pytest.mark.parametrize("rows", [0, 1])
def test_dice_takes_batches_without_a_variance(rows: int) -> None:
    dice, before = Dice(3), Dice(3).state_dict()
    inputs = torch.ones(rows, 3, requires_grad=True)
    dice(inputs).sum().backward()
    assert torch.isfinite(inputs.grad).all()
    assert all(torch.equal(value, before[name]) for name, value in dice.state_dict().items())


def test_dice_survives_equal_rows() -> None:
    inputs = torch.ones(8, 3, requires_grad=True)
    Dice(3)(inputs).sum().backward()
    assert torch.isfinite(inputs.grad).all()


def unit_and_history(**settings: object) -> tuple[AttentionUnit, History, torch.Tensor]:
    draw = generator(1)
    unit = AttentionUnit(4, DINSettings(attention=(5,), **settings), draw).eval()  # type: ignore[arg-type]
    rows, targets = torch.randn(6, 4, generator=draw), torch.randn(3, 4, generator=draw)
    return unit, History(rows, torch.arange(6), torch.tensor([0, 4, 4, 6])), targets


@pytest.mark.parametrize("softmax", [False, True])
def test_the_unit_equals_a_loop(softmax: bool) -> None:
    unit, past, targets = unit_and_history(softmax=softmax)
    found = unit(past, targets)
    for row, (start, stop) in enumerate(((0, 4), (4, 4), (4, 6))):
        keys, target = past.rows[start:stop], targets[row].expand(stop - start, 4)
        weights = unit.layers(torch.cat([target, keys, target - keys, target * keys], 1))
        weights = weights.softmax(0) if softmax else weights
        torch.testing.assert_close(found[row], (weights * keys).sum(0))


def test_much_history_counts_for_more_without_softmax() -> None:
    (plain, past, targets), (soft, *_) = unit_and_history(), unit_and_history(softmax=True)
    twice = History(past.rows.repeat(2, 1)[:8], torch.arange(8), torch.tensor([0, 8]))
    once = History(past.rows[:4], torch.arange(4), torch.tensor([0, 4]))
    twice = History(torch.cat([once.rows, once.rows]), torch.arange(8), twice.offsets)
    torch.testing.assert_close(plain(twice, targets[:1]), 2 * plain(once, targets[:1]))
    torch.testing.assert_close(soft(twice, targets[:1]), soft(once, targets[:1]))


def test_prelu_is_an_option_and_others_are_not() -> None:
    unit, *_ = unit_and_history(activation="prelu")
    assert any(isinstance(layer, torch.nn.PReLU) for layer in unit.layers)
    with pytest.raises(ConfigError, match="activation"):
        DINSettings(activation="relu")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="positive"):
        AttentionUnit(4, DINSettings(attention=(0,)), generator(0))
