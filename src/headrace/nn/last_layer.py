"""How sure a model is of its last layer: a Gaussian over its weights, kept up while the model learns."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from headrace.config import require
from headrace.errors import ConfigError
from headrace.types import Batch


class LastLayerPosterior(nn.Module):
    """A model of logits, and what its examples say about the weights of its last linear layer.

    The model's answers are as before. Beside them it adds up the precision of the last layer's weights and bias,
    `prior I + sum of w p (1 - p) x x'` over examples with inputs x, probability p and weight w: the Laplace
    approximation of a logistic regression on x. Where few examples had inputs like x, the logit is uncertain there;
    Thompson sampling shows such candidates more often.

    The sums are a buffer: saved, restored and published with the weights, so that a version has the certainty that
    goes with it. Examples count when the model is called in training mode under gradients, once per call.

    Args:
        model: Maps a batch to logits (B,).
        layer: Its last layer, `nn.Linear` to one output, which must be called exactly once for each batch.
        prior: Precision of every weight before anything is learned.
        half_life: Examples after which an example counts half: the layers before the last one move, and what was
            learned about old inputs says less. None: for ever.

    Shapes:
        Batch of B -> logits (B,).

    Raises:
        ConfigError: If the layer is not a part of the model, or has not one output.

    Thread-safety: any number of threads may evaluate at once.

    Source:
        Riquelme, Tucker and Snoek 2018, "Deep Bayesian Bandits Showdown", neural linear; MacKay 1992, "The Evidence
        Framework Applied to Classification Networks", for the approximation.
    """

    def __init__(
        self, model: nn.Module, layer: nn.Linear, *, prior: float = 1.0, half_life: float | None = None
    ) -> None:
        super().__init__()
        inside = any(part is layer for part in model.modules())
        require(inside and layer.out_features == 1, "LastLayerPosterior, layer", got=f"{layer}",
                expected="a linear layer to one output inside the model")  # fmt: skip
        require(prior > 0.0, "prior", got=prior, expected="a positive number")
        require(half_life is None or half_life > 0, "half_life", got=half_life, expected="examples, or None")
        self.model, self.prior, self.half_life = model, prior, half_life
        self._heard = threading.local()
        self._layer = (layer,)  # in a tuple, or it would be saved under two names
        self._biased = "bias" in dict(layer.named_parameters())
        layer.register_forward_hook(self._listen)
        self.evidence: Tensor
        self.register_buffer("evidence", torch.zeros(self.width, self.width))

    @property
    def width(self) -> int:
        """Weights of the layer, its bias among them."""
        return self._layer[0].in_features + int(self._biased)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B,)."""
        if not (self.training and torch.is_grad_enabled()):
            logits: Tensor = self.model(batch)
            return logits
        with self._hearing() as heard:
            logits = self.model(batch)
        self._note(_only(heard), logits.detach(), batch.weights)
        return logits

    def features(self, batch: Batch) -> Tensor:
        """Return what the last layer reads (B, width), with a column of ones where it has a bias."""
        with torch.no_grad(), self._hearing() as heard:
            self.model(batch)
        return self._with_bias(_only(heard))

    def spread(self, features: Tensor) -> Tensor:
        """Return S (B, width) so that `logits + S z`, z standard normal, is one draw of the logits.

        Shapes: features (B, width), as `features` returns them.

        Cost: O(width³ + B width²).
        """
        precision = self.evidence.double() + self.prior * torch.eye(self.width, dtype=torch.float64)
        # x' A^-1 x = |L^-1 x|² for A = L L'
        root = torch.linalg.cholesky(precision)
        found: Tensor = torch.linalg.solve_triangular(root, features.double().T, upper=False)
        return found.T.float()

    @torch.no_grad()
    def _note(self, inputs: Tensor, logits: Tensor, weights: Tensor) -> None:
        chances = torch.sigmoid(logits)
        inputs = self._with_bias(inputs.detach())
        if self.half_life is not None:
            self.evidence *= 0.5 ** (len(inputs) / self.half_life)
        self.evidence += inputs.T @ (inputs * (weights * chances * (1.0 - chances)).unsqueeze(1))

    def _with_bias(self, inputs: Tensor) -> Tensor:
        flat = inputs.reshape(len(inputs), -1)
        return torch.cat([flat, flat.new_ones(len(flat), 1)], dim=1) if self._biased else flat

    @contextmanager
    def _hearing(self) -> Iterator[list[Tensor]]:
        """Collect what the layer reads in this thread."""
        self._heard.inputs = heard = list[Tensor]()
        try:
            yield heard
        finally:
            self._heard.inputs = None

    def _listen(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        heard = getattr(self._heard, "inputs", None)
        if heard is not None:
            heard.append(inputs[0].detach())


def _only(heard: list[Tensor]) -> Tensor:
    if len(heard) != 1:
        raise ConfigError("LastLayerPosterior, layer", got=f"a layer that was called {len(heard)} times",
                          expected="once for each batch")  # fmt: skip
    return heard[0]
