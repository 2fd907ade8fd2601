from __future__ import annotations

import pytest
import torch

from headrace.errors import ConfigError
from headrace.nn import DeepFM, StreamingFrequencies, TowerInputs, TwoStage, TwoTower
from headrace.objectives import LogLoss, SampledSoftmax, TwoStageLoss
from headrace.store import Adam, EmbeddingCollection, FeatureLookup, Normal, TableConfig, open_table
from headrace.testing import Toy, ToyConfig

TOY = Toy(ToyConfig(users=32, items=32, strength=6.0))


def embedding() -> EmbeddingCollection:
    tables = {
        name: open_table(TableConfig(name=name, dim=8, rule=Adam(lr=0.02), init=Normal(0.1)))
        for name in ("user", "item")
    }
    return EmbeddingCollection(tables, [FeatureLookup(feature=name, table=name) for name in tables])


def made(embed: EmbeddingCollection) -> TwoStage:
    return TwoStage(
        embed,
        lambda once: DeepFM(once, ("user", "item"), 0, (8,), seed=1),
        lambda once: TwoTower(
            once, TowerInputs(("user",)), TowerInputs(("item",)), (8,), width=4, seed=2,
            frequencies=StreamingFrequencies(64),
        ),
    )  # fmt: skip


def test_it_answers_as_its_ranker_and_its_towers_stand_alone() -> None:
    embed = embedding()
    model, batch = made(embed).eval(), TOY.batch(0, 16)
    plain = DeepFM(embed, ("user", "item"), 0, (8,), seed=1).eval()
    with torch.no_grad():
        assert torch.equal(model(batch), plain(batch))
        assert model.retrieval.user(batch).shape == (16, 4)


def test_the_loss_is_the_sum_of_both_and_gradients_too() -> None:
    """Embedded once or twice, what the tables are taught is the same."""
    batch, taught = TOY.batch(0, 64), {}
    for how in ("once", "apart"):
        embed = embedding()
        model = made(embed)
        if how == "once":
            loss = TwoStageLoss(weight=0.5)(model, batch)
        else:
            rank = LogLoss()(model.ranker, batch)
            model.forget()
            find = SampledSoftmax()(model.retrieval, batch)
            loss = type(rank)(rank.total + 0.5 * find.total, {**rank.parts, **find.parts}, rank.logits)
        loss.total.backward()
        embed.apply_gradients(batch)
        taught[how] = (float(loss.total.detach()), dict(loss.parts), embed.tables["item"].rows().rows)
    assert taught["once"][0] == pytest.approx(taught["apart"][0], abs=1e-6)
    assert taught["once"][1] == pytest.approx(taught["apart"][1])
    assert torch.allclose(taught["once"][2], taught["apart"][2], atol=1e-5)


def test_a_batch_is_embedded_once() -> None:
    embed, batch = embedding(), TOY.batch(0, 32)
    model = made(embed)
    before = embed.calls
    TwoStageLoss()(model, batch).total.backward()
    embed.apply_gradients(batch)
    assert embed.calls - before in (0, 3)  # 0 without native tables


def test_both_stages_learn() -> None:
    embed = embedding()
    model = made(embed)
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    losses: dict[str, list[float]] = {"log_loss": [], "sampled_softmax": []}
    for batch in TOY.batches(128, 250):
        adam.zero_grad()
        loss = TwoStageLoss()(model, batch)
        loss.total.backward()
        adam.step()
        embed.apply_gradients(batch)
        for name, values in losses.items():
            values.append(loss.parts[name])
    for values in losses.values():
        assert sum(values[-10:]) < 0.9 * sum(values[:10])


def test_other_models_and_negative_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match="two stages"):
        TwoStageLoss()(torch.nn.Linear(1, 1), TOY.batch(0, 4))
    with pytest.raises(ConfigError, match="weight"):
        TwoStageLoss(weight=-1.0)
    with pytest.raises(ConfigError, match="find"):
        TwoStage(torch.nn.Identity(), lambda embed: embed, lambda embed: torch.nn.Linear(1, 1))  # type: ignore[arg-type, return-value]


def test_what_the_ranker_says_of_sampling_is_published() -> None:
    assert TwoStageLoss(rank=LogLoss(negative_rate=0.5)).spec() == LogLoss(negative_rate=0.5).spec()
