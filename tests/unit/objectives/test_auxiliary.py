"""A model's own second loss, added to an objective."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from headrace.errors import ConfigError
from headrace.objectives import LogLoss
from headrace.objectives.auxiliary import WithAuxiliary
from headrace.types import Batch, Loss


class Doubled(nn.Module):
    """Logits from one weight, and twice its square as a loss of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.calls = nn.Parameter(torch.tensor(0.5)), 0

    def forward(self, batch: Batch) -> Tensor:
        return self.weight.expand(len(batch))

    def forward_with_auxiliary(self, batch: Batch) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return self(batch), 2 * self.weight.square()


def batch_of(rows: int = 4) -> Batch:
    zeros = torch.zeros(rows, dtype=torch.int64)
    return Batch(
        ids={}, dense=torch.zeros(rows, 0), labels=torch.tensor([1.0, 0.0, 1.0, 1.0]), weights=torch.ones(rows),
        event_times=zeros, accepted_times=zeros, example_ids=zeros, predictions=torch.full((rows,), math.nan),
        versions=zeros - 1, sample_rates=torch.ones(rows),
    )  # fmt: skip


def test_both_losses_come_from_one_call_of_the_model() -> None:
    model, plain = Doubled(), LogLoss()(Doubled(), batch_of())
    loss = WithAuxiliary(LogLoss(), weight=0.3)(model, batch_of())
    torch.testing.assert_close(loss.total, plain.total + 0.3 * 2 * 0.25)
    assert (loss.parts["log_loss"], loss.parts["auxiliary"], model.calls) == (plain.parts["log_loss"], 0.5, 1)
    torch.testing.assert_close(loss.logits, plain.logits)
    loss.total.backward()
    assert model.weight.grad is not None


def test_weight_zero_is_the_objective_alone() -> None:
    torch.testing.assert_close(
        WithAuxiliary(LogLoss(), 0.0)(Doubled(), batch_of()).total, LogLoss()(Doubled(), batch_of()).total
    )


def test_the_spec_is_that_of_the_objective_inside() -> None:
    assert WithAuxiliary(LogLoss(negative_rate=0.5)).spec() == LogLoss(negative_rate=0.5).spec()
    assert WithAuxiliary(lambda model, batch: Loss(torch.zeros(()))).spec() == {}


def test_a_model_without_an_auxiliary_loss_is_refused() -> None:
    with pytest.raises(ConfigError, match="Linear without an auxiliary loss"):
        WithAuxiliary(LogLoss())(nn.Linear(1, 1), batch_of())


def test_an_objective_that_does_not_call_the_model_once_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 times"):
        WithAuxiliary(lambda model, batch: Loss(torch.zeros(())))(Doubled(), batch_of())


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match="weight"):
        WithAuxiliary(LogLoss(), -1.0)
