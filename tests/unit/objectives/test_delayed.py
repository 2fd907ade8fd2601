"""Late positives: the weights of the papers, their fixed points, and a simulated world whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from headrace.data import EventJoin, JoinConfig
from headrace.errors import ConfigError, DataError
from headrace.feedback import DelayPart, World, WorldConfig
from headrace.objectives import DelayedLogLoss, LogLoss
from headrace.protocols import Objective
from headrace.testing import check_objective
from headrace.types import Batch, Events

Floats = npt.NDArray[np.float64]
BOTH = ["positives", "all"]


def batch_of(
    labels: list[float], late: list[float] | None = None, *, rates: list[float] | None = None,
    weights: list[float] | None = None, inputs: Tensor | None = None,
) -> Batch:  # fmt: skip
    rows = len(labels)
    zeros = torch.zeros(rows, dtype=torch.int64)
    return Batch(
        ids={}, dense=torch.zeros(rows, 0) if inputs is None else inputs, labels=torch.tensor(labels),
        weights=torch.tensor(weights or [1.0] * rows), event_times=zeros, accepted_times=zeros,
        example_ids=torch.arange(rows), predictions=torch.full((rows,), math.nan), versions=zeros - 1,
        sample_rates=torch.tensor(rates or [1.0] * rows),
        extra={} if late is None else {"label/late": torch.tensor(late)},
    )  # fmt: skip


class Constant(nn.Module):
    """The same logits for every example: of p, and of the late share if there is one."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, batch: Batch) -> Tensor:
        return self.logits.expand(len(batch), -1) if len(self.logits) > 1 else self.logits.expand(len(batch))


def stream_rate(p: float, r: float, second: str) -> float:
    """The share of positives in the stream, counted per impression."""
    positives, negatives = [(1 - r) * p, r * p], [1 - (1 - r) * p]
    if second == "all":
        positives, negatives = [(1 - r) * p, p], [1 - (1 - r) * p, 1 - p]
    return sum(positives) / (sum(positives) + sum(negatives))


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9])
def test_without_a_window_the_weights_are_those_of_fnw(p: float) -> None:
    positive, negative = DelayedLogLoss(1.0).weigh(torch.logit(torch.tensor([p])), torch.tensor([1.0]))
    torch.testing.assert_close(positive, torch.tensor([1 + p]))
    torch.testing.assert_close(negative, torch.tensor([(1 - p) * (1 + p)]))


def test_with_a_window_the_weights_are_those_of_es_dfm() -> None:
    p, delayed = 0.3, 0.12  # 40 % of the positives are late
    positive, negative = DelayedLogLoss(0.4).weigh(torch.logit(torch.tensor([p])), torch.tensor([0.4]))
    torch.testing.assert_close(positive, torch.tensor([1 + delayed]))
    torch.testing.assert_close(negative, torch.tensor([(1 + delayed) * (1 - p) / (1 - p + delayed)]))


def test_with_real_negatives_the_weights_are_those_of_defer() -> None:
    p, delayed = 0.3, 0.12
    positive, negative = DelayedLogLoss(0.4, second="all").weigh(torch.logit(torch.tensor([p])), torch.tensor([0.4]))
    torch.testing.assert_close(positive, torch.tensor([2 * p / (2 * p - delayed)]))
    torch.testing.assert_close(negative, torch.tensor([2 * (1 - p) / (2 * (1 - p) + delayed)]))


@pytest.mark.parametrize("second", BOTH)
@pytest.mark.parametrize("late", [0.0, 0.3, 1.0])
def test_weights_and_calibration_agree_with_the_rates_of_the_stream(late: float, second: str) -> None:
    p = torch.tensor([0.02, 0.2, 0.7], dtype=torch.float64)
    share = torch.full_like(p, late)
    loss = DelayedLogLoss(late, second=second)  # type: ignore[arg-type]
    stream = torch.tensor([stream_rate(float(rate), late, second) for rate in p], dtype=torch.float64)
    torch.testing.assert_close(torch.sigmoid(loss.stream_logit(torch.logit(p), share)), stream)
    positive, negative = loss.weigh(torch.logit(p), share)
    torch.testing.assert_close(positive, p / stream)
    torch.testing.assert_close(negative, (1 - p) / (1 - stream))


def test_calibration_without_a_window_is_fnc() -> None:
    """FNC serves b / (1 - b) of a model of b: the model of p whose b that is says the same."""
    biased = torch.tensor([0.01, 0.2, 0.45])
    true = torch.logit(biased / (1 - biased))
    loss = DelayedLogLoss(1.0, "calibration")
    torch.testing.assert_close(torch.sigmoid(loss.stream_logit(true, torch.ones(3))), biased)


@pytest.mark.parametrize("second", BOTH)
@pytest.mark.parametrize("method", ["weights", "calibration"])
@pytest.mark.parametrize("late", [0.0, 0.3, 1.0])
def test_the_truth_is_where_the_gradient_vanishes(late: float, method: str, second: str) -> None:
    p = 0.2
    loss = DelayedLogLoss(late, method, second)  # type: ignore[arg-type]
    rate = stream_rate(p, late, second)
    slopes = []
    for logit in (-0.3, 0.0, 0.3):
        model = Constant(math.log(p / (1 - p)) + logit)
        loss(model, batch_of([1.0, 0.0], weights=[rate, 1 - rate])).total.backward()
        assert model.logits.grad is not None
        slopes.append(float(model.logits.grad))
    assert slopes[0] < -1e-4
    assert slopes[1] == pytest.approx(0.0, abs=1e-6)
    assert slopes[2] > 1e-4


def test_without_late_positives_it_is_log_loss() -> None:
    batch, model = batch_of([1.0, 0.0, 0.0]), Constant(0.7)
    plain = LogLoss()(model, batch).total
    for method in ("weights", "calibration"):
        torch.testing.assert_close(DelayedLogLoss(0.0, method)(model, batch).total, plain)  # type: ignore[arg-type]


@pytest.mark.parametrize("second", BOTH)
@pytest.mark.parametrize("method", ["weights", "calibration"])
@pytest.mark.parametrize("late", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("logit", [-200.0, 30.0, 200.0])
def test_huge_logits_give_finite_losses_and_gradients(logit: float, late: float, method: str, second: str) -> None:
    model = Constant(logit)
    loss = DelayedLogLoss(late, method, second)(model, batch_of([1.0, 0.0]))  # type: ignore[arg-type]
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert model.logits.grad is not None
    assert torch.isfinite(model.logits.grad).all()


@pytest.mark.parametrize("second", BOTH)
def test_a_learned_late_share_ends_at_the_share_of_the_positives(second: str) -> None:
    # Ten positives of which four are late; with `all` those in time come twice.
    again = 2 if second == "all" else 1
    labels, late = [1.0] * (6 * again + 4) + [0.0] * 20, [0.0] * 6 * again + [1.0] * 4 + [math.nan] * 20
    model, loss = Constant(0.0, 0.0), DelayedLogLoss(None, second=second)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        result = loss(model, batch_of(labels, late))
        result.total.backward()
        optimizer.step()
    assert torch.sigmoid(model.logits[1].detach()).item() == pytest.approx(0.4, abs=0.01)
    assert result.logits is not None
    assert result.logits.shape == (len(labels),)
    assert set(result.parts) == {"log_loss", "log_loss/late"}


@pytest.mark.parametrize("method", ["weights", "calibration"])
def test_sampled_negatives_are_corrected(method: str) -> None:
    p, late, kept = 0.2, 0.5, 0.25
    rate = stream_rate(p, late, "positives")
    model = Constant(math.log(p / (1 - p)))
    batch = batch_of([1.0, 0.0], rates=[1.0, kept], weights=[rate, (1 - rate) * kept])
    loss = DelayedLogLoss(late, method, negative_rate=kept)  # type: ignore[arg-type]
    loss(model, batch).total.backward()
    assert model.logits.grad is not None
    assert float(model.logits.grad) == pytest.approx(0.0, abs=1e-6)
    assert '"weights"' in loss.spec()["sampling"] if method == "weights" else '"training"' in loss.spec()["sampling"]


def test_it_is_an_objective() -> None:
    check_objective(DelayedLogLoss(0.4), Constant(0.3), batch_of([1.0, 0.0]))
    check_objective(DelayedLogLoss(None), Constant(0.3, 0.1), batch_of([1.0, 0.0], [1.0, 0.0]))


@pytest.mark.parametrize(
    "settings", [{"late_share": 1.5}, {"method": "other"}, {"second": "none"}, {"negative_rate": 0.0}]
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        DelayedLogLoss(**settings)  # type: ignore[arg-type]


def test_a_model_or_batch_of_another_shape_is_refused() -> None:
    with pytest.raises(DataError, match="Two columns with late_share=None"):
        DelayedLogLoss(None)(Constant(0.0), batch_of([1.0], [0.0]))
    with pytest.raises(DataError, match="Two columns with late_share=None"):
        DelayedLogLoss()(Constant(0.0, 0.0), batch_of([1.0]))
    with pytest.raises(DataError, match="'late'"):
        DelayedLogLoss(None)(Constant(0.0, 0.0), batch_of([1.0]))


# ------------------------------------------------------------------------------------ the simulator's truth

WINDOW_S, HORIZON_S = 60.0, 6 * 3600.0
DELAY = (DelayPart(share=0.5, median_s=10.0, sigma=0.5), DelayPart(share=0.5, median_s=3600.0, sigma=0.5))


def world_of(requests: int) -> World:
    """Half of the clicks come in seconds, half in hours; nearly a third of the rows are clicked."""
    return World(WorldConfig(
        seed=4, requests=requests, requests_per_s=0.05, candidates=5, items=200, users=200, bias=-0.5, bots=0,
        bot_share=0.0, delay=DELAY, delay_longest_s=HORIZON_S,
    ))  # fmt: skip


def columns(world: World, events: Events) -> Floats:
    """Label, true probability, and seconds from impression to click (0 without one), (N, 3)."""
    labels = np.asarray(events.column("label").to_numpy(), dtype=np.float64)
    delays = (np.asarray(events.column("action_time").to_numpy()) - events.times) / 1e6
    return np.stack([labels, world.true_probability(events), np.where(labels > 0, delays, 0.0)], axis=1)


@pytest.fixture(scope="module")
def streams() -> dict[str, Floats]:
    """What learners are given by the end of the stream, from two joins of one log: a short window and a long one."""
    world, found = world_of(6_000), dict[str, list[Floats]](short=[], positives=[], all=[], waited=[])
    short, long = (EventJoin(JoinConfig(window_s=w, lateness_s=5.0)) for w in (WINDOW_S, HORIZON_S))
    for entry in world.stream(200):
        if (first := short.push(entry)) is not None:
            for name in ("short", "positives", "all"):
                found[name].append(columns(world, first))
        if (second := long.push(entry)) is not None:
            rows = columns(world, second)
            found["positives"].append(rows[rows[:, 2] > WINDOW_S])
            found["all"].append(rows)
            found["waited"].append(rows)
    # An oracle may wait for the end of the last window; so must whoever learns every example twice, because positives
    # come out of the long join at once and negatives at its end.
    rest = long.flush()
    assert rest is not None
    for name in ("waited", "all"):
        found[name].append(columns(world, rest))
    return {name: np.concatenate(rows) for name, rows in found.items()}


class Line(nn.Module):
    """A line through the true logit, which has the answer at slope 1 and offset 0; and a late share for all."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.line, self.late = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(()))
        self.columns = columns

    def forward(self, batch: Batch) -> Tensor:
        logits = self.line[0] + self.line[1] * batch.dense[:, 0]
        return logits if self.columns == 1 else torch.stack([logits, self.late.expand(len(batch))], dim=1)


def examples(rows: Floats) -> Batch:
    inputs = torch.from_numpy(np.log(rows[:, 1:2] / (1 - rows[:, 1:2]))).float()
    late = torch.from_numpy(rows[:, 2] > WINDOW_S).float()
    batch = batch_of([0.0] * len(rows), [0.0] * len(rows), inputs=inputs)
    object.__setattr__(batch, "labels", torch.from_numpy(rows[:, 0]).float())
    return Batch(**{**{name: getattr(batch, name) for name in Batch.__slots__}, "extra": {"label/late": late}})


def judged(rows: Floats, objective: Objective, columns: int = 1) -> tuple[float, float]:
    """Estimated rate over true rate, and log-loss above that of the truth, on impressions that come afterwards."""
    model, draw, everything = Line(columns), torch.Generator().manual_seed(0), examples(rows)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        for chosen in torch.randperm(len(rows), generator=draw).split(1000):
            optimizer.zero_grad()
            objective(model, cut(everything, chosen)).total.backward()
            optimizer.step()
        optimizer.param_groups[0]["lr"] *= 0.3
    world = world_of(8_000)
    world.seek({"world": 6_000 * 5})
    later = Events.concat(list(world.stream(2_000))).of_kind("impression")
    truth = world.true_probability(later)
    with torch.no_grad():
        logits = model(examples(np.stack([truth * 0, truth, truth * 0], axis=1))).double().reshape(len(truth), -1)
    rate = torch.sigmoid(logits[:, 0]).numpy()

    def log_loss(guess: Floats) -> float:
        return float(-(truth * np.log(guess) + (1 - truth) * np.log(1 - guess)).mean())

    return float(rate.mean() / truth.mean()), log_loss(rate) - log_loss(truth)


def cut(batch: Batch, rows: Tensor) -> Batch:
    values = {name: getattr(batch, name) for name in Batch.__slots__ if name not in ("ids", "extra")}
    return Batch(
        ids={}, extra={name: value[rows] for name, value in batch.extra.items()},
        **{name: value[rows] for name, value in values.items()},
    )  # fmt: skip


def test_ignoring_delays_is_far_off_and_waiting_is_not(streams: dict[str, Floats]) -> None:
    late = 1.0 - world_of(1).truth.clicked_within(WINDOW_S)
    assert late == pytest.approx(0.5, abs=0.01)
    rate, excess = judged(streams["short"], LogLoss())
    assert rate < 0.6
    assert excess > 0.07
    rate, excess = judged(streams["positives"], LogLoss())  # late positives added, nothing corrected
    assert rate < 0.85
    assert excess > 0.02
    rate, excess = judged(streams["waited"], LogLoss())
    assert rate == pytest.approx(1.0, abs=0.03)
    assert excess < 0.001


@pytest.mark.parametrize(
    ("stream", "make"),
    [
        ("positives", lambda late: DelayedLogLoss(late)),
        ("positives", lambda late: DelayedLogLoss(late, "calibration")),
        ("positives", lambda late: DelayedLogLoss(None)),
        ("positives", lambda late: DelayedLogLoss(None, "calibration")),
        ("all", lambda late: DelayedLogLoss(late, second="all")),
        ("all", lambda late: DelayedLogLoss(late, "calibration", "all")),
        ("all", lambda late: DelayedLogLoss(None, second="all")),
    ],
)
def test_corrected_it_is_nearly_as_good_as_waiting(
    streams: dict[str, Floats], stream: str, make: Callable[[float], DelayedLogLoss]
) -> None:
    objective = make(1.0 - world_of(1).truth.clicked_within(WINDOW_S))
    rate, excess = judged(streams[stream], objective, 2 if objective.late_share is None else 1)
    assert rate == pytest.approx(1.0, abs=0.03)
    assert excess < 0.001
