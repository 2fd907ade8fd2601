"""Losses of several labels: their value, unknown labels, sampling, and selection bias that ESMM does not have."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from headrace.errors import ConfigError, DataError
from headrace.nn.esmm import ESMM
from headrace.nn.layers import generator
from headrace.nn.tasks import LearnedWeights
from headrace.objectives import ESMMLoss, LogLoss, MultiTask, SamplingCorrection
from headrace.testing import check_objective
from headrace.types import Batch, Jagged, Loss

NAN = math.nan


def batch_of(
    labels: list[float], extra: dict[str, list[float]], *, rates: list[float] | None = None,
    weights: list[float] | None = None,
) -> Batch:  # fmt: skip
    rows = len(labels)
    zeros = torch.zeros(rows, dtype=torch.int64)
    return Batch(
        ids={}, dense=torch.zeros(rows, 0), labels=torch.tensor(labels),
        weights=torch.tensor(weights or [1.0] * rows), event_times=zeros, accepted_times=zeros,
        example_ids=torch.arange(100, 100 + rows), predictions=torch.full((rows,), NAN), versions=zeros - 1,
        sample_rates=torch.tensor(rates or [1.0] * rows),
        extra={f"label/{name}": torch.tensor(values) for name, values in extra.items()},
    )  # fmt: skip


class Constant(nn.Module):
    """The same logits for every example, one per label."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, batch: Batch) -> Tensor:
        return self.logits.expand(len(batch), -1)


def log_loss(logit: float, label: float) -> float:
    return math.log1p(math.exp(-logit)) + (1.0 - label) * logit


def test_value_is_the_weighted_sum_over_known_labels_divided_by_all_examples() -> None:
    batch = batch_of([1.0, 0.0], {"buy": [1.0, NAN], "like": [NAN, NAN]}, weights=[1.0, 0.5])
    loss = MultiTask(("buy", "like"), weights=(1.0, 3.0, 9.0))(Constant(0.2, -0.4, 0.7), batch)
    click = (log_loss(0.2, 1.0) + 0.5 * log_loss(0.2, 0.0)) / 2
    assert loss.total.item() == pytest.approx(click + 3.0 * log_loss(-0.4, 1.0) / 2)
    assert loss.parts == pytest.approx({"log_loss": click, "log_loss/buy": log_loss(-0.4, 1.0)})
    assert loss.logits is not None
    assert loss.logits.tolist() == pytest.approx([0.2, 0.2])


def test_an_unknown_label_moves_nothing_of_its_column() -> None:
    model = Constant(0.1, 0.2, 0.3)
    MultiTask(("buy", "like"))(model, batch_of([1.0], {"buy": [NAN], "like": [0.0]})).total.backward()
    assert model.logits.grad is not None
    assert model.logits.grad[1] == 0.0
    assert (model.logits.grad[[0, 2]] != 0.0).all()


def test_without_extra_labels_it_is_log_loss() -> None:
    batch = batch_of([1.0, 0.0, 1.0], {}, rates=[1.0, 0.5, 1.0], weights=[1.0, 2.0, 0.5])

    class Plain(nn.Module):
        def forward(self, batch: Batch) -> Tensor:
            return torch.full((len(batch),), 0.3)

    several = MultiTask((), negative_rate=0.5)(Constant(0.3), batch)
    torch.testing.assert_close(several.total, LogLoss(negative_rate=0.5)(Plain(), batch).total)
    assert several.parts["log_loss"] == pytest.approx(LogLoss(negative_rate=0.5)(Plain(), batch).parts["log_loss"])


@pytest.mark.parametrize("correction", ["training", "weights"])
def test_every_label_is_estimated_without_bias_from_sampled_negatives(correction: str) -> None:
    """Of 1000 impressions 100 are clicked and 60 liked, 20 of them without a click; a tenth is kept of what was not."""
    rate = 0.1
    counts = {(1.0, 1.0): 40.0, (1.0, 0.0): 60.0, (0.0, 1.0): 20.0 * rate, (0.0, 0.0): 880.0 * rate}
    batch = batch_of(
        [click for click, _ in counts], {"like": [like for _, like in counts]},
        rates=[1.0 if click else rate for click, _ in counts], weights=list(counts.values()),
    )  # fmt: skip
    model = Constant(math.log(0.1 / 0.9), math.log(0.06 / 0.94))
    loss = MultiTask(("like",), negative_rate=rate, correction=correction)  # type: ignore[arg-type]
    loss(model, batch).total.backward()
    assert model.logits.grad is not None
    assert model.logits.grad.abs().max() < 1e-4
    assert SamplingCorrection.from_spec(loss.spec()["sampling"]) == SamplingCorrection(rate, correction)  # type: ignore[arg-type]


def test_learned_weights_are_kendalls() -> None:
    model = LearnedWeights(Constant(0.2, -0.4), 2)
    with torch.no_grad():
        model.log_variances.copy_(torch.tensor([0.5, -1.0]))
    batch = batch_of([1.0], {"buy": [0.0]})
    loss = MultiTask(("buy",), weights="learned")(model, batch)
    expected = log_loss(0.2, 1.0) * math.exp(-0.5) + 0.25 + log_loss(-0.4, 0.0) * math.exp(1.0) - 0.5
    assert loss.total.item() == pytest.approx(expected)
    loss.total.backward()
    assert model.log_variances.grad is not None
    with pytest.raises(ConfigError, match=r"LearnedWeights\(model, 2\)"):
        MultiTask(("buy",), weights="learned")(Constant(0.2, -0.4), batch)


def test_esmm_compares_with_the_product_of_the_labels() -> None:
    nan = NAN
    batch = batch_of([0.0, 1.0, 1.0, 1.0], {"buy": [nan, 0.0, 1.0, nan], "keep": [1.0, 1.0, nan, 1.0]})
    (click, clicks), (buy, buys), (keep, keeps) = ESMMLoss(("buy", "keep")).targets(batch)
    assert (click.tolist(), clicks.tolist()) == ([0, 1, 1, 1], [True] * 4)
    assert buys.tolist() == [True, True, True, False]
    assert buy[buys].tolist() == [0, 0, 1]
    assert keeps.tolist() == [True, True, False, False]
    assert keep[keeps].tolist() == [0, 0]


def test_esmm_counts_every_impression_and_not_clicks_only() -> None:
    model = Constant(-1.0, -2.0)
    loss = ESMMLoss()(model, batch_of([0.0, 1.0], {"conversion": [NAN, 1.0]}))
    assert loss.parts["log_loss/conversion"] == pytest.approx((log_loss(-2.0, 0.0) + log_loss(-2.0, 1.0)) / 2)


@pytest.mark.parametrize("loss", [MultiTask(("buy",)), ESMMLoss(("buy",)), MultiTask(("buy",), weights=(1.0, 0.0))])
def test_they_are_objectives(loss: MultiTask) -> None:
    check_objective(loss, Constant(0.1, 0.2), batch_of([1.0, 0.0], {"buy": [1.0, NAN]}))


def test_labels_and_models_that_do_not_fit_are_refused() -> None:
    loss = MultiTask(("buy",))
    with pytest.raises(DataError, match=r"'bui'.*'buy'"):
        MultiTask(("bui",))(Constant(0.1, 0.2), batch_of([1.0], {"buy": [1.0]}))
    with pytest.raises(DataError, match=r"example 101\), label 'buy'"):
        loss(Constant(0.1, 0.2), batch_of([1.0, 1.0], {"buy": [1.0, 2.0]}))
    with pytest.raises(DataError, match="label"):
        loss(Constant(0.1, 0.2), batch_of([NAN], {"buy": [1.0]}))
    with pytest.raises(DataError, match="one logit per example and label"):
        loss(Constant(0.1), batch_of([1.0], {"buy": [1.0]}))
    with pytest.raises(DataError, match="sample rate"):
        loss(Constant(0.1, 0.2), batch_of([0.0], {"buy": [1.0]}, rates=[0.5]))
    with pytest.raises(DataError, match="no examples"):
        loss(Constant(0.1, 0.2), batch_of([], {"buy": []}))


@pytest.mark.parametrize(
    "settings",
    [
        {"labels": ["buy"]}, {"labels": ("buy", "buy")}, {"labels": ("buy",), "weights": (1.0,)},
        {"labels": ("buy",), "weights": (1.0, -1.0)}, {"labels": ("buy",), "negative_rate": 0.0},
        {"labels": ("buy",), "negative_rate": 0.5, "correction": "serving"},
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        MultiTask(**settings)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------- selection bias

ITEMS, IMPRESSIONS = 2_000, 120_000


class Items(nn.Module):
    """Four numbers per item."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(ITEMS, 4, generator=generator(0)) * 0.01)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {"item": self.table[batch.ids["item"].values]}


def shop() -> tuple[Batch, npt.NDArray[np.float64]]:
    """Impressions of items whose quality makes both clicks and purchases; and the true rate of purchases after clicks.

    Poor items are hardly ever clicked, so there is next to nothing to see of what happens after a click on them.
    """
    draw = np.random.default_rng(0)
    quality, items = draw.normal(size=ITEMS), draw.integers(ITEMS, size=IMPRESSIONS)
    click_rate, buy_rate = (1 / (1 + np.exp(-(bias + slope * quality))) for bias, slope in ((-2.2, 1.5), (-1.0, 1.2)))
    click = draw.random(IMPRESSIONS) < click_rate[items]
    buy = click & (draw.random(IMPRESSIONS) < buy_rate[items])
    labels = {"buy": buy.astype(np.float32).tolist()}
    ids = Jagged(torch.from_numpy(items), torch.arange(IMPRESSIONS + 1))
    return replace(batch_of(click.astype(np.float32).tolist(), labels), ids={"item": ids}), buy_rate[items]


def fit(model: nn.Module, objective: object, data: Batch, rows: Tensor, epochs: int) -> None:
    optimizer, draw = torch.optim.Adam(model.parameters(), lr=0.02), torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for chosen in rows[torch.randperm(len(rows), generator=draw)].split(2_000):
            values = {name: getattr(data, name)[chosen] for name in Batch.__slots__ if name not in ("ids", "extra")}
            part = Batch(
                ids={"item": Jagged(data.ids["item"].values[chosen], torch.arange(len(chosen) + 1))},
                extra={name: value[chosen] for name, value in data.extra.items()}, **values,
            )  # fmt: skip
            optimizer.zero_grad()
            objective(model, part).total.backward()  # type: ignore[operator]
            optimizer.step()


def test_conversion_rates_over_all_impressions_are_less_biased_than_those_learned_on_clicks() -> None:
    data, truth = shop()

    class First(nn.Module):
        """A plain network of the same size, for the conversion alone."""

        def __init__(self) -> None:
            super().__init__()
            self.network = ESMM(Items(), ("item",), 0, (), priors=(0.3,))

        def forward(self, batch: Batch) -> Tensor:
            return self.network(batch)[:, 0]

    def conversion(model: nn.Module, batch: Batch) -> Loss:
        return LogLoss()(model, replace(batch, labels=batch.extra["label/buy"]))

    entire, clicked = ESMM(Items(), ("item",), 0, (), priors=(0.1, 0.3)), First()
    fit(entire, ESMMLoss(("buy",)), data, torch.arange(IMPRESSIONS), epochs=3)
    fit(clicked, conversion, data, torch.nonzero(data.labels > 0)[:, 0], epochs=10)
    with torch.no_grad():
        rates = torch.sigmoid(entire.steps(data)[:, 1]).numpy(), torch.sigmoid(clicked(data)).numpy()
    bias, error = zip(*((abs(rate.mean() - truth.mean()), np.abs(rate - truth).mean()) for rate in rates), strict=True)
    assert bias[0] < 0.01 < 0.03 < bias[1]
    assert error[0] < 0.07 < 0.12 < error[1]
