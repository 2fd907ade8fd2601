"""Denoisers of Bayesian flows: two that are exact where data are simple, and two networks that begin from them.

A network that has to find out by itself what a mean and a covariance, or counts of characters, say at once, learns for
long before it says anything. So both networks take a `prior`: a denoiser in closed form, to which they add.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, silu

from headrace.config import require
from headrace.nn.bayesian_flow import ContinuousFlow
from headrace.nn.layers import generator, linear
from headrace.nn.sequence_attention import TransformerBlock

TIME_WAVES = 4
"""Slow ones only: with fast ones a network takes every time for another problem, and learns nothing for long."""
LOWEST_PROBABILITY = 1e-30
LOWEST_VARIANCE = 1e-8


class NormalDenoiser(nn.Module):
    """The exact denoiser of normal data, and what a network adds to it.

    In the axes of the covariance every dimension is by itself: of variance v, seen through noise of variance s², it is
    guessed as `v / (v + s²)` of what is seen, and what is left of it has variance `v s² / (v + s²)`. The network works
    in these axes, is shown what is seen in units of its own spread, and adds to the guess in units of what is left.

    Args:
        flow: The flow.
        mean: Mean of the data (D,).
        covariance: Their covariance (D, D).
        network: Adds to the guess: `(rows (B, axes), time (B,), ...) -> (B, axes)`; None: nothing is added.
        axes: How many axes, those of the largest variance first, the network is shown.

    Shapes:
        (B, D), time (B,) -> noise (B, D)
    """

    def __init__(
        self, flow: ContinuousFlow, mean: Tensor, covariance: Tensor, *, network: nn.Module | None = None, axes: int = 0
    ) -> None:
        super().__init__()
        count = len(mean)
        require(covariance.shape == (count, count), "NormalDenoiser, covariance", got=tuple(covariance.shape),
                expected=f"({count}, {count}), as the mean has {count} dimensions")  # fmt: skip
        require(0 <= axes <= count and (axes > 0) == (network is not None), "NormalDenoiser, axes", got=axes,
                expected=f"1 to {count} with a network, 0 without")  # fmt: skip
        variances, turn = torch.linalg.eigh(covariance.double())
        self.flow, self.network, self.axes = flow, network, axes
        self.register_buffer("mean", mean.float().clone())
        self.register_buffer("variances", variances.flip(0).clamp_min(LOWEST_VARIANCE).float())
        self.register_buffer("turn", turn.flip(1).float())

    def forward(self, inputs: Tensor, time: Tensor, *condition: Tensor) -> Tensor:
        """Return the noise (B, D)."""
        mean, variances, turn = (self.get_buffer(name).to(inputs.dtype) for name in ("mean", "variances", "turn"))
        signal = self.flow.signal(time).unsqueeze(1)
        seen = self.flow.spread(time).unsqueeze(1) / signal
        rows, total = (inputs / signal - mean) @ turn, variances + seen.square()
        noise = seen / total * rows
        if self.network is not None:
            added = self.network((rows / total.sqrt())[:, : self.axes], time, *condition)
            noise = noise.clone()
            noise[:, : self.axes] -= (variances / total).sqrt()[:, : self.axes] * added
        return noise @ turn.T


class MarkovDenoiser(nn.Module):
    """The exact denoiser of sequences in which a class depends on the two before it.

    Args:
        pairs: Chances of the first two classes (K, K).
        after: Chances of a class after two others, (K, K, K).

    Shapes:
        (B, L, K) probabilities, time (B,) -> (B, L, K) logs of the chances of every class at every place; L at least 2.

    Cost:
        O(B L K³): once forth and once back along the sequence.
    """

    def __init__(self, pairs: Tensor, after: Tensor) -> None:
        super().__init__()
        classes = len(pairs)
        require(pairs.shape == (classes, classes) and after.shape == (classes,) * 3, "MarkovDenoiser",
                got=f"{tuple(pairs.shape)} and {tuple(after.shape)}", expected="(K, K) and (K, K, K)")  # fmt: skip
        self.register_buffer("pairs", pairs.float().clone())
        self.register_buffer("after", after.float().clone())

    @staticmethod
    def counted(codes: Tensor, classes: int, *, smoothing: float = 0.1) -> MarkovDenoiser:
        """Return the denoiser of a text (N,) of classes, from its counts.

        Args:
            codes: The text.
            classes: How many classes there are.
            smoothing: How many times the chances of a class after one other are added to its counts after two.
        """
        cube = (codes[:-2] * classes + codes[1:-1]) * classes + codes[2:]
        counts = torch.bincount(cube, minlength=classes**3).reshape(classes, classes, classes).double()
        two = counts.sum(0) + smoothing
        after = counts + smoothing * (two / two.sum(1, keepdim=True))
        return MarkovDenoiser(two / two.sum(), after / after.sum(2, keepdim=True))

    @torch.no_grad()
    def forward(self, inputs: Tensor, time: Tensor, *condition: Tensor) -> Tensor:
        """Return logs of chances (B, L, K). They have no gradient: nothing here is learned by descent."""
        pairs, after = self.get_buffer("pairs").to(inputs.dtype), self.get_buffer("after").to(inputs.dtype)
        places = inputs.shape[1]
        told = inputs.clamp_min(LOWEST_PROBABILITY)
        ahead = [_shares(pairs * told[:, 0, :, None] * told[:, 1, None, :])]
        middle_first = after.transpose(0, 1)  # the class that both pairs have in front: one product for each of it
        for place in range(2, places):
            summed = torch.bmm(ahead[-1].permute(2, 0, 1), middle_first).transpose(0, 1)
            ahead.append(_shares(summed * told[:, place, None, :]))
        behind = torch.ones_like(ahead[-1])
        chances = [(ahead[-1] * behind).sum(1)]
        for place in range(places - 1, 1, -1):
            weighed = (behind * told[:, place, None, :]).transpose(0, 1)
            behind = _shares(torch.bmm(weighed, middle_first.transpose(1, 2)).permute(1, 2, 0))
            chances.append((ahead[place - 2] * behind).sum(1))
        chances.append((ahead[0] * behind).sum(2))
        stacked = torch.stack(chances[::-1], 1)
        return (stacked / stacked.sum(-1, keepdim=True)).clamp_min(LOWEST_PROBABILITY).log()


class _TimeRows(nn.Module):
    """Waves of the time, and the condition where there is one, through one hidden layer: (B,) -> (B, width)."""

    def __init__(self, width: int, condition: int, draw: torch.Generator) -> None:
        super().__init__()
        self.hidden = linear(2 * TIME_WAVES + condition, width, draw, gain=math.sqrt(2.0))
        self.out = linear(width, width, draw)

    def forward(self, time: Tensor, *condition: Tensor) -> Tensor:
        """Return one row per time."""
        pace = 0.25 * math.pi * 2.0 ** torch.arange(TIME_WAVES, device=time.device)
        phases = time.to(pace.dtype).unsqueeze(1) * pace
        rows: Tensor = self.out(silu(self.hidden(torch.cat([phases.sin(), phases.cos(), *condition], dim=1))))
        return rows


class ResidualDenoiser(nn.Module):
    """Residual layers over all dimensions at once: for images of few pixels, vectors and short windows of text.

    Args:
        inputs: Shape of the inputs of one example.
        outputs: Shape of its outputs.
        width: Width of the layers.
        blocks: Residual blocks of two layers each.
        condition: Width of the condition; 0: none.
        probabilities: Inputs are probabilities and outputs logits: the inputs' own logs are added to the outputs, so
            that an untrained network believes what it is told.
        seed: Seed of the initial weights.

    Cost:
        O(B (inputs + outputs + 2 blocks width) width).
    """

    def __init__(
        self, inputs: Sequence[int], outputs: Sequence[int], *, width: int = 128, blocks: int = 2, condition: int = 0,
        probabilities: bool = False, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        require(blocks >= 1, "ResidualDenoiser, blocks", got=blocks, expected="1 or more")
        draw = generator(seed)
        self.shape, self.probabilities = tuple(outputs), probabilities
        self.enter = linear(math.prod(inputs), width, draw)
        self.time = _TimeRows(width, condition, draw)
        self.first = nn.ModuleList(linear(width, width, draw, gain=math.sqrt(2.0)) for _ in range(blocks))
        self.second = nn.ModuleList(linear(width, width, draw, gain=0.3) for _ in range(blocks))
        self.leave = linear(width, math.prod(outputs), draw, gain=0.1)

    def forward(self, inputs: Tensor, time: Tensor, *condition: Tensor) -> Tensor:
        """Return outputs (B, ...)."""
        flat = inputs.flatten(1)
        told = self.time(time, *condition)
        rows = self.enter(2.0 * flat - 1.0 if self.probabilities else flat)
        for first, second in zip(self.first, self.second, strict=True):
            rows = rows + second(silu(first(rows) + told))  # no normalisation: with it, little was learned for long
        outputs: Tensor = self.leave(rows).reshape(len(inputs), *self.shape)
        return outputs + _log(inputs) if self.probabilities else outputs


class SequenceDenoiser(nn.Module):
    """A transformer over the places of a sequence of classes: every place looks at all others.

    Args:
        places: Length of the sequences (L).
        classes: Classes (K).
        width: Width of the transformer.
        blocks: Its blocks.
        heads: Heads of their attention.
        condition: Width of the condition; 0: none.
        prior: A denoiser whose logits these are added to; None: the logs of the inputs, which an untrained network
            then believes as they are.
        seed: Seed of the initial weights.

    Shapes:
        (B, L, K) probabilities, time (B,) -> (B, L, K) logits.

    Cost:
        O(B L (L + blocks width) width).
    """

    def __init__(
        self, places: int, classes: int, *, width: int = 128, blocks: int = 3, heads: int = 4, condition: int = 0,
        prior: nn.Module | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        draw = generator(seed)
        self.prior = prior
        self.enter = linear(classes * (1 if prior is None else 2), width, draw)
        self.places = nn.Parameter(torch.empty(places, width).normal_(0.0, 0.1, generator=draw))
        self.time = _TimeRows(width, condition, draw)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, draw, order="pre", activation=nn.GELU()) for _ in range(blocks)
        )
        self.norm, self.leave = nn.LayerNorm(width), linear(width, classes, draw, gain=0.1)

    def forward(self, inputs: Tensor, time: Tensor, *condition: Tensor) -> Tensor:
        """Return logits (B, L, K)."""
        logs = _log(inputs) if self.prior is None else self.prior(inputs, time)
        shown = inputs if self.prior is None else torch.cat([inputs, logs.exp()], dim=-1)
        rows = self.enter(2.0 * shown - 1.0) + self.places + self.time(time, *condition).unsqueeze(1)
        everywhere = torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)
        for block in self.blocks:
            rows = block(rows, everywhere)
        outputs: Tensor = self.leave(self.norm(rows))
        return outputs + logs


def _log(probabilities: Tensor) -> Tensor:
    return log_softmax(probabilities.clamp_min(LOWEST_PROBABILITY).log(), dim=-1)


def _shares(weights: Tensor) -> Tensor:
    return weights / weights.sum((1, 2), keepdim=True).clamp_min(LOWEST_PROBABILITY)
