"""xDeepFM: explicit interactions of growing order, compressed layer by layer, beside a linear and a deep part."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from headrace.config import require
from headrace.nn.fields import Fields, start_at
from headrace.nn.layers import MLP, InputAxis, InputLayout, generator, linear
from headrace.types import Batch


class CompressedInteractions(nn.Module):
    """Compressed interaction network: layer l holds products of l + 1 fields, in as many mixtures as it is wide.

    `x_{l+1}[o] = sum_{h,m} W[o,h,m] x_0[h] * x_l[m] + b[o]`, column by column of the factors, with no activation (the
    paper's best); what goes out is every layer's sum over the columns.

    Args:
        fields: Number F of fields.
        widths: Widths of the layers, at least one.
        draw: Where initial weights are drawn from.

    Shapes:
        (B, F, K) -> (B, sum of widths). Weights (O, F, M) for M outputs of the layer before, biases (O,).

    Cost:
        O(B K F sum of (width before * width)) time; memory O(B K F width before) or O(B K width before * width),
        whichever is less: the weights meet the products of factors where the layer is wide, and the factors
        themselves before the product where it is narrow.

    Raises:
        ConfigError: If there is no layer or a width is not positive.

    Source:
        Lian et al. 2018, "xDeepFM: Combining Explicit and Implicit Feature Interactions for Recommender Systems",
        section 3. We differ in the biases, which its authors' code has too.
    """

    def __init__(self, fields: int, widths: Sequence[int], draw: torch.Generator) -> None:
        super().__init__()
        require(len(widths) > 0 and all(width >= 1 for width in widths), "xDeepFM, cin", got=tuple(widths),
                expected="widths of at least one layer")  # fmt: skip
        pairs = list(itertools.pairwise([fields, *widths]))
        drawn = [linear(fields * before, after, draw).weight.detach() for before, after in pairs]
        # One axis per field, as `InputAxis` wants them.
        self.weights = nn.ParameterList(value.view(len(value), fields, -1) for value in drawn)
        self.biases = nn.ParameterList(torch.zeros(width) for width in widths)

    def forward(self, fields_BFK: Tensor) -> Tensor:
        """Return the sums over the columns, layer after layer."""
        first_BKF = last_BKM = fields_BFK.transpose(1, 2).contiguous()
        sums = []
        for weight_OFM, bias_O in zip(self.weights, self.biases, strict=True):
            last_BKM = _compressed(first_BKF, last_BKM, weight_OFM) + bias_O
            sums.append(last_BKM.sum(1))
        return torch.cat(sums, dim=1)


def _compressed(first_BKF: Tensor, last_BKM: Tensor, weight_OFM: Tensor) -> Tensor:
    """Return the mixtures (B, K, O) of all products of a field and an output of the layer before."""
    after, fields, before = weight_OFM.shape
    if after >= fields:
        return (first_BKF.unsqueeze(3) * last_BKM.unsqueeze(2)).flatten(2) @ weight_OFM.flatten(1).t()
    half_BKX = first_BKF @ weight_OFM.transpose(0, 1).flatten(1)
    half_BKOM = half_BKX.view(*half_BKX.shape[:2], after, before)
    return (half_BKOM * last_BKM.unsqueeze(2)).sum(3)


class XDeepFM(nn.Module):
    """xDeepFM: first-order terms, a compressed interaction network, and a deep network, added up.

    Args:
        embed: Maps a batch to `{feature: (B, D)}` with one D >= 2: column 0 is the weight, the others are the factor.
        features: Names of the id features, in the order of the deep network's input.
        dense_dim: Number of dense columns: fields of the interactions, plain inputs of the deep network.
        hidden: Widths of the deep network; `Hidden` adds batch normalisation; empty leaves the deep part out.
        cin: Widths of the interaction layers.
        dropout: Share of each hidden layer dropped in training.
        seed: Seed of the initial weights.
        prior: Rate of positives to start from.

    Shapes:
        Batch of B -> logits (B,).

    Cost: mostly that of `CompressedInteractions`.

    Raises:
        ConfigError: If there is no feature, widths differ or are below 2, or there is no interaction layer.

    Source:
        Lian et al. 2018, as above.
    """

    def __init__(
        self, embed: nn.Module, features: Sequence[str], dense_dim: int, hidden: Sequence[int] = (64, 32), *,
        cin: Sequence[int] = (16, 16), dropout: float = 0.0, seed: int = 0, prior: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        draw = generator(seed)
        self.fields = Fields(embed, features, dense_dim, draw=draw, first_order=True)
        self.interactions = CompressedInteractions(self.fields.count, cin, draw)
        self.output = linear(sum(cin), 1, draw)
        self.deep = MLP(self.fields.flat_dim, hidden, 1, draw, dropout=dropout) if hidden else None
        start_at(self.output, prior)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B,)."""
        inputs = self.fields(batch)
        logits_B: Tensor = inputs.first + self.output(self.interactions(inputs.fields)).squeeze(1)
        if self.deep is not None:
            logits_B = logits_B + self.deep(inputs.flat).squeeze(1)
        return logits_B

    def input_axes(self) -> dict[str, InputLayout]:
        """Return how parameters are laid out over the inputs; see `InputAxis`."""
        axes = [InputAxis(axis=axis, per_feature=1, per_dense=1) for axis in (1, 2)]
        own: dict[str, InputLayout] = {
            f"interactions.weights.{place}": axes[0] if place else tuple(axes)
            for place in range(len(self.interactions.weights))
        }
        return own if self.deep is None else {**own, "deep.layers.0.weight": self.fields.flat_axis()}
