"""LogLoss: its value, its refusals, and the calibration that proves the sampling correction."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from headrace.errors import ConfigError, DataError
from headrace.objectives import LogLoss, SamplingCorrection, check_applied_once, correct_probability
from headrace.testing import check_objective
from headrace.types import Batch


def batch_of(labels: list[float], *, weights: list[float] | None = None, rates: list[float] | None = None) -> Batch:
    rows = len(labels)
    zeros, ids = torch.zeros(rows, dtype=torch.int64), torch.arange(100, 100 + rows)
    return Batch(
        ids={}, dense=torch.zeros(rows, 0), labels=torch.tensor(labels), weights=torch.tensor(weights or [1.0] * rows),
        event_times=zeros, accepted_times=zeros, example_ids=ids, predictions=torch.full((rows,), math.nan),
        versions=zeros - 1, sample_rates=torch.tensor(rates or [1.0] * rows),
    )  # fmt: skip


class Constant(nn.Module):
    """One logit for every example, in double precision on request of the test."""

    def __init__(self, logit: float = 0.0) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(logit))

    def forward(self, batch: Batch) -> Tensor:
        return self.logit.expand(len(batch))


def test_value_is_the_mean_of_weighted_log_losses() -> None:
    loss = LogLoss()(Constant(math.log(3.0)), batch_of([1.0, 0.0], weights=[1.0, 0.5]))
    assert loss.total.item() == pytest.approx((-math.log(0.75) - 0.5 * math.log(0.25)) / 2)
    assert loss.parts["log_loss"] == loss.total.item()


def test_gradient_is_probability_minus_label() -> None:
    model = Constant(math.log(3.0))
    LogLoss()(model, batch_of([1.0, 0.0])).total.backward()
    assert model.logit.grad is not None
    assert model.logit.grad.item() == pytest.approx(((0.75 - 1) + 0.75) / 2)


def test_logits_are_the_models_own_even_when_training_corrects() -> None:
    loss = LogLoss(negative_rate=0.1)(Constant(1.5), batch_of([1.0, 0.0], rates=[1.0, 0.1]))
    assert loss.logits is not None
    assert loss.logits.tolist() == [1.5, 1.5]


def test_huge_logits_give_a_finite_loss() -> None:
    assert LogLoss()(Constant(1e4), batch_of([0.0])).total.item() == pytest.approx(1e4)


@pytest.mark.parametrize("label", [math.nan, -0.1, 1.1, math.inf])
def test_a_label_that_cannot_be_is_refused_with_its_row(label: float) -> None:
    with pytest.raises(DataError, match=r"Batch row 1 \(example 101\), label: got \S+, expected"):
        LogLoss()(Constant(), batch_of([1.0, label, 0.0]))


def test_the_number_of_further_bad_rows_is_told() -> None:
    with pytest.raises(DataError, match="got nan and 2 more bad rows"):
        LogLoss()(Constant(), batch_of([math.nan] * 3))


def test_a_negative_weight_is_refused_with_its_row() -> None:
    with pytest.raises(DataError, match=r"Batch row 1 \(example 101\), weight: got -1, expected 0 or more"):
        LogLoss()(Constant(), batch_of([1.0, 1.0], weights=[1.0, -1.0]))


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_a_weight_that_is_no_number_shows_in_the_loss(weight: float) -> None:
    assert not torch.isfinite(LogLoss()(Constant(), batch_of([1.0], weights=[weight])).total)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(DataError, match="no examples"):
        LogLoss()(Constant(), batch_of([]))


def test_an_output_of_another_shape_is_refused() -> None:
    class Wide(nn.Module):
        def forward(self, batch: Batch) -> Tensor:
            return torch.zeros(len(batch), 1)

    with pytest.raises(DataError, match="Model output"):
        LogLoss()(Wide(), batch_of([1.0, 0.0]))


def test_a_sampled_stream_is_refused_by_a_loss_that_knows_of_no_sampling() -> None:
    with pytest.raises(DataError, match=r"row 1 .*sample rate: got 0\.1, expected 1 for positives and 1\.0"):
        LogLoss()(Constant(), batch_of([1.0, 0.0], rates=[1.0, 0.1]))


@pytest.mark.parametrize("correction", ["training", "serving"])
def test_another_rate_than_the_configured_one_is_refused(correction: str) -> None:
    with pytest.raises(DataError, match="sample rate"):
        LogLoss(negative_rate=0.2, correction=correction)(Constant(), batch_of([0.0], rates=[0.1]))  # type: ignore[arg-type]


def test_sampled_positives_are_refused_where_a_constant_shift_cannot_correct_them() -> None:
    with pytest.raises(DataError, match="sample rate"):
        LogLoss(negative_rate=0.5)(Constant(), batch_of([1.0], rates=[0.5]))


def test_weights_take_any_rate_but_zero() -> None:
    loss = LogLoss(negative_rate=0.5, correction="weights")
    assert loss(Constant(), batch_of([1.0, 0.0], rates=[0.5, 0.25])).total.item() == pytest.approx(3 * math.log(2))
    with pytest.raises(DataError, match="sample rate"):
        loss(Constant(), batch_of([0.0], rates=[0.0]))


def test_both_corrections_at_once_are_refused() -> None:
    with pytest.raises(ConfigError):
        LogLoss(negative_rate=0.1, correction="both")  # type: ignore[arg-type]


def test_the_version_says_what_was_corrected() -> None:
    spec = LogLoss(negative_rate=0.1, correction="serving").spec()
    assert SamplingCorrection.from_spec(spec["sampling"]) == SamplingCorrection(0.1, "serving")


@pytest.mark.parametrize("correction", ["training", "weights", "serving"])
def test_the_contract_of_an_objective_holds(correction: str) -> None:
    loss = LogLoss(negative_rate=0.5, correction=correction)  # type: ignore[arg-type]
    batch, other = batch_of([1.0, 0.0, 0.0], rates=[1.0, 0.5, 0.5]), batch_of([0.0], rates=[0.5])
    assert check_objective(loss, Constant(0.3), batch, other=other).untried == ()


TRUE_CTR, RATE = 0.05, 0.1


def sampled_stream(seed: int) -> Batch:
    """Simulate 400,000 impressions of which all clicks and a tenth of the others are kept."""
    draw = torch.Generator().manual_seed(seed)
    clicked = torch.rand(400_000, generator=draw) < TRUE_CTR
    kept = clicked | (torch.rand(400_000, generator=draw) < RATE)
    labels = clicked[kept].float()
    rows = batch_of([0.0] * 1)
    zeros = torch.zeros(len(labels), dtype=torch.int64)
    return replace(
        rows, dense=torch.zeros(len(labels), 0), labels=labels, weights=torch.ones(len(labels)), event_times=zeros,
        accepted_times=zeros, example_ids=zeros, predictions=zeros.float(), versions=zeros,
        sample_rates=torch.where(labels > 0, 1.0, RATE),
    )  # fmt: skip


def fitted_probability(loss: LogLoss, batch: Batch) -> float:
    """Fit the constant model to convergence and return its own probability."""
    model = Constant()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = loss(model, batch).total
        total.backward()
        return total

    optimizer.step(closure)
    return torch.sigmoid(model.logit).item()


def test_without_correction_the_served_probability_is_far_too_high() -> None:
    stream = sampled_stream(1)
    own = fitted_probability(LogLoss(negative_rate=RATE, correction="serving"), stream)
    assert own == pytest.approx(TRUE_CTR / (TRUE_CTR + RATE * (1 - TRUE_CTR)), rel=0.02)  # 0.345, seven times 0.05


@pytest.mark.parametrize("correction", ["training", "weights", "serving"])
def test_one_correction_serves_the_true_rate(correction: str) -> None:
    loss = LogLoss(negative_rate=RATE, correction=correction)  # type: ignore[arg-type]
    served = loss.sampling.serve(fitted_probability(loss, sampled_stream(2)))
    assert served == pytest.approx(TRUE_CTR, rel=0.03)


def test_two_corrections_would_serve_far_too_little_and_are_refused() -> None:
    loss = LogLoss(negative_rate=RATE, correction="training")
    twice = correct_probability(fitted_probability(loss, sampled_stream(3)), RATE)
    assert twice < 0.2 * TRUE_CTR
    with pytest.raises(ConfigError, match="Apply it once"):
        check_applied_once(loss.sampling, RATE)


def test_shifting_each_example_by_its_own_rate_would_leak_the_label() -> None:
    """Why the shift is one constant: with its own rate per example the fitted rate is not the true one."""
    stream = sampled_stream(4)
    logit = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([logit], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        shifted = logit + stream.sample_rates.log()
        total = nn.functional.binary_cross_entropy_with_logits(shifted, stream.labels)
        total.backward()
        return total

    optimizer.step(closure)
    assert abs(torch.sigmoid(logit).item() - TRUE_CTR) > 0.5 * TRUE_CTR
