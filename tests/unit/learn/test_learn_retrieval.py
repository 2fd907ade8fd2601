"""Retrieval learned through the learner: planted affinities, and a planted chain of items."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from headrace.learn import LearnerConfig, RankLearner
from headrace.nn.frequencies import StreamingFrequencies
from headrace.nn.layers import generator
from headrace.nn.sasrec import SASRec, SASRecSettings
from headrace.nn.two_tower import TowerInputs, TwoTower
from headrace.objectives.candidates import with_candidates, with_item_rows
from headrace.objectives.retrieval import NextItem, SampledSoftmax
from headrace.protocols import Objective
from headrace.store import Adam as RowAdam
from headrace.store import EmbeddingCollection, FeatureLookup, Normal, TableConfig, open_table
from headrace.testing import assert_same_state
from headrace.types import Batch, Jagged

DIM = 16


def collection_of(lookups: dict[str, tuple[str, str]]) -> EmbeddingCollection:
    names = {table for table, _ in lookups.values()}
    tables = {
        name: open_table(TableConfig(name=name, dim=DIM, rule=RowAdam(lr=0.02), init=Normal(0.1))) for name in names
    }
    return EmbeddingCollection(
        tables, [FeatureLookup(feature=name, table=table, pooling=how) for name, (table, how) in lookups.items()]
    )


def batch_of(ids: dict[str, Jagged]) -> Batch:
    rows = len(next(iter(ids.values())))
    zeros = torch.zeros(rows, dtype=torch.int64)
    return Batch(
        ids=ids, dense=torch.zeros(rows, 0), labels=torch.ones(rows), weights=torch.ones(rows), event_times=zeros,
        accepted_times=zeros, example_ids=torch.arange(rows), predictions=torch.full((rows,), float("nan")),
        versions=zeros - 1, sample_rates=torch.ones(rows),
    )  # fmt: skip


def each(values: Tensor) -> Jagged:
    return Jagged(values, torch.arange(len(values) + 1))


def learner_of(model: nn.Module, embed: EmbeddingCollection, objective: Objective, lr: float = 0.005) -> RankLearner:
    config = LearnerConfig(freshness=False)
    return RankLearner(model, embed, Adam(model.parameters(), lr=lr), objective, config)


def recall(scores_BI: Tensor, wanted_B: Tensor, count: int) -> float:
    return float((scores_BI.topk(count, dim=1).indices == wanted_B.unsqueeze(1)).any(1).float().mean())


# ------------------------------------------------------------------------------------------------------ two towers

USERS, ITEMS, GROUPS = 200, 200, 10


def affinities(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Users and the items they chose: nine in ten of their own group, popular ones far more often than others."""
    draw = generator(seed)
    popularity = 1.0 / torch.arange(1, ITEMS // GROUPS + 1)
    within = torch.multinomial(popularity, rows, replacement=True, generator=draw)
    users = torch.randint(0, USERS, (rows,), generator=draw)
    stray = torch.rand(rows, generator=draw) < 0.1
    groups = torch.where(stray, torch.randint(0, GROUPS, (rows,), generator=draw), users % GROUPS)
    return users, within * GROUPS + groups


def two_towers(seed: int = 0) -> tuple[TwoTower, RankLearner]:
    embed = collection_of({"user": ("user", "sum"), "item": ("item", "sum")})
    model = TwoTower(embed, TowerInputs(("user",)), TowerInputs(("item",)), (32,), width=16, temperature=0.2, seed=seed,
                     frequencies=StreamingFrequencies(1024))  # fmt: skip
    return model, learner_of(model, embed, SampledSoftmax())


def towers_batches(count: int, rows: int = 100) -> list[Batch]:
    users, items = affinities(count * rows, 1)
    whole = batch_of({"user": each(users), "item": each(items)})
    return list(whole.split(rows))


def test_two_towers_find_what_users_like_better_than_chance_and_popularity() -> None:
    model, learner = two_towers()
    for batch in towers_batches(200):
        learner.learn(batch)
    users, items = affinities(2000, 2)
    model.eval()
    with torch.no_grad():  # the towers apart from each other, each on a batch with nothing but its own features
        vectors_IK = model.item(batch_of({"item": each(torch.arange(ITEMS))}))
        vectors_BK = model.user(batch_of({"user": each(users)}))
        logits = model(batch_of({"user": each(users), "item": each(items)}))
    torch.testing.assert_close(logits, (vectors_BK * vectors_IK[items]).sum(1) / model.temperature)
    popular = torch.bincount(affinities(20_000, 1)[1], minlength=ITEMS).float().expand(len(users), -1)
    assert recall(vectors_BK @ vectors_IK.T, items, 10) > 0.65  # chance 0.05
    assert recall(popular, items, 10) < 0.4


def test_two_towers_learn_deterministically_and_their_frequencies_are_saved() -> None:
    batches = [with_item_rows(batch, {"item": torch.arange(7)}) for batch in towers_batches(6, 20)]
    _, straight = two_towers()
    for batch in batches:
        straight.learn(batch)
    _, first = two_towers()
    for batch in batches[:3]:
        first.learn(batch)
    _, second = two_towers(seed=5)
    second.restore(first.state())
    for batch in batches[3:]:
        second.learn(batch)
    assert_same_state(second.state(), straight.state())


# ---------------------------------------------------------------------------------------------------------- SASRec

LENGTH, CHAIN = 8, 40


def chains(rows: int, seed: int) -> Tensor:
    """Walks in which one item is followed, four times in five, by the one that a fixed permutation names."""
    draw = generator(seed)
    following = torch.randperm(CHAIN, generator=generator(99))
    walks = [torch.randint(0, CHAIN, (rows,), generator=draw)]
    for _ in range(LENGTH):
        stray = torch.rand(rows, generator=draw) < 0.2
        walks.append(torch.where(stray, torch.randint(0, CHAIN, (rows,), generator=draw), following[walks[-1]]))
    return torch.stack(walks, 1)


def chain_batch(rows: int, seed: int) -> Batch:
    walks = chains(rows, seed)
    past = Jagged(walks[:, :-1].reshape(-1), torch.arange(rows + 1) * LENGTH)
    return batch_of({"past": past, "item": each(walks[:, -1])})


def first_place(users_BK: Tensor, items_IK: Tensor, test: Batch) -> float:
    return recall(users_BK @ items_IK.T, test.ids["item"].values, 1)


@pytest.mark.parametrize(("loss", "least"), [("binary", 0.55), ("softmax", 0.7)])
def test_sasrec_finds_a_chain_of_items(loss: str, least: float) -> None:
    embed = collection_of({"past": ("item", "none"), "item": ("item", "sum"), "candidates": ("item", "none")})
    model = SASRec(embed, ("past", "item"), pairs={"past": "item"}, settings=SASRecSettings(dropout=0.0))
    learner, draw = learner_of(model, embed, NextItem(loss=loss)), generator(0)  # type: ignore[arg-type]
    for batch in chain_batch(2000, 0).split(50):
        ids = torch.arange(CHAIN) if loss == "softmax" else torch.randint(0, CHAIN, (400,), generator=draw)
        learner.learn(with_candidates(batch, "candidates", ids))
    test = chain_batch(1000, 1)
    with torch.no_grad():  # no candidates here, and the towers' own features alone
        users = model.eval().user(batch_of({"past": test.ids["past"]}))
        items = model.item(batch_of({"item": each(torch.arange(CHAIN))}))
        torch.testing.assert_close(model(test), (users * items[test.ids["item"].values]).sum(1))
    assert first_place(users, items, test) > least  # 0.8 is possible


def test_popularity_and_a_bag_of_items_do_not_find_the_chain() -> None:
    embed = collection_of({"past": ("past", "mean"), "item": ("item", "sum")})
    model = TwoTower(embed, TowerInputs(("past",)), TowerInputs(("item",)), (32,), width=16,
                     frequencies=StreamingFrequencies(1024))  # fmt: skip
    learner = learner_of(model, embed, SampledSoftmax())
    train, test = chain_batch(2000, 0), chain_batch(1000, 1)
    for batch in [*train.split(50), *train.split(50)]:
        learner.learn(batch)
    popular = torch.bincount(train.ids["item"].values, minlength=CHAIN).float().expand(1000, -1)
    with torch.no_grad():
        bag = first_place(model.eval().user(test), model.item(batch_of({"item": each(torch.arange(CHAIN))})), test)
    assert bag < 0.3
    assert recall(popular, test.ids["item"].values, 1) < 0.1
