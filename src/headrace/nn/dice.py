"""Dice: an activation whose bend follows the data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

DICE_MOMENTUM = 0.01
"""Share of a batch in the running statistics of `Dice`."""

DICE_EPSILON = 1e-8


class Dice(nn.Module):
    """Activation whose bend follows the data: `p(x) x + (1 - p(x)) a x`, `p = sigmoid((x - mean) / std)`, `a` learned.

    Mean and variance are the batch's while training and running ones otherwise. A batch of fewer than two rows has no
    variance, so it uses the running ones too.

    Args:
        width: Number of columns; each has its own statistics and its own `a`, which starts at 0.

    Shapes:
        (N, width) -> (N, width)

    Cost:
        It runs over every entry of every history, so its gradient is written out: a third of the passes over memory
        that one step after another would take. There is no gradient of that gradient.

    Source:
        Zhou et al. 2018, "Deep Interest Network for Click-Through Rate Prediction", section 5.3.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(width))
        self.mean: Tensor
        self.variance: Tensor
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, inputs_ND: Tensor) -> Tensor:
        """Return the activations."""
        learns = self.training and len(inputs_ND) > 1
        out: Tensor = _Dice.apply(  # type: ignore[no-untyped-call]
            inputs_ND, self.slope, self.mean, self.variance, learns
        )
        return out


class _Dice(torch.autograd.Function):
    """The activation; `learns`: mean and variance are the batch's, the running ones given follow them."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, slope: Tensor, mean: Tensor, variance: Tensor, learns: bool) -> Tensor:
        ctx.learns = learns
        if not len(inputs):
            ctx.save_for_backward(inputs, slope)
            return inputs.clone()
        normed, own_mean, own_scale = torch.native_batch_norm(inputs, None, None, mean, variance, learns,
                                                              DICE_MOMENTUM, DICE_EPSILON)  # fmt: skip
        share = normed.sigmoid_()
        ctx.save_for_backward(inputs, slope, share, own_mean, own_scale, mean.clone(), variance.clone())
        return torch.addcmul(slope, share, 1.0 - slope).mul_(inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (inputs, slope, *rest) = grads, ctx.saved_tensors
        if not rest:
            return grad, torch.zeros_like(slope), None, None, None
        share, own_mean, own_scale, mean, variance = rest
        bent = grad * inputs  # may be a stack of gradients (`is_grads_batched`): it is changed in place, `share` is not
        bent.addcmul_(bent, share, value=-1.0)
        to_slope = inputs.new_ones(len(inputs)) @ bent
        steep = bent.mul_(share).mul_(1.0 - slope)  # over the normed input
        to_normed, _, _ = torch.ops.aten.native_batch_norm_backward(
            steep, inputs, None, mean, variance, own_mean, own_scale, ctx.learns, DICE_EPSILON, [True, False, False]
        )  # fmt: skip
        to_inputs = to_normed.addcmul_(grad, torch.addcmul(slope, share, 1.0 - slope))
        return to_inputs, to_slope, None, None, None
