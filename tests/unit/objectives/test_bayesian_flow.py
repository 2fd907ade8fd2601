"""The loss of Bayesian flow networks, and the learner of rankers taking its steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from headrace.errors import ConfigError, DataError
from headrace.learn import LearnerConfig, RankLearner
from headrace.nn import BayesianFlow, ContinuousFlow, DiscreteFlow, ResidualDenoiser
from headrace.objectives import FlowLoss
from headrace.store import EmbeddingCollection
from headrace.types import Batch, Jagged


def batch(rows: torch.Tensor, **other: object) -> Batch:
    count = len(rows)
    none, ones, numbers = torch.zeros(count, dtype=torch.int64), torch.ones(count), torch.arange(count)
    plain = Batch(ids={}, dense=rows, labels=ones, weights=ones, event_times=numbers, accepted_times=none,
                  example_ids=numbers, predictions=torch.full((count,), torch.nan), versions=none - 1,
                  sample_rates=ones)  # fmt: skip
    return replace(plain, **other)


def vectors(seed: int = 0) -> BayesianFlow:
    denoiser = ResidualDenoiser((2,), (2,), width=16, blocks=1, seed=seed)
    return BayesianFlow(denoiser, ContinuousFlow(sigma=0.05), (2,), embed=EmbeddingCollection({}, []))


def points(rows: int = 64) -> torch.Tensor:
    return torch.tensor([[0.5, -0.5], [-0.25, 0.75]])[torch.arange(rows) % 2]


class Known(torch.nn.Module):
    """The exact denoiser of data that is always the same."""

    def __init__(self, value: float, off: float = 0.0) -> None:
        super().__init__()
        self.value, self.off, self.unused = value, off, torch.nn.Parameter(torch.zeros(1))
        self.flow = ContinuousFlow(sigma=0.05)

    def forward(self, inputs: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        signal, spread = self.flow.signal(time)[:, None], self.flow.spread(time)[:, None]
        return (inputs - signal * (self.value + self.off)) / spread + 0.0 * self.unused


def test_who_knows_the_data_has_nothing_to_learn() -> None:
    rows = torch.full((32, 2), 0.4)
    right = BayesianFlow(Known(0.4), ContinuousFlow(sigma=0.05), (2,))
    assert float(FlowLoss()(right, batch(rows)).total.detach()) == pytest.approx(0.0, abs=1e-6)


def test_the_loss_is_the_integral_over_times() -> None:
    """A guess that is off by d costs d²/2 times what all messages after the start tell."""
    rows, flow = torch.full((4096, 2), 0.4), ContinuousFlow(sigma=0.05)
    wrong = BayesianFlow(Known(0.4, off=0.1), flow, (2,))
    told = flow.accuracy(torch.tensor(1.0)) - flow.accuracy(torch.tensor(flow.start))
    expected = 0.5 * 0.1**2 * float(told) / (1.0 - flow.start)
    assert float(FlowLoss()(wrong, batch(rows)).total.detach()) == pytest.approx(expected, rel=1e-3)


def test_weights_count() -> None:
    rows, model = points(2), vectors()
    losses = []
    for weights in ([1.0, 1.0], [1.0, 0.0], [0.0, 1.0]):
        torch.manual_seed(5)
        losses.append(float(FlowLoss()(model, batch(rows, weights=torch.tensor(weights))).total.detach()))
    assert losses[0] == pytest.approx(losses[1] + losses[2], rel=1e-5)


def test_the_learner_of_rankers_learns_it_and_stops_and_goes_on_exactly() -> None:
    def learner() -> RankLearner:
        model = vectors()
        adam = torch.optim.Adam(model.parameters(), lr=3e-3)
        return RankLearner(model, model.embed, adam, FlowLoss(), LearnerConfig(seed=3, freshness=False))

    straight, first = learner(), learner()
    losses = [float(straight.learn(batch(points())).total) for _ in range(300)]
    assert sum(losses[-50:]) < 0.6 * sum(losses[:50])
    for _ in range(20):
        first.learn(batch(points()))
    second = learner()
    second.restore(first.state())
    assert float(second.learn(batch(points())).total) == losses[20]


def test_classes_are_read_from_extra_columns_or_ids() -> None:
    codes = torch.tensor([[0, 1, 2], [2, 1, 0]])
    model = BayesianFlow(ResidualDenoiser((3, 3), (3, 3), probabilities=True), DiscreteFlow(classes=3), (3,))
    given = batch(torch.zeros(2, 0), extra={"text": codes},
                  ids={"words": Jagged(codes.flatten(), torch.tensor([0, 3, 6]))})  # fmt: skip
    found = []
    for name in ("text", "words"):
        torch.manual_seed(1)
        found.append(float(FlowLoss(name)(model, given).total.detach()))
    assert found[0] == found[1] > 0


def test_what_is_no_data_is_refused() -> None:
    model = vectors()
    with pytest.raises(DataError, match=r"shape \(4, 3\), expected \(4, 2\)"):
        FlowLoss()(model, batch(torch.zeros(4, 3)))
    with pytest.raises(DataError, match="nothing of that name"):
        FlowLoss("text")(model, batch(points(2)))
    with pytest.raises(DataError, match="values from"):
        FlowLoss()(model, batch(points(2) * 9))
    jagged = Jagged(torch.zeros(3, dtype=torch.int64), torch.tensor([0, 1, 3]))
    with pytest.raises(DataError, match="several lengths"):
        FlowLoss("words")(model, batch(points(2), ids={"words": jagged}))
    with pytest.raises(ConfigError, match="a BayesianFlow"):
        FlowLoss()(torch.nn.Linear(2, 1), batch(points(2)))
