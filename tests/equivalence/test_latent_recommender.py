"""A latent recommender from examples to answers: learned, published, served, and judged the same on both sides."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from headrace.data import IdFeature, Schema, SequenceFeature, TextFeature, collate
from headrace.data.hashing import hash_strings
from headrace.data.log import EmbeddedLog
from headrace.evaluate import catalogue_values, mean_over_users
from headrace.learn import LearnerConfig, RankLearner
from headrace.nn import MultVAE, VAESettings
from headrace.objectives import ELBO
from headrace.optim import Warmup
from headrace.publish import LogPublisher, Replica
from headrace.ranking import InMemory
from headrace.serve import RankPredictor
from headrace.serve.requests import RequestReader
from headrace.serve.settings import ServeConfig
from headrace.store import Adam, EmbeddingCollection, FeatureLookup, Normal, TableConfig, open_table
from headrace.types import Batch, Events, Jagged, Version

GENRES = ("western", "opera", "horror", "romance")
ITEMS = tuple(f"film-{number}" for number in range(40))
IDS = hash_strings(pa.array(ITEMS))
SCHEMA = Schema(
    features=(
        SequenceFeature("history", 16, "item", pooling="none", max_length=100, optional=True),
        TextFeature("about", 8, optional=True), IdFeature("item", 16, "item", optional=True),
    )
)  # fmt: skip
TABLES = {
    "item": TableConfig(name="item", dim=16, rule=Adam(lr=0.02), init=Normal(0.1)),
    "about": TableConfig(name="about", dim=8, rule=Adam(lr=0.02), init=Normal(0.3)),
}


def genre_of(number: int) -> str:
    return GENRES[number % len(GENRES)]


def people(count: int, seed: int) -> tuple[list[list[str]], list[str]]:
    """What people chose, three in four of the genre they love, and what they write about themselves."""
    draw, chosen, about = np.random.default_rng(seed), [], []
    for person in range(count):
        loved = GENRES[person % len(GENRES)]
        weights = np.array([9.0 if genre_of(number) == loved else 1.0 for number in range(len(ITEMS))])
        picks = draw.choice(len(ITEMS), 8, replace=False, p=weights / weights.sum())
        chosen.append([ITEMS[pick] for pick in picks])
        about.append(f"I never miss a good {loved}!")
    return chosen, about


def examples(chosen: list[list[str]], about: list[str]) -> Events:
    """One row per person, without an item: the whole history is to be explained."""
    rows = len(chosen)
    return Events.from_columns({
        "key": [f"p{row}" for row in range(rows)], "kind": ["example"] * rows, "event_time": [1_000_000] * rows,
        "history": pa.array(chosen, pa.list_(pa.string())), "about": about, "label": np.ones(rows, np.float32),
    })  # fmt: skip


def model_over(tables: dict) -> tuple[MultVAE, EmbeddingCollection]:
    lookups = [FeatureLookup(feature=f.name, table=f.table, pooling=f.pooling) for f in SCHEMA.id_features]
    collection = EmbeddingCollection(tables, lookups)
    settings = VAESettings(latent=8, prior="user")
    return MultVAE(collection, SCHEMA.id_names, catalogue=torch.from_numpy(IDS), settings=settings), collection


def learner() -> RankLearner:
    model, collection = model_over({name: open_table(config) for name, config in TABLES.items()})
    dense = torch.optim.Adam(model.parameters(), lr=0.02)
    objective = ELBO(beta=0.3, annealing=Warmup(steps=40))
    return RankLearner(model, collection, dense, objective, LearnerConfig(schema=SCHEMA, row_gradients="mean"))


@pytest.fixture(scope="module")
def learned() -> RankLearner:
    one = learner()
    known = InMemory.from_events(examples(*people(200, seed=1)), SCHEMA)
    for epoch in range(25):
        for batch in known.batches(50, order=epoch):
            one.learn(batch)
    one.model.eval()
    return one


@pytest.fixture(scope="module")
def served(learned: RankLearner, tmp_path_factory: pytest.TempPathFactory) -> RankPredictor:
    """The answers of a replica that got the learner's version from a log."""
    folder: Path = tmp_path_factory.mktemp("published")
    publisher = LogPublisher(EmbeddedLog(folder / "changes.db", durability="process"), folder / "snapshots")
    publisher.publish(learned.changes(Version(-1)))
    tables = {name: open_table(config, serving=True) for name, config in TABLES.items()}
    model, _ = model_over(tables)
    replica = Replica(tables, model)
    predictor = RankPredictor(model, replica, SCHEMA)
    replica.catch_up(publisher)
    return predictor


def request(user: dict[str, object], items: tuple[str, ...] = ITEMS) -> Events:
    """Rows as a server reads them from the body of a request."""
    body = {"key": "r", "user": user, "candidates": [{"item": item} for item in items]}
    return RequestReader(SCHEMA, ServeConfig()).rank_json(json.dumps(body).encode()).events


def scores(predictor: RankPredictor, user: dict[str, object], items: tuple[str, ...] = ITEMS) -> np.ndarray:
    return predictor.predict(request(user, items)).column("score").to_numpy()


USERS = {
    "warm": {"history": ["film-0", "film-4", "film-9"], "about": "I never miss a good western!"},
    "cold, with text": {"about": "opera opera"},
    "cold, with attributes unknown": {"history": []},
    "history only": {"history": ["film-2"]},
}


@pytest.mark.parametrize("user", USERS.values(), ids=USERS)
def test_a_replica_answers_as_the_learner_would(learned: RankLearner, served: RankPredictor, user) -> None:
    rows = request(user)
    with torch.no_grad():
        expected = learned.model(collate(rows, SCHEMA, serving=True)).double().sigmoid()
    np.testing.assert_allclose(scores(served, user), expected, rtol=1e-5)
    assert scores(served, user).sum() == pytest.approx(1.0, abs=1e-4)  # chances of what is chosen next


@pytest.mark.parametrize("loved", GENRES)
def test_somebody_who_chose_nothing_is_ranked_for_by_their_words(served: RankPredictor, loved: str) -> None:
    best = np.argsort(-scores(served, {"about": f"a good {loved}"}))[:8]
    assert np.mean([genre_of(number) == loved for number in best]) >= 0.75


def test_choices_outweigh_words_once_there_are_some(served: RankPredictor) -> None:
    history = [item for number, item in enumerate(ITEMS) if genre_of(number) == "horror"][:5]
    best = np.argsort(-scores(served, {"history": history, "about": "I never miss a good opera!"}))[:8]
    assert np.mean([genre_of(number) == "horror" for number in best]) >= 0.6


def test_an_item_outside_the_catalogue_is_answered_last(served: RankPredictor) -> None:
    for user in USERS.values():
        found = scores(served, user, (*ITEMS, "film-of-tomorrow"))
        assert 0.0 < found[-1] < found[:-1].min()
        assert found[-1] < 1e-30


def test_a_score_does_not_depend_on_who_asks_beside(served: RankPredictor) -> None:
    warm, cold = request(USERS["warm"]), request(USERS["cold, with text"])
    alone = scores(served, USERS["cold, with text"])
    warm = warm.with_columns({"key": pa.array(["other"] * len(warm))})
    together = served.predict(Events.concat([warm, cold])).column("score").to_numpy()[len(warm) :]
    assert np.array_equal(together, alone)


@pytest.mark.parametrize("rows", [1, 3, 32])
def test_metrics_do_not_depend_on_how_many_users_are_scored_at_a_time(learned: RankLearner, rows: int) -> None:
    chosen, about = people(32, seed=2)
    users = collate(examples([one[:3] for one in chosen], about), SCHEMA)
    with torch.no_grad():
        parts = [judged(learned.model, part, chosen[start : start + rows])
                 for start, part in zip(range(0, 32, rows), users.split(rows), strict=True)]  # fmt: skip
        whole = judged(learned.model, users, chosen)
    assert mean_over_users(parts) == pytest.approx(mean_over_users([whole]), abs=1e-12)
    assert mean_over_users(parts) > 0.27  # twice what chance gets


def judged(model: MultVAE, users: Batch, chosen: list[list[str]]) -> np.ndarray:
    """NDCG at 5 of the choices that were not shown."""
    shown = users.ids["history"]
    seen = Jagged(model.places(shown.values), shown.offsets)
    held = torch.from_numpy(hash_strings(pa.array([item for one in chosen for item in one[3:]])))
    targets = Jagged(model.places(held), torch.arange(len(chosen) + 1) * 5)
    return catalogue_values(model.catalogue_logits(users), targets, k=5, seen=seen, names=("ndcg",))["ndcg"]


def test_stopping_and_going_on_is_going_straight_on(learned: RankLearner) -> None:
    known = InMemory.from_events(examples(*people(60, seed=3)), SCHEMA)
    straight, first, second = learner(), learner(), learner()
    batches = list(known.batches(20, order=0))
    for batch in batches:
        straight.learn(batch)
    first.learn(batches[0])
    second.restore(first.state())  # annealing goes on where it was: its clock is in the model
    for batch in batches[1:]:
        second.learn(batch)
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
