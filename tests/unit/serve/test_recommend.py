from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from headrace.data import DenseFeature, IdFeature, JoinConfig, Schema
from headrace.data.collate import collate
from headrace.data.log import EmbeddedLog
from headrace.errors import ConfigError, SchemaError, VersionError
from headrace.nn import DeepFM, LastLayerPosterior, StreamingFrequencies, TowerInputs, TwoStage, TwoTower
from headrace.objectives import TwoStageLoss
from headrace.online import OnlineConfig, TableSettings, open_learner, open_serving
from headrace.online.recommending import open_recommender
from headrace.online.shared_serving import open_shared_serving
from headrace.serve.explore import EpsilonGreedy, Greedy, Thompson
from headrace.serve.recommend import Recommended, Recommender
from headrace.serve.recommend_config import RecommendConfig
from headrace.serve.shelf import item_ids
from headrace.serve.wishes import Wish
from headrace.store import Adagrad, Uniform
from headrace.store.table import load_native
from headrace.types import Events, RowChange, Version

SCHEMA = Schema(features=(
    IdFeature("user", 6, accepts="string"), IdFeature("item", 6, accepts="string"), IdFeature("brand", 6),
    IdFeature("city", 6, optional=True), DenseFeature("price"),
))  # fmt: skip


def model(embed, schema, seed):
    def ranker(once):
        inside = DeepFM(once, schema.id_names, 1, (8,), seed=seed)
        return LastLayerPosterior(inside, inside.deep.output)

    return TwoStage(
        embed,
        ranker,
        lambda once: TwoTower(
            once, TowerInputs(("user",)), TowerInputs(("item", "brand")), (8,), width=5, seed=seed,
            frequencies=StreamingFrequencies(1024),
        ),
    )  # fmt: skip


CONFIG = OnlineConfig(
    name="shop", schema=SCHEMA, model=model, join=JoinConfig(window_s=60, lateness_s=1),
    recommend=RecommendConfig(candidates=20, most=15, explore=Greedy(), seed=1),
)  # fmt: skip


class Shop:
    """Sixty items, a model at version 0, and a log of what happens."""

    def __init__(
        self, folder, config: OnlineConfig = CONFIG, *, version: bool = True, items: int = 60, serve=open_serving,
        **settings,
    ) -> None:  # fmt: skip
        config = replace(config, recommend=replace(config.recommend, **settings))
        self.serving = serve(config)
        self.log = EmbeddedLog(folder / "events.db", durability="process")
        catalogue = EmbeddedLog(folder / "items.db", durability="process")
        self.recommender: Recommender = open_recommender(config, self.log, catalogue, {"main": self.serving.predictor})
        if version:
            self.serving.predictor.apply(open_learner(config).changes(Version(-1)))
        rows = [{"item": f"i{n}", "brand": f"b{n % 5}", "price": float(n), "stock": n % 3} for n in range(items)]
        if rows:
            self.recommender.catalogue.put(pa.RecordBatch.from_pylist(rows))

    def ask(self, *, user: str | None = "ann", arm: str = "main", **more) -> Recommended:
        about = {} if user is None else {"user": pa.array([user])}
        key = more.pop("key", "r1")
        return self.recommender.recommend(Wish(key=key, event_time=5, about=about | more.pop("about", {}), **more), arm)

    def happened(self, key: str, user: str, shown: list[str], clicked: list[str] = ()) -> None:
        n = len(shown)
        self.log.append(
            "events",
            Events.from_columns(
                {"key": [key] * n, "kind": ["impression"] * n, "event_time": [1] * n, "item": shown, "user": [user] * n}
            ),
        )
        for item in clicked:
            self.log.append("events", Events.from_columns(
                {"key": [key], "kind": ["click"], "event_time": [2], "item": [item]}))  # fmt: skip

    def known(self, user: str) -> None:
        """Give a user a row."""
        self.serving.replica.tables["user"].assign(
            torch.from_numpy(item_ids(pa.array([user]))), torch.full((1, 6), 0.3)
        )


def names(answer: Recommended) -> list[str]:
    return [] if answer.rows is None else answer.rows.column("item").to_pylist()


@pytest.fixture
def shop(tmp_path) -> Shop:
    return Shop(tmp_path)


def test_the_best_of_all_candidates_are_shown_with_scores_of_the_ranker(shop) -> None:
    answer = shop.ask(n=5)
    assert (answer.version, answer.candidates, answer.allowed, len(names(answer))) == (0, 20, 60, 5)
    rows = answer.rows
    assert rows.column("place").to_pylist() == [1, 2, 3, 4, 5]
    assert rows.column("propensity").to_pylist() == [1.0] * 5
    assert set(rows.column("policy").to_pylist()) == {"greedy"}
    plain = Events(rows.batch.select(["key", "kind", "event_time", "user", "item", "brand", "price"]))
    scores = shop.serving.predictor.predict(plain).column("score").to_pylist()
    assert rows.column("score").to_pylist() == pytest.approx(scores, abs=0)
    assert scores == sorted(scores, reverse=True)


def test_a_small_catalogue_is_ranked_whole(tmp_path) -> None:
    shop = Shop(tmp_path, items=12)
    answer = shop.ask(n=12)
    assert sorted(names(answer)) == sorted(f"i{n}" for n in range(12))
    assert answer.candidates == 12


def test_filters_exclusions_and_what_was_acted_on_are_left_out(shop) -> None:
    shop.happened("r0", "ann", ["i1", "i6", "i11"], ["i6"])
    answer = shop.ask(n=15, filters={"brand": "b1"}, exclude=item_ids(pa.array(["i11", "nothing"])))
    assert sorted(names(answer)) == sorted(f"i{n}" for n in range(1, 60, 5) if n not in (6, 11))
    assert "i6" in names(shop.ask(n=15, filters={"brand": "b1"}, seen="none"))
    assert "i1" not in names(shop.ask(n=15, filters={"brand": "b1"}, seen="shown"))
    assert "i6" in names(shop.ask(user="bob", n=15, filters={"brand": "b1"}))


def test_nothing_allowed_is_an_empty_answer(shop) -> None:
    answer = shop.ask(filters={"brand": "b1", "price": {"below": 0}})
    assert (answer.rows, answer.sources, answer.allowed, answer.candidates) == (None, (), 0, 0)


def test_an_empty_catalogue_and_a_removed_item(tmp_path) -> None:
    shop = Shop(tmp_path, items=0)
    assert shop.ask().rows is None
    shop.recommender.catalogue.put(pa.RecordBatch.from_pylist([{"item": "a", "brand": "b", "price": 1.0}]))
    assert names(shop.ask()) == ["a"]
    shop.recommender.catalogue.remove(pa.array(["a"]))
    assert names(shop.ask()) == []


def test_candidates_come_near_popular_and_new(tmp_path) -> None:
    shop = Shop(tmp_path, candidates=20, popular=0.4, fresh=0.2, fresh_shown=3)
    everything = [f"i{n}" for n in range(60)]
    for turn in range(4):
        shop.happened(f"x{turn}", f"u{turn}", everything[:50], everything[30:34])
    shop.known("ann")
    answer = shop.ask(n=15)
    whole = shop.recommender._candidates(
        shop.recommender.stages["main"], shop.recommender.stages["main"].retriever.view,
        Wish(key="k", event_time=1, about={"user": pa.array(["ann"])}),
        shop.recommender.catalogue.shelf.alive, int(item_ids(pa.array(["ann"]))[0]), True,
    )  # fmt: skip
    by = {source: {f"i{row}" for row, name in zip(*whole, strict=True) if name == source} for source in set(whole[1])}
    assert len(whole[0]) == len(set(whole[0].tolist())) == 20
    assert by["new"] <= set(everything[50:])
    assert len(by["new"]) == 4
    assert set(everything[30:34]) <= by["popular"] | by["near"]
    assert set(answer.sources) <= {"near", "popular", "new"}
    assert answer.known_user


def test_a_user_without_a_row_gets_popular_items(tmp_path) -> None:
    shop = Shop(tmp_path, vectors="none", fresh=0.0)
    for turn in range(5):
        shop.happened(f"x{turn}", f"u{turn}", ["i40", "i41"], ["i41"])
    answer = shop.ask(user="stranger", n=15)
    assert not answer.known_user
    assert set(answer.sources) == {"popular"}
    assert "i41" in names(answer)


def test_nobody_in_particular_is_answered_too(shop) -> None:
    answer = shop.ask(user=None, n=3)
    assert len(names(answer)) == 3
    assert answer.rows.column("user").null_count == 3
    assert not answer.known_user


def test_what_the_catalogue_says_goes_before_what_the_wish_says(tmp_path) -> None:
    shop = Shop(tmp_path, items=3)
    shop.recommender.catalogue.put(pa.RecordBatch.from_pylist([{"item": "i9", "brand": None, "price": 1.0}]))
    about = {"brand": pa.array(["asked"]), "city": pa.array(["oslo"])}
    rows = shop.ask(n=10, about=about).rows
    assert dict(zip(rows.column("item").to_pylist(), rows.column("brand").to_pylist(), strict=True)) == {
        "i0": "b0", "i1": "b1", "i2": "b2", "i9": "asked",
    }  # fmt: skip
    assert set(rows.column("city").to_pylist()) == {"oslo"}
    assert "stock" not in rows.names  # an attribute for filters, no input of the model


def test_the_same_key_gives_the_same_answer_and_another_key_another_one(tmp_path) -> None:
    shop = Shop(tmp_path, explore=EpsilonGreedy(epsilon=0.9))
    first, again = shop.ask(n=10, key="a"), shop.ask(n=10, key="a")
    assert names(first) == names(again)
    assert len({tuple(names(shop.ask(n=10, key=f"k{n}"))) for n in range(10)}) == 10


def test_nobody_can_foresee_chance_without_the_seed(tmp_path) -> None:
    found = set()
    for turn in range(4):
        shop = Shop(tmp_path / str(turn), explore=EpsilonGreedy(epsilon=1.0), seed=None)
        found.add(tuple(names(shop.ask(n=10))))
    assert len(found) == 4


def test_a_wish_may_do_without_chance(tmp_path) -> None:
    shop = Shop(tmp_path, explore=EpsilonGreedy(epsilon=1.0))
    answer = shop.ask(n=5, explore=False)
    scores = answer.rows.column("score").to_pylist()
    assert (answer.policy, scores) == ("greedy", sorted(scores, reverse=True))
    assert shop.ask(n=5).policy == "epsilon-greedy 1"


def test_thompson_sampling_explores_what_the_model_is_unsure_of(tmp_path) -> None:
    shop = Shop(tmp_path, explore=Thompson(scale=1.0, draws=300))
    answer = shop.ask(n=5)
    assert answer.policy == "thompson 1 of 300 draws"
    assert 0 < answer.error < 0.03
    assert all(1 / 300 <= share < 1 for share in answer.rows.column("propensity").to_pylist())
    assert len({tuple(names(shop.ask(n=5, key=f"k{n}"))) for n in range(10)}) > 1


def test_a_certain_model_hardly_explores(tmp_path) -> None:
    shop = Shop(tmp_path, explore=Thompson(scale=1.0, draws=50))
    posterior = shop.recommender.stages["main"].posterior
    posterior.evidence += 1e12 * torch.eye(posterior.width)
    assert names(shop.ask(n=5)) == names(shop.ask(n=5, explore=False))


def test_thompson_needs_a_model_that_knows_how_sure_it_is(tmp_path) -> None:
    plain = replace(CONFIG, model=lambda embed, schema, seed: DeepFM(embed, schema.id_names, 1, (8,), seed=seed))
    with pytest.raises(ConfigError, match="LastLayerPosterior"):
        Shop(tmp_path, plain, explore=Thompson())


def test_before_the_first_version_it_says_so(tmp_path) -> None:
    shop = Shop(tmp_path, version=False)
    with pytest.raises(VersionError, match="no version"):
        shop.ask()


def test_a_missing_feature_of_the_situation_is_refused(tmp_path) -> None:
    schema = Schema(features=(*SCHEMA.features, IdFeature("hour", 6)))
    shop = Shop(tmp_path, replace(CONFIG, schema=schema))
    with pytest.raises(SchemaError, match="hour"):
        shop.ask()
    assert len(names(shop.ask(about={"hour": pa.array(["7"])}, n=3))) == 3


def test_a_forgotten_user_is_new_again(shop) -> None:
    shop.happened("r0", "ann", ["i1"], ["i1"])
    assert "i1" not in names(shop.ask(n=15, filters={"brand": "b1"}))
    assert shop.recommender.forget("ann")
    assert "i1" in names(shop.ask(n=15, filters={"brand": "b1"}))


def test_learning_moves_what_is_recommended(tmp_path) -> None:
    """Users who like one brand: after learning, the towers find it and the ranker puts it first."""
    tables = TableSettings(rule=Adagrad(lr=0.3), init=Uniform(0.1))
    config = replace(CONFIG, objective=TwoStageLoss(), dense_lr=0.01, tables=tables)
    shop, learner, draw = Shop(tmp_path, config, items=200), open_learner(config), np.random.default_rng(0)
    for step in range(80):
        users, items = draw.integers(5, size=256), draw.integers(200, size=256)
        rows = Events.from_columns({
            "key": [f"{step}-{n}" for n in range(256)], "kind": ["example"] * 256, "event_time": [step] * 256,
            "user": [f"u{n}" for n in users], "item": [f"i{n}" for n in items], "brand": [f"b{n % 5}" for n in items],
            "city": pa.nulls(256, pa.string()), "price": items.astype(float), "label": (users == items % 5) * 1.0,
        })  # fmt: skip
        learner.learn(collate(rows, SCHEMA))
    shop.serving.predictor.apply(replace(learner.changes(Version(-1)), version=Version(1, 0), full=True))
    for number in range(5):
        answer = shop.ask(user=f"u{number}", n=10)
        assert answer.rows.column("brand").to_pylist() == [f"b{number}"] * 10
        assert answer.known_user


def test_the_same_is_answered_over_memory_that_worker_processes_share(tmp_path) -> None:
    if load_native() is None:
        pytest.skip("memory is shared by the native table alone")
    learner = open_learner(CONFIG)
    first = learner.changes(Version(-1))
    users = RowChange(torch.from_numpy(item_ids(pa.array(["ann"]))), torch.full((1, 6), 0.3), torch.zeros(0).long())
    second = replace(first, version=Version(1, 0), tables={"user": users}, full=False)
    answers = []
    for name, serve in (("own", open_serving), ("shared", open_shared_serving)):
        shop = Shop(tmp_path / name, version=False, serve=serve, explore=EpsilonGreedy(epsilon=0.3))
        try:
            for change in (first, second):
                shop.serving.predictor.apply(change)
            for user in ("ann", "bob"):
                found = shop.ask(user=user, n=10, key=f"k-{user}")
                answers.append((names(found), found.known_user, found.version, found.rows.column("score").to_pylist()))
        finally:
            if name == "shared":
                shop.serving.space.close()
    assert answers[:2] == answers[2:]
    assert [known for _, known, _, _ in answers] == [True, False, True, False]
