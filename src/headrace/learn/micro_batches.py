"""Micro-batches: a step's loss and gradients slice by slice, so that the activations of a slice stay near the cores.

The tables are asked once for the whole batch and get one gradient back, as without slices. The slices' gradients are
added: their sum is that of the whole batch, up to the rounding of the order of additions, exactly when the loss is a
mean over examples and no layer mixes them. `check_slices` finds out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from headrace.config import require
from headrace.errors import ConfigError
from headrace.learn.stages import StageTimes
from headrace.protocols import Objective
from headrace.store import EmbeddingCollection
from headrace.types import Batch, Loss

ROUNDING = 1e-3
"""Largest difference of a gradient, relative to its norm, that counts as rounding."""


@dataclass(slots=True)
class _Rows:
    """Rows of one feature for a whole batch, and the gradients that its slices bring back."""

    rows: Tensor
    grad: Tensor | None = None

    def put(self, start: int, stop: int, grad: Tensor) -> None:
        """Keep the gradient of a slice."""
        if self.grad is None:
            self.grad = torch.zeros_like(self.rows)
        self.grad[start:stop] = grad


@dataclass(slots=True)
class MicroBatches:
    """Computes gradients in slices.

    Attributes:
        model: Maps a batch to logits (B,).
        collection: The tables behind it.
        objective: The loss, a mean over examples.
        count: Slices of a batch.
        times: Where stages are counted.
    """

    model: nn.Module
    collection: EmbeddingCollection
    objective: Objective
    count: int
    times: StageTimes = field(default_factory=StageTimes)

    def backward(self, batch: Batch, weight: float) -> Loss:
        """Leave the gradients of `weight` times the summed loss of the examples, and return their mean loss, detached.

        Raises:
            ConfigError: If the model looks up other ids than those of its batch.
        """
        with self.times.stage("forward"):
            whole = {name: _Rows(rows) for name, rows in self.collection(batch).items()}
        total, parts, logits = torch.zeros(()), dict[str, float](), list[Tensor]()
        size = -(-len(batch) // self.count)
        for start in range(0, len(batch), size):
            piece = batch.slice(start, min(start + size, len(batch)))
            loss = self._slice(batch, piece, start, whole, weight)
            share = len(piece) / len(batch)
            total = total + loss.total.detach() * share
            for name, value in loss.parts.items():
                parts[name] = parts.get(name, 0.0) + value * share
            logits += [] if loss.logits is None else [loss.logits.detach()]
        flowed = [one for one in whole.values() if one.grad is not None]
        with self.times.stage("backward"):
            torch.autograd.backward([one.rows for one in flowed], [one.grad for one in flowed])
        return Loss(total, parts, torch.cat(logits) if logits else None)

    def _slice(self, batch: Batch, piece: Batch, start: int, whole: Mapping[str, _Rows], weight: float) -> Loss:
        """Learn from a slice: rows are given to the model, their gradients are kept, those of the model are added."""
        stop = start + len(piece)
        bounds = {
            item.feature: _ids(batch, item.feature, start, stop) if item.pooling == "none" else (start, stop)
            for item in self.collection.lookups
        }
        leaves = {name: one.rows.detach()[slice(*bounds[name])].requires_grad_() for name, one in whole.items()}
        with self.times.stage("forward"), _lent(self.collection, _answer(piece, leaves)):
            loss = self.objective(self.model, piece)
        with self.times.stage("backward"):
            (loss.total * (weight * len(piece))).backward()  # type: ignore[no-untyped-call]
            for name, leaf in leaves.items():
                if leaf.grad is not None:
                    whole[name].put(*bounds[name], leaf.grad)
        return loss


def _ids(batch: Batch, feature: str, start: int, stop: int) -> tuple[int, int]:
    """Return which of a feature's ids belong to examples start..stop."""
    offsets = batch.ids[feature].offsets
    return int(offsets[start]), int(offsets[stop])


def _answer(piece: Batch, leaves: Mapping[str, Tensor]) -> Callable[[Batch], dict[str, Tensor]]:
    def answer(asked: Batch) -> dict[str, Tensor]:
        if asked.ids is not piece.ids:
            raise ConfigError("micro_batches", got="a model that looks up ids of its own", do="Set it to 1.",
                              expected="one that gives its batch to the embedding as it is")  # fmt: skip
        return dict(leaves)

    return answer


@contextmanager
def _lent(collection: EmbeddingCollection, answer: Callable[[Batch], dict[str, Tensor]]) -> Iterator[None]:
    """Let a collection answer from rows that were looked up already."""
    collection.forward = answer  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        del collection.forward


def check_slices(model: nn.Module, collection: EmbeddingCollection, objective: Objective, batch: Batch) -> bool:
    """Refuse micro-batches where their gradients do not add up to that of the batch; nothing is changed.

    Returns:
        Whether it could be told: not from a batch whose gradient is not finite.

    Raises:
        ConfigError: If a layer normalises over the batch, or the loss is no mean over examples.
    """
    mixing = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    require(not mixing, "micro_batches", got=f"batch normalisation in {mixing[:3]}", expected="layers that do not mix "
            "the examples of a batch", do="Set it to 1, or take another normalisation.")  # fmt: skip
    training = model.training
    model.eval()  # no dropout: both ways must see the same network
    try:
        loss = objective(model, batch)
        (loss.total * len(batch)).backward()  # type: ignore[no-untyped-call]
        plain = {"": loss.total.detach()} | _taken(model, collection)
        total = MicroBatches(model, collection, objective, 2).backward(batch, 1.0).total
        sliced = {"": total} | _taken(model, collection)
    finally:
        model.train(training)
    for name, gradient in plain.items():
        if not bool(torch.isfinite(gradient).all()):
            return False
        apart = float((gradient - sliced[name]).norm()) / max(float(gradient.norm()), 1e-12)
        what = f"a gradient of '{name}'" if name else "a loss"
        require(apart < ROUNDING, "micro_batches", got=f"{what} that is {apart:.1%} apart in slices",
                expected="a loss that is a mean over examples", do="Set it to 1 with this objective.")  # fmt: skip
    return True


def _taken(model: nn.Module, collection: EmbeddingCollection) -> dict[str, Tensor]:
    """Take the gradients away from a model and its tables."""
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for parameter in model.parameters():
        parameter.grad = None
    collection.discard()
    return found
