from __future__ import annotations

import json
import threading

import numpy as np
import pyarrow as pa
import pytest

from headrace.data import DenseFeature, IdFeature, MultiIdFeature, Schema
from headrace.data.log import EmbeddedLog
from headrace.errors import HeadraceError, SchemaError
from headrace.serve.catalogue import TOPIC, Catalogue
from headrace.serve.item_filters import ItemFilters
from headrace.serve.shelf import Shelf, item_ids

SCHEMA = Schema(features=(
    IdFeature("user", 4, accepts="string"), IdFeature("item", 4, accepts="string"), IdFeature("brand", 4),
    MultiIdFeature("tags", 4, accepts="string", optional=True), DenseFeature("price"),
))  # fmt: skip


def rows(**columns: list[object]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(columns)


def held(shelf: Shelf) -> dict[str, dict[str, object]]:
    """What is on a shelf, by item."""
    return {row["item"]: row for row, alive in zip(shelf.columns.to_pylist(), shelf.alive, strict=True) if alive}


@pytest.fixture
def catalogue(tmp_path) -> Catalogue:
    return Catalogue(EmbeddedLog(tmp_path / "items.db", durability="process"), SCHEMA)


def again(catalogue: Catalogue) -> Catalogue:
    other = Catalogue(EmbeddedLog(catalogue.log.path, durability="process"), SCHEMA)
    other.follow()
    return other


def test_items_are_put_replaced_whole_and_removed(catalogue) -> None:
    assert catalogue.put(rows(item=["a", "b"], brand=["x", "y"], price=[1.0, 2.0])) == 2
    assert catalogue.put(rows(item=["b", "c"], price=[5, 6])) == 3
    assert held(catalogue.shelf)["b"] == {"item": "b", "brand": None, "price": 5.0}
    assert catalogue.remove(pa.array(["a", "nobody"])) == 1
    assert set(held(catalogue.shelf)) == {"b", "c"}
    assert held(again(catalogue).shelf) == held(catalogue.shelf)


def test_a_random_history_equals_a_dictionary_here_and_after_a_restart(catalogue) -> None:
    draw, wanted = np.random.default_rng(3), dict[str, float]()
    for step in range(60):
        names = [f"i{n}" for n in draw.integers(30, size=draw.integers(1, 6))]
        if draw.random() < 0.35:
            catalogue.remove(pa.array(names))
            for name in names:
                wanted.pop(name, None)
        else:
            whole = draw.random() < 0.1
            prices = draw.integers(100, size=len(names)).tolist()
            catalogue.put(rows(item=names, price=prices), replace=whole)
            wanted = {} if whole else wanted
            wanted |= dict(zip(names, prices, strict=True))
        shelf = catalogue.shelf
        assert {name: row["price"] for name, row in held(shelf).items()} == wanted, step
        assert {int(shelf.hashes[row]) for row in shelf.rows.values()} == set(shelf.rows)
        assert shelf.places <= 40
    assert held(again(catalogue).shelf) == held(catalogue.shelf)


def test_rows_keep_their_numbers_and_places_are_used_again(catalogue) -> None:
    catalogue.put(rows(item=["a", "b", "c"]))
    first = dict(catalogue.shelf.rows)
    catalogue.remove(pa.array(["b"]))
    catalogue.put(rows(item=["d"]))
    assert catalogue.shelf.places == 3
    assert {name: row for name, row in catalogue.shelf.rows.items() if name in first} == {
        name: row for name, row in first.items() if name != item_ids(pa.array(["b"]))[0]
    }


def test_a_shelf_that_was_taken_does_not_change(catalogue) -> None:
    catalogue.put(rows(item=["a"], price=[1.0]))
    taken = catalogue.shelf
    catalogue.put(rows(item=["a"], price=[9.0]))
    catalogue.remove(pa.array(["a"]))
    assert held(taken) == {"a": {"item": "a", "price": 1.0}}


def test_several_servers_see_the_same(catalogue) -> None:
    other = again(catalogue)
    catalogue.put(rows(item=["a"]))
    assert len(other.shelf) == 0
    assert other.follow()
    assert not other.follow()
    other.put(rows(item=["b"]))
    catalogue.follow()
    assert set(held(catalogue.shelf)) == set(held(other.shelf)) == {"a", "b"}


def test_writers_at_once_lose_nothing(catalogue) -> None:
    others = [again(catalogue) for _ in range(4)]

    def put(number: int) -> None:
        for turn in range(10):
            others[number].put(rows(item=[f"{number}-{turn}"]))

    threads = [threading.Thread(target=put, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    catalogue.follow()
    assert len(catalogue.shelf) == 40


def test_the_log_is_written_anew_and_others_follow(catalogue, monkeypatch) -> None:
    monkeypatch.setattr("headrace.serve.catalogue.SPARE_ROWS", 20)
    behind = again(catalogue)
    for price in range(100):
        catalogue.put(rows(item=["a", "b"], price=[price, price]))
    assert catalogue.log.topic(TOPIC).first_row > 0
    behind.follow()
    assert held(behind.shelf) == held(again(catalogue).shelf) == held(catalogue.shelf)
    assert held(behind.shelf)["a"]["price"] == 99


@pytest.mark.parametrize("batch", [
    rows(brand=["x"]), rows(item=["a", None]), rows(item=[1]), rows(item=["a"], price=["cheap"]),
    rows(item=["a"], tags=["no list"]), rows(item=["a"], key=["k"]), rows(item=["a"], when=[{"x": 1}]),
])  # fmt: skip
def test_what_cannot_be_is_refused_and_changes_nothing(catalogue, batch) -> None:
    catalogue.put(rows(item=["z"], price=[1.0], size=[3]))
    with pytest.raises(HeadraceError):
        catalogue.put(batch)
    assert set(held(catalogue.shelf)) == {"z"}
    assert catalogue.log.rows(TOPIC) == 1


def test_an_attribute_keeps_its_type(catalogue) -> None:
    catalogue.put(rows(item=["a"], size=[3], weight=[0.5]))
    catalogue.put(rows(item=["b"], size=[None], weight=[2]))
    with pytest.raises(SchemaError, match="size"):
        catalogue.put(rows(item=["c"], size=["large"]))
    assert held(catalogue.shelf)["b"]["weight"] == 2.0


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_file_is_the_whole_catalogue_and_is_loaded_once(catalogue, tmp_path, kind) -> None:
    catalogue.put(rows(item=["old"]))
    path = tmp_path / f"items.{kind}"
    content = [
        {"item": "a", "brand": "x", "price": 1.5, "stock": 3},
        {"item": "b", "brand": "y", "price": 2, "stock": 0},
    ]
    if kind == "csv":
        path.write_text("item,brand,price,stock\na,x,1.5,3\nb,y,2,0\n")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    assert catalogue.load(path) == 2
    assert held(catalogue.shelf) == {row["item"]: row for row in content}
    catalogue.put(rows(item=["new"]))
    assert catalogue.load(path) == 3
    assert again(catalogue).load(path) == 3


def test_an_empty_list_is_no_type_of_its_own(catalogue) -> None:
    for _ in range(3):
        catalogue.put(rows(item=["a", "b"], colours=[[], [None, None]]))
        catalogue.put(rows(item=["b", "c"], colours=[[None], None]))
    catalogue.put(rows(item=["d"], colours=[["red"]]))
    catalogue.put(rows(item=["a", "e"], colours=[[], [None]]))
    found = {name: row["colours"] for name, row in held(catalogue.shelf).items()}
    assert found == {"a": [], "b": None, "c": None, "d": ["red"], "e": [None]}
    assert held(again(catalogue).shelf) == held(catalogue.shelf)


def test_watchers_see_every_shelf(catalogue) -> None:
    seen: list[int] = []
    catalogue.watch(lambda shelf: seen.append(len(shelf)))
    catalogue.put(rows(item=["a", "b"]))
    catalogue.remove(pa.array(["a"]))
    assert seen == [0, 2, 1]


SHOP = [
    {"item": "a", "brand": "x", "price": 5.0, "tags": ["new", "red"], "stock": 3, "sale": True},
    {"item": "b", "brand": "y", "price": 10.0, "tags": [], "stock": 0, "sale": False},
    {"item": "c", "brand": "y", "price": 50.0, "tags": ["red"], "stock": None, "sale": None},
    {"item": "d", "brand": None, "price": None, "tags": None, "stock": 8, "sale": True},
]


@pytest.mark.parametrize(("filters", "wanted"), [
    ({}, "abcd"), ({"brand": "y"}, "bc"), ({"brand": ["x", "y"]}, "abc"), ({"brand": "nobody"}, ""),
    ({"price": {"min": 10}}, "bc"), ({"price": {"above": 10}}, "c"), ({"price": {"max": 10}}, "ab"),
    ({"price": {"min": 5, "below": 10}}, "a"), ({"tags": "red"}, "ac"), ({"tags": ["new", "blue"]}, "a"),
    ({"tags": {"not": ["red"]}}, "b"), ({"brand": {"not": "x"}}, "bc"), ({"brand": {"any": ["x"]}}, "a"),
    ({"stock": 8}, "d"), ({"stock": 3.5}, ""), ({"stock": {"min": 1}}, "ad"), ({"sale": True}, "ad"),
    ({"brand": "y", "price": {"below": 20}}, "b"), ({"item": ["a", "d"]}, "ad"),
])  # fmt: skip
def test_filters_choose_what_fits_all_of_them(catalogue, filters, wanted) -> None:
    catalogue.put(pa.RecordBatch.from_pylist(SHOP))
    catalogue.put(rows(item=["gone"], brand=["y"], price=[10.0]))
    catalogue.remove(pa.array(["gone"]))
    found, shelf = ItemFilters().mask(catalogue.shelf, filters), catalogue.shelf
    assert "".join(sorted(shelf.names(np.flatnonzero(found)).to_pylist())) == wanted


@pytest.mark.parametrize("filters", [
    {"colour": "red"}, {"price": {"least": 3}}, {"price": "cheap"}, {"price": {"min": "3"}}, {"brand": 3},
    {"brand": {"min": 3}}, {"brand": []}, {"sale": 1}, {"price": {"min": True}}, {"stock": ["a"]},
])  # fmt: skip
def test_filters_that_cannot_be_meant_are_refused(catalogue, filters) -> None:
    catalogue.put(pa.RecordBatch.from_pylist(SHOP))
    with pytest.raises(SchemaError):
        ItemFilters().mask(catalogue.shelf, filters)


def test_a_mask_is_kept_until_the_shelf_changes(catalogue) -> None:
    catalogue.put(pa.RecordBatch.from_pylist(SHOP))
    filters = ItemFilters()
    first = filters.mask(catalogue.shelf, {"brand": "y"})
    assert filters.mask(catalogue.shelf, {"brand": "y"}) is first
    catalogue.put(rows(item=["e"], brand=["y"]))
    assert filters.mask(catalogue.shelf, {"brand": "y"}).sum() == 3
