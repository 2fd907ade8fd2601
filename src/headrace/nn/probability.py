"""Probabilities that are multiplied, in logits: nothing is rounded to 0 or 1 on the way."""

from __future__ import annotations

import torch
from torch import Tensor


def product_logit(first: Tensor, second: Tensor) -> Tensor:
    """Return the logit of `sigmoid(first) * sigmoid(second)`.

    With a and b the two logits, `1 / (sigmoid(a) sigmoid(b)) - 1 = e^-a + e^-b + e^-(a + b)`: the answer is minus the
    logarithm of that sum, which is finite, with finite gradients, for all finite logits.

    Shapes:
        Two tensors of shapes that broadcast -> their common shape.

    Example:
        >>> product_logit(torch.tensor(0.0), torch.tensor(0.0)).exp()  # 1/4 has the odds 1 to 3
        tensor(0.3333)
        >>> product_logit(torch.tensor(-300.0), torch.tensor(-400.0))
        tensor(-700.)
    """
    first, second = torch.broadcast_tensors(first, second)  # type: ignore[no-untyped-call]
    return -torch.logsumexp(-torch.stack([first, second, first + second]), dim=0)
