"""The position tower: its formulas, what it serves, and relevance that it finds where ignoring the place goes wrong."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from headrace.errors import ConfigError, DataError
from headrace.feedback import Place, World, WorldConfig
from headrace.nn import LogisticRegression
from headrace.nn.position import PositionTower
from headrace.types import Batch, Events, Jagged

ITEMS, FOCUS = 200, (0.6, 1.2)
Floats = npt.NDArray[np.float64]


class Items(nn.Module):
    """One weight per item."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(ITEMS, 1))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {"item": self.table[batch.ids["item"].values]}


def batch_of(items: list[int], places: list[float], scenarios: list[int] | None = None) -> Batch:
    rows = len(items)
    zeros, offsets = torch.zeros(rows, dtype=torch.int64), torch.arange(rows + 1)
    return Batch(
        ids={"item": Jagged(torch.tensor(items), offsets), "place": Jagged(torch.tensor(places).long(), offsets)},
        dense=torch.tensor(places).reshape(-1, 1), labels=torch.zeros(rows), weights=torch.ones(rows),
        event_times=zeros, accepted_times=zeros, example_ids=zeros, predictions=torch.full((rows,), math.nan),
        versions=zeros - 1, sample_rates=torch.ones(rows), extra={"scenario": torch.tensor(scenarios or [0] * rows)},
    )  # fmt: skip


def relevance() -> LogisticRegression:
    model = LogisticRegression(Items(), ("item",), 1, prior=0.2)
    with torch.no_grad():
        model.embed.table.copy_(torch.linspace(-2, 2, ITEMS).reshape(-1, 1))
    return model


def tower(form: str, position: int | str = 0, **settings: object) -> PositionTower:
    model = PositionTower(relevance(), position, 4, form=form, **settings)  # type: ignore[arg-type]
    with torch.no_grad():
        model.effects.copy_(torch.tensor([[0.5, -0.5, -1.0, -2.0]]).expand(model.scenarios, 4))
    return model


def test_additive_adds_the_effect_of_the_place_relative_to_the_reference() -> None:
    model, batch = tower("additive"), batch_of([5, 5, 5, 9], [1.0, 2.0, 4.0, 7.0])
    plain = model.relevance(batch_of([5, 5, 5, 9], [1.0] * 4))
    torch.testing.assert_close(model(batch) - plain, torch.tensor([0.0, -1.0, -2.5, -2.5]))
    torch.testing.assert_close(model.effect(), torch.tensor([[0.0, -1.0, -1.5, -2.5]]))


def test_examination_multiplies_the_probability() -> None:
    model, batch = tower("examination"), batch_of([5, 5, 9, 9], [1.0, 2.0, 4.0, 7.0])
    plain = torch.sigmoid(model.relevance(batch_of([5, 5, 9, 9], [1.0] * 4)))
    seen = torch.tensor([1.0, *torch.sigmoid(torch.tensor([-0.5, -2.0, -2.0])).tolist()])
    torch.testing.assert_close(torch.sigmoid(model(batch)), plain * seen)
    torch.testing.assert_close(model.effect()[0, [0, 1, 3, 3]], seen)


@pytest.mark.parametrize("form", ["additive", "examination"])
def test_at_the_reference_place_relevance_alone_is_served(form: str) -> None:
    model, batch = tower(form, reference=1), batch_of([0, 50, 199], [1.0, 1.0, 1.0])
    assert torch.equal(model(batch), model.relevance(batch))


def test_another_reference_place_moves_what_is_served() -> None:
    model, batch = tower("additive", reference=2), batch_of([3, 3], [1.0, 2.0])
    served = model.relevance(batch_of([3, 3], [2.0, 2.0]))
    torch.testing.assert_close(model(batch), served + torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("form", ["additive", "examination"])
def test_the_relevance_model_never_sees_the_place(form: str) -> None:
    model = tower(form)
    with torch.no_grad():
        model.relevance.dense_weight.fill_(3.0)
    seen = model(batch_of([5, 5], [2.0, 3.0])) - model(batch_of([6, 6], [2.0, 3.0]))
    model.relevance.dense_weight.data.zero_()
    without = model(batch_of([5, 5], [2.0, 3.0])) - model(batch_of([6, 6], [2.0, 3.0]))
    if form == "additive":
        torch.testing.assert_close(seen, without)
    seen_first, at_reference = model(batch_of([5], [1.0])), model.relevance(batch_of([5], [1.0]))
    assert torch.equal(seen_first, at_reference)


def test_places_of_an_id_feature_are_its_integers() -> None:
    by_id, by_column = tower("additive", "place"), tower("additive", 0)
    batch = batch_of([1, 2, 3], [1.0, 2.0, 3.0])
    ignored = replace(batch, dense=torch.ones(3, 1))
    torch.testing.assert_close(by_id(ignored), by_column(batch))


def test_scenarios_have_effects_of_their_own() -> None:
    model, batch = tower("additive", scenarios=2), batch_of([1, 1], [3.0, 3.0], [0, 1])
    with torch.no_grad():
        model.effects[1, 2] = 9.0
    assert (model(batch)[1] - model(batch)[0]).item() == pytest.approx(10.0)


def test_every_label_of_several_gets_the_same_effect() -> None:
    class Two(nn.Module):
        def forward(self, batch: Batch) -> Tensor:
            return torch.tensor([0.0, 1.0]).expand(len(batch), 2)

    model = PositionTower(Two(), 0, 4, form="examination")
    with torch.no_grad():
        model.effects.fill_(0.0)
    got = torch.sigmoid(model(batch_of([1, 1], [1.0, 2.0])))
    torch.testing.assert_close(got[1], got[0] / 2)


@pytest.mark.parametrize("form", ["additive", "examination"])
def test_gradients_reach_relevance_and_every_place_but_the_reference(form: str) -> None:
    model = tower(form)
    model(batch_of([1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert model.effects.grad is not None
    assert (model.effects.grad[0, 1:].abs() > 0).all()
    assert model.relevance.embed.table.grad.abs().sum() > 0  # type: ignore[union-attr]


def test_weights_are_saved_and_loaded() -> None:
    first, other = tower("examination"), PositionTower(relevance(), 0, 4)
    other.load_state_dict(first.state_dict())
    batch = batch_of([1, 2], [2.0, 3.0])
    assert torch.equal(first(batch), other(batch))


@pytest.mark.parametrize("place", [0.0, -1.0, 1.5, math.nan])
def test_places_that_are_none_are_refused(place: float) -> None:
    with pytest.raises(DataError, match="whole number from 1"):
        tower("additive")(batch_of([1], [place]))


def test_columns_features_and_scenarios_that_are_not_there_are_refused() -> None:
    batch = batch_of([1], [1.0], [5])
    with pytest.raises(DataError, match="dense column 3"):
        tower("additive", 3)(batch)
    with pytest.raises(DataError, match="'place'"):
        tower("additive", "plaze")(batch)
    with pytest.raises(DataError, match="scenario"):
        tower("additive", scenarios=2)(batch)


@pytest.mark.parametrize(
    "settings", [{"places": 1}, {"reference": 0}, {"reference": 21}, {"scenarios": 0}, {"form": "other"}]
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        PositionTower(relevance(), 0, **settings)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ planted truth


@pytest.fixture(scope="module")
def shown() -> tuple[Batch, Floats]:
    """What people clicked of lists that an old, wrong opinion of the items had ordered; and the items' true quality.

    Tastes, lives and waves are switched off, so an item's quality is all there is to know about it.
    """
    places = (Place(name="home", share=0.6, focus=FOCUS[0]), Place(name="search", share=0.4, focus=FOCUS[1]))
    world = World(WorldConfig(
        seed=3, requests=15_000, items=ITEMS, users=200, drift_s=math.inf, item_life_s=math.inf, bias=0.5, taste=0.0,
        quality=0.5, trend=0.0, places=places, bots=0, bot_share=0.0,
    ))  # fmt: skip
    draw = np.random.default_rng(1)
    requests = world.read(150_000)
    assert requests is not None
    items = np.array([int(name[1:]) for name in requests.column("item").to_pylist()])
    opinion = draw.normal(size=ITEMS)[items] + 0.5 * draw.normal(size=len(items))
    ranked = requests.with_columns({"score": pa.array(opinion)})
    seen = world.shown(requests, ranked)
    clicks = Events.concat([part for part in (world.collect(requests, ranked), world.drain()) if part is not None])

    def names(events: Events) -> list[tuple[str, str]]:
        return list(zip(events.column("key").to_pylist(), events.column("item").to_pylist(), strict=True))

    clicked = set(names(clicks))
    labels = torch.tensor([float(name in clicked) for name in names(seen)])
    scenarios = [int(name == "search") for name in seen.column("scenario").to_pylist()]
    batch = batch_of(items.tolist(), seen.column("position").to_pylist(), scenarios)
    return replace(batch, labels=labels), world.population.quality(np.arange(ITEMS))


def fitted(model: nn.Module, data: Batch) -> None:
    optimizer, draw = torch.optim.Adam(model.parameters(), lr=0.1), torch.Generator().manual_seed(0)
    for _ in range(4):
        order = torch.randperm(len(data), generator=draw)
        for rows in order.split(2_000):
            cut = replace(
                data, ids={"item": Jagged(data.ids["item"].values[rows], torch.arange(len(rows) + 1))},
                dense=data.dense[rows], labels=data.labels[rows], weights=data.weights[rows],
                extra={"scenario": data.extra["scenario"][rows]},
            )  # fmt: skip
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(cut), cut.labels).backward()
            optimizer.step()
        optimizer.param_groups[0]["lr"] *= 0.5


def rank_correlation(one: Floats, other: Floats) -> float:
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


def found(model: LogisticRegression) -> Floats:
    return np.asarray(model.embed.table.detach().numpy()[:, 0], dtype=np.float64)  # type: ignore[union-attr]


@pytest.mark.parametrize("form", ["additive", "examination"])
def test_relevance_is_recovered_that_ignoring_the_place_gets_wrong(shown: tuple[Batch, Floats], form: str) -> None:
    data, quality = shown
    apart = PositionTower(LogisticRegression(Items(), ("item",), 1, prior=0.2), 0, 10, form=form, scenarios=2)  # type: ignore[arg-type]
    fitted(apart, data)
    ignoring = LogisticRegression(Items(), ("item",), 1, prior=0.2)
    fitted(ignoring, replace(data, dense=torch.zeros(len(data), 1)))
    assert rank_correlation(found(apart.relevance), quality) > 0.8  # type: ignore[arg-type]
    assert rank_correlation(found(ignoring), quality) < 0.6
    if form == "examination":  # the world's own form: its attention at place k is k ** -focus
        truth = np.arange(1, 11) ** -np.array(FOCUS)[:, None]
        np.testing.assert_allclose(apart.effect().numpy(), truth, atol=0.08)
