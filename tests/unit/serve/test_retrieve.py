from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from headrace.data import DenseFeature, IdFeature, JoinConfig, MultiIdFeature, Schema
from headrace.data.hashing import hash_text
from headrace.data.log import EmbeddedLog
from headrace.errors import ConfigError, NumericError
from headrace.nn import DeepFM, TowerInputs, TwoStage, TwoTower
from headrace.online import OnlineConfig, open_learner, open_serving
from headrace.online.recommending import open_vectors
from headrace.serve.catalogue import Catalogue
from headrace.serve.item_vectors import as_rows, towers_in
from headrace.serve.recommend_config import RecommendConfig
from headrace.serve.retrieve import Retriever
from headrace.types import NO_VERSION, Change, RowChange, Version

SCHEMA = Schema(features=(
    IdFeature("user", 6), IdFeature("item", 6), IdFeature("brand", 6), MultiIdFeature("tags", 6, optional=True),
    DenseFeature("price"),
))  # fmt: skip


def model(embed, schema, seed):
    return TwoStage(
        embed,
        lambda once: DeepFM(once, schema.id_names, 1, (8,), seed=seed),
        lambda once: TwoTower(
            once, TowerInputs(("user",)), TowerInputs(("item", "brand", "tags"), (0,)), (8,), width=5, seed=seed
        ),
    )


CONFIG = OnlineConfig(name="shop", schema=SCHEMA, model=model, join=JoinConfig(window_s=60, lateness_s=1))
TABLES = ("user", "item", "brand", "tags")
ITEM_DENSE = "retrieval.item_tower.layers.layers.0.weight"


def item(number: int) -> dict[str, object]:
    return {"item": f"i{number}", "brand": f"b{number % 4}", "price": float(number % 7), "tags": [f"t{number % 3}"]}


def batch(*numbers: int, **more: object) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([item(number) | more for number in numbers])


def ids(name: str, numbers) -> torch.Tensor:
    return torch.tensor([hash_text(f"{name}{number}") for number in numbers])


class Shop:
    """A replica with a catalogue and a retriever, and versions to give it."""

    def __init__(self, folder, settings: RecommendConfig | None = None, config: OnlineConfig = CONFIG, **more) -> None:
        self.serving = open_serving(config)
        self.catalogue = Catalogue(EmbeddedLog(folder / "items.db", durability="process"), config.schema)
        vectors = open_vectors(config, self.serving.predictor, settings or RecommendConfig())
        self.retriever = Retriever(self.serving.replica, vectors, **more)
        self.catalogue.watch(self.retriever.watch)
        self.draw = np.random.default_rng(5)
        self.first = open_learner(config).changes(Version(NO_VERSION))

    def change(self, number: int, *, dense: bool = False, full: bool = False, tables=TABLES) -> Change:
        """A version with some rows put and removed, and other dense weights of the item tower if wanted."""
        if number == 0:
            return self.first
        rows = {}
        for name in tables:
            letter = {"user": "u", "item": "i", "brand": "b", "tags": "t"}[name]
            chosen = self.draw.permutation(12)
            put, gone = ids(letter, chosen[:4]).sort().values, ids(letter, chosen[4:6]).sort().values
            values = torch.from_numpy(self.draw.normal(0, 0.5, (len(put), 6)).astype(np.float32))
            rows[name] = RowChange(put, values, gone[:0] if full else gone)
        tensors = dict(self.first.dense)
        if dense or full:
            shape = tensors[ITEM_DENSE].shape
            tensors[ITEM_DENSE] = torch.from_numpy(self.draw.normal(0, 0.5, shape).astype(np.float32))
            self.first = replace(self.first, dense=tensors)
        return Change(version=Version(number, number - 1), tables=rows, dense=tensors, spec=self.first.spec, full=full)

    def right(self) -> torch.Tensor:
        """What the vectors must be: the live model's, of every row that holds an item."""
        shelf, towers = self.retriever.view.shelf, towers_in(self.serving.predictor.model)
        rows = np.flatnonzero(shelf.alive)
        whole = self.retriever.vectors._items.some(shelf, rows)  # type: ignore[union-attr]
        found = torch.zeros(shelf.places, 5)
        with torch.no_grad(), self.serving.replica.reading():
            found[torch.from_numpy(rows)] = towers.item(whole)
        return found


@pytest.fixture
def shop(tmp_path) -> Shop:
    return Shop(tmp_path)


def test_vectors_are_those_of_the_version_through_any_history(shop) -> None:
    """Deltas, removals, full changes, items put, changed and removed, in any order."""
    shop.serving.predictor.apply(shop.change(0))
    shop.catalogue.put(batch(*range(10)))
    for number in range(1, 25):
        kind = shop.draw.random()
        if kind < 0.3:
            shop.catalogue.put(batch(*shop.draw.integers(14, size=3).tolist(), brand=f"b{number % 5}"))
        elif kind < 0.45:
            shop.catalogue.remove(pa.array([f"i{number % 10}"]))
        change = shop.change(number, dense=shop.draw.random() < 0.2, full=shop.draw.random() < 0.1)
        shop.serving.predictor.apply(change)
        vectors = shop.retriever.view.vectors
        assert torch.allclose(vectors, shop.right(), atol=1e-5), number
        assert shop.retriever.view.shelf is shop.catalogue.shelf


def test_a_change_of_rows_makes_only_their_items_anew(shop) -> None:
    shop.serving.predictor.apply(shop.change(0))
    shop.catalogue.put(batch(*range(40)))
    made = shop.retriever.encoded
    change = shop.change(1, tables=("item",))
    touched = len(set(change.tables["item"].ids.tolist() + change.tables["item"].removed.tolist()))
    shop.serving.predictor.apply(change)
    assert shop.retriever.encoded - made == touched < 40
    shop.serving.predictor.apply(shop.change(2, tables=("user",)))
    assert shop.retriever.encoded - made == touched
    shop.serving.predictor.apply(shop.change(3, dense=True, tables=()))
    assert shop.retriever.encoded - made == touched + 40


def test_a_retriever_of_a_replica_that_serves_already(tmp_path) -> None:
    serving = open_serving(CONFIG)
    one = Shop(tmp_path)
    serving.predictor.apply(one.change(0))
    serving.predictor.apply(one.change(1, dense=True))
    retriever = Retriever(serving.replica, open_vectors(CONFIG, serving.predictor, RecommendConfig()))
    one.serving, one.retriever = serving, retriever
    one.catalogue.watch(retriever.watch)
    one.catalogue.put(batch(*range(6)))
    assert torch.allclose(retriever.view.vectors, one.right(), atol=1e-5)


@pytest.mark.parametrize("then", ["same", "put"])
def test_a_change_that_could_not_be_applied_leaves_nothing_half_done(shop, monkeypatch, then) -> None:
    shop.serving.predictor.apply(shop.change(0))
    shop.catalogue.put(batch(*range(8)))
    before, change = shop.retriever.view, shop.change(1, dense=True)
    with monkeypatch.context() as patch:
        patch.setattr(shop.serving.replica, "_move", lambda *_: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError):
            shop.serving.predictor.apply(change)
    assert shop.retriever.view is before
    if then == "put":
        shop.catalogue.put(batch(20))
        assert torch.allclose(shop.retriever.view.vectors, shop.right(), atol=1e-5)
    shop.serving.predictor.apply(change)
    assert torch.allclose(shop.retriever.view.vectors, shop.right(), atol=1e-5)


def test_a_version_with_vectors_that_are_no_numbers_is_not_served(shop) -> None:
    shop.serving.predictor.apply(shop.change(0))
    shop.catalogue.put(batch(*range(3)))
    bad = shop.change(1, dense=True)
    bad.dense[ITEM_DENSE][:] = torch.nan  # type: ignore[index]
    with pytest.raises(NumericError, match="vectors"):
        shop.serving.predictor.apply(bad)
    assert shop.serving.predictor.version.number == 0


def test_inside_a_reading_block_vectors_and_version_belong_together(shop) -> None:
    shop.serving.predictor.apply(shop.change(0))
    shop.catalogue.put(batch(*range(30)))
    known, wrong, ended = {0: shop.right()}, list[int](), threading.Event()
    seen: list[tuple[int, torch.Tensor]] = []

    def read() -> None:
        while not ended.is_set():
            with shop.serving.replica.reading() as version:
                seen.append((version.number, shop.retriever.view.vectors))
            if len(seen) > 5000:
                return

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(1, 15):
        shop.serving.predictor.apply(shop.change(number, dense=number % 3 == 0))
        known[number] = shop.right()
    ended.set()
    thread.join()
    for number, vectors in seen[:: max(len(seen) // 300, 1)]:
        if not torch.allclose(vectors, known[number], atol=1e-5):
            wrong.append(number)
    assert wrong == []


def nearest(vectors: torch.Tensor, query: torch.Tensor, allowed: np.ndarray, count: int) -> list[int]:
    scores = (vectors @ query).masked_fill(torch.from_numpy(~allowed), -torch.inf)
    return scores.argsort(descending=True, stable=True)[: min(count, int(allowed.sum()))].tolist()


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 1.0])
def test_the_search_is_exact_under_any_filter(shop, share) -> None:
    shop.serving.predictor.apply(shop.change(0))
    shop.catalogue.put(batch(*range(200)))
    shop.catalogue.remove(pa.array(["i3", "i4"]))
    view = shop.retriever.view
    for seed in range(20):
        draw = np.random.default_rng(seed)
        allowed = view.shelf.alive & (draw.random(200) < share)
        query = torch.from_numpy(draw.normal(size=5).astype(np.float32))
        found = shop.retriever.near(view, query, allowed, 7)
        wanted = nearest(view.vectors, query, allowed, 7)
        assert (view.vectors @ query)[found].tolist() == pytest.approx((view.vectors @ query)[wanted].tolist())
        assert allowed[found].all()
    assert len(shop.retriever.near(view, query, np.zeros(200, bool), 7)) == 0


class Liar:
    """An index that knows some rows, old ones among them."""

    def __init__(self, knows: list[int]) -> None:
        self.knows = np.array(knows)
        self.told: list[tuple[str, list[int]]] = []

    def put(self, rows, vectors) -> None:
        self.told.append(("put", rows.tolist()))

    def remove(self, rows) -> None:
        self.told.append(("remove", rows.tolist()))

    def near(self, query, count) -> np.ndarray:
        return self.knows


def test_an_index_proposes_and_the_version_decides(tmp_path) -> None:
    index = Liar([1, 2, 3, 5, 500])
    shop = Shop(tmp_path, index=index, index_from=10)
    shop.serving.predictor.apply(shop.change(0))
    shop.catalogue.put(batch(*range(50)))
    shop.catalogue.remove(pa.array(["i2"]))
    view, query = shop.retriever.view, torch.ones(5)
    found = shop.retriever.near(view, query, view.shelf.alive, 3)
    only = np.isin(np.arange(50), [1, 3, 5])
    assert sorted(found.tolist()) == sorted(nearest(view.vectors, query, only, 3))
    allowed = view.shelf.alive & (np.arange(50) != 1)
    assert found.tolist() != shop.retriever.near(view, query, allowed, 3).tolist()
    assert shop.retriever.near(view, query, allowed, 3).tolist() == nearest(view.vectors, query, allowed, 3)
    assert index.told[0] == ("put", list(range(50)))
    assert index.told[1] == ("remove", [2])


def test_the_index_is_told_what_moved_far_and_what_took_an_empty_place(tmp_path) -> None:
    index = Liar([])
    shop = Shop(tmp_path, index=index, index_from=10)
    shop.serving.predictor.apply(shop.change(0))
    shop.catalogue.put(batch(*range(20)))
    shop.catalogue.remove(pa.array(["i5"]))
    shop.catalogue.put(batch(5))  # the same item, in the same place, with the same vector
    assert index.told[1:] == [("remove", [5]), ("put", [5])]
    near = shop.change(1, tables=())
    near.dense[ITEM_DENSE].add_(1e-6)  # type: ignore[union-attr]
    shop.serving.predictor.apply(near)
    assert shop.retriever.encoded == 41
    assert len(index.told) == 3
    shop.serving.predictor.apply(shop.change(2, dense=True, tables=()))
    assert index.told[3][0] == "put"
    assert torch.allclose(shop.retriever.view.vectors, shop.right(), atol=1e-5)


def test_rows_of_items_are_vectors_and_users_are_what_they_took(tmp_path) -> None:
    shop = Shop(tmp_path, RecommendConfig(vectors="rows"))
    shop.serving.predictor.apply(shop.change(0))
    shop.catalogue.put(batch(*range(12)))
    for number in range(1, 8):
        shop.serving.predictor.apply(shop.change(number, dense=True, full=number == 5))
        vectors = shop.retriever.view.vectors
        table = shop.serving.replica.tables["item"]
        wanted = torch.nn.functional.normalize(table.lookup(ids("i", range(12)))[:, 1:], dim=1)
        assert torch.allclose(vectors, wanted, atol=1e-6)
    made = shop.retriever.encoded
    shop.serving.predictor.apply(shop.change(8, dense=True, tables=("user",)))
    assert shop.retriever.encoded == made  # dense weights are not in these vectors
    user = shop.retriever.vectors.user(as_rows({}, 1), vectors[:2])
    assert torch.allclose(user, torch.nn.functional.normalize(vectors[:2].mean(0), dim=0))
    assert shop.retriever.vectors.user(as_rows({}, 1), vectors[:0]) is None


def test_models_without_towers_have_no_vectors_unless_they_are_asked_for(tmp_path) -> None:
    plain = replace(CONFIG, model=lambda embed, schema, seed: DeepFM(embed, schema.id_names, 1, (8,), seed=seed))
    shop = Shop(tmp_path, config=plain)
    assert shop.retriever.vectors is None
    shop.catalogue.put(batch(1, 2))
    assert len(shop.retriever.view.shelf) == 2
    with pytest.raises(ConfigError, match="TowerVectors"):
        open_vectors(plain, open_serving(plain).predictor, RecommendConfig(vectors="towers"))
