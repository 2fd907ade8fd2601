"""Dice: its formula, its statistics, and the gradient that is written out."""

from __future__ import annotations

import pytest
import torch

from headrace.nn.dice import DICE_EPSILON, DICE_MOMENTUM, Dice
from headrace.nn.layers import generator


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


@pytest.mark.parametrize("training", [True, False])
def test_the_gradient_is_that_of_the_formula(training: bool) -> None:
    draw = generator(2)
    dice = Dice(3).double().train(training)
    dice.mean.fill_(0.3)
    dice.slope.data.copy_(torch.tensor([0.1, 0.2, -0.3]))
    inputs = (torch.randn(6, 3, generator=draw, dtype=torch.float64) * 2 + 1).requires_grad_()
    slope = dice.slope

    def activated(inputs: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(dice, {"slope": slope}, (inputs,))  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(activated, (inputs, slope))


@pytest.mark.parametrize("training", [True, False])
def test_many_gradients_at_once_are_those_one_by_one(training: bool) -> None:
    dice, draw = Dice(3).train(training), generator(2)
    inputs = torch.randn(6, 3, generator=draw, requires_grad=True)
    grads, into = torch.randn(4, 6, 3, generator=draw), (inputs, dice.slope)
    out = dice(inputs)
    found = torch.autograd.grad([out], into, [grads], retain_graph=True, is_grads_batched=True)
    for place, grad in enumerate(grads):
        for several, one in zip(found, torch.autograd.grad(out, into, grad, retain_graph=True), strict=True):
            torch.testing.assert_close(several[place], one)


def test_a_gradient_of_the_gradient_is_refused() -> None:
    inputs = torch.randn(6, 3, generator=generator(2), requires_grad=True)
    (first,) = torch.autograd.grad(Dice(3)(inputs).square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
