"""The native reader of rank requests against the one in Python: whatever it takes, it takes as the other one does."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from headrace.data.features import DenseFeature, IdFeature, Schema
from headrace.errors import HeadraceError
from headrace.nn import DeepFM
from headrace.publish.shared_replica import SharedReplica, space_tables
from headrace.serve import RankPredictor, ServeConfig
from headrace.serve.field_plan import field_plan
from headrace.serve.requests import RequestReader
from headrace.store import EmbeddingCollection, FeatureLookup, TableConfig
from headrace.store.field_scores import FieldScores
from headrace.store.shared_memory import SharedReader, SharedSpace
from headrace.store.table import load_native
from headrace.types import Change, RowChange, Version

pytestmark = [
    pytest.mark.skipif(load_native() is None, reason="the native module is not built here"),
    pytest.mark.filterwarnings("ignore:overflow encountered in cast"),
]
SCHEMA = Schema(features=(
    IdFeature("user", 5, accepts="string"), IdFeature("item", 5),
    IdFeature("city", 5, default="nowhere", optional=True), IdFeature("device", 5, optional=True),
    IdFeature("count", 5, accepts="integer", optional=True), DenseFeature("price", transform="log1p"),
    DenseFeature("age", transform="standard", mean=30.0, std=9.0, default=25.0, optional=True),
))  # fmt: skip
PLAIN = {
    "key": "r1", "user": {"user": "ann", "city": "rome", "age": 20}, "context": {"device": 3, "count": 4},
    "event_time": 1_700_000_000_000_000, "log_impressions": True,
    "candidates": [{"item": "a", "price": 5.25}, {"item": "bé", "price": -2}, {"item": "c", "price": 0}],
}  # fmt: skip
NASTY: list[Any] = [
    None, True, 0, -1, 1, 7, -0.0, 0.5, 1.0, 1e5, 1e308, 1e-320, 3.4e38, 2**53 + 1, 2**63 - 1, 2**63, -(2**63),
    -(2**63) - 1, 10**40, "", "a", "item", "\x00", "\u20ac", "\U0001f600", "\ud800", "\udc00\ud800", "\\", '"', "/",
    "\n\t\x7f", "é" * 600, "x" * 1024, "x" * 1025, [], {}, [1], ["a"], {"item": 1}, 9_007_199_254_740_993, 0.1, 1 / 3,
    123456789012345678,
]  # fmt: skip
NAMES = ["item", "key", "user", "context", "candidates", "event_time", "price", "city", "age", "device", "count",
         "log_impressions", "min_version", "pric", "prices", "", "position", "\ud800", "\u0130tem"]  # fmt: skip
PIECES = [b"-", b"+", b"0", b".", b"e9", b"\\u00e9", b"\\ud83d", b"//", b"NaN", b"{", b"[", b'"', b",", b"\x00",
          b"\xff", b"\xc0\x80"]  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FieldScores, RankPredictor]]:
    """The native scorer and the predictor of the same version."""
    folder = tmp_path_factory.mktemp("space")

    def build(embed: torch.nn.Module) -> torch.nn.Module:
        return DeepFM(embed, SCHEMA.id_names, 2, (16, 8), dim=5, seed=4)

    configs = {name: TableConfig(name=name, dim=dim, seed=1) for name, dim in SCHEMA.tables.items()}
    lookups = [FeatureLookup(feature=f.name, table=f.table) for f in SCHEMA.id_features]
    space = SharedSpace(configs, build(torch.nn.Identity()).state_dict(), parent=Path(folder))
    tables = space_tables(space)
    model = build(EmbeddingCollection(tables, lookups))
    replica = SharedReplica(space, tables, model)
    predictor = RankPredictor(model, replica, SCHEMA)
    draw = torch.Generator().manual_seed(1)
    none = torch.zeros(0, dtype=torch.int64)
    rows = {name: RowChange(torch.arange(40), torch.randn(40, 5, generator=draw) * 0.3, none) for name in SCHEMA.tables}
    dense = {name: torch.randn(value.shape, generator=draw) * 0.3 for name, value in replica.dense.items()}
    replica.apply(Change(version=Version(0, -1), tables=rows, dense=dense, full=True))
    plan, reason = field_plan(predictor)
    assert plan is not None, reason
    yield FieldScores(plan, SharedReader(space.folder, place=1), max_rows=50), predictor
    space.close()


def places(tree: object) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inner:
        found.append((tree, key))
        found += places(value)
    return found


def bent(draw: random.Random) -> bytes:
    """A body with some of its parts replaced, dropped, renamed or repeated."""
    tree = copy.deepcopy(PLAIN)
    for _ in range(draw.choice((0, 1, 1, 1, 2, 3))):
        found = places(tree)
        if not found:
            break
        where, key = draw.choice(found)
        way = draw.randrange(6)
        if way < 3:
            where[key] = copy.deepcopy(draw.choice(NASTY))
        elif way == 3:
            del where[key]
        elif isinstance(where, list):
            where.extend([copy.deepcopy(where[key])] * draw.choice((1, 2, 60)))
        elif way == 4:
            where[draw.choice(NAMES)] = where.pop(key)
        else:
            where[draw.choice(NAMES)] = copy.deepcopy(draw.choice(NASTY))
    text = json.dumps(tree, ensure_ascii=draw.random() < 0.5, separators=draw.choice([(",", ":"), (", ", ": ")]))
    return text.encode("utf-8", "surrogatepass")


def broken(draw: random.Random, content: bytes) -> bytes:
    """A body with bytes exchanged, taken out, repeated or put in."""
    body = bytearray(content)
    for _ in range(draw.randrange(1, 5)):
        way, place = draw.randrange(5), draw.randrange(len(body) or 1)
        if way == 0:
            body[place : place + 1] = bytes([draw.randrange(256)])
        elif way == 1:
            del body[place : place + draw.randrange(1, 20)]
        elif way == 2:
            body[place:place] = body[place : place + 30]
        elif way == 3:
            body[place:place] = draw.choice(PIECES)
        else:
            body = body[:place]
    return bytes(body)


def bodies(count: int, seed: int) -> Iterator[bytes]:
    draw = random.Random(seed)
    for _ in range(count):
        body = bent(draw)
        yield broken(draw, body) if draw.random() < 0.35 else body


def same(left: pa.Array, right: pa.Array) -> bool:
    return left.type == right.type and left.equals(right)


def compare(pair: tuple[FieldScores, RankPredictor], count: int, seed: int) -> tuple[int, int]:
    """Return how many bodies the native reader took, and how many the other one."""
    (scores, predictor), reader = pair, RequestReader(SCHEMA, ServeConfig(max_rows=50, max_future_s=None))
    fast = slow = 0
    for body in bodies(count, seed):
        try:
            wanted = reader.rank_json(body)
        except HeadraceError:
            wanted = None
        slow += wanted is not None
        native = scores.read(body)
        if native is None:
            continue
        assert wanted is not None, f"taken natively, refused in Python: {body!r}"
        fast += 1
        events = wanted.events
        assert native.rows == len(events), body
        assert native.key is None or native.key == events.column("key")[0].as_py(), body
        if native.event_time is not None:
            assert native.event_time == events.column("event_time")[0].as_py(), body
        assert (native.log, native.min_version) == (wanted.log_impressions, wanted.min_version), body
        columns = native.columns()
        for name in SCHEMA.columns:
            left, right = columns.get(name), events.column(name) if name in events.names else None
            assert (left is None) == (right is None), (name, body)
            assert left is None or same(left, right), (name, left, right, body)
        try:
            scores.score([native])
        except HeadraceError:
            with pytest.raises(HeadraceError):
                predictor.predict(events)
            continue
        try:
            exact = predictor.predict(events).column("score").to_numpy()
        except HeadraceError as error:
            raise AssertionError(f"scored natively, refused in Python: {error}: {body!r}") from error
        assert np.abs(native.scores - exact).max() < 1e-4, body
        answer = json.loads(native.answer(native.key or "k", 0))
        assert answer["items"] == [events.column("item")[place].as_py() for place in answer["order"]], body
    return fast, slow


def test_what_the_native_reader_takes_it_takes_as_the_other_one_does(pair) -> None:
    fast, slow = compare(pair, 2000, 1)
    assert fast > 100
    assert fast <= slow


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_bodies(pair) -> None:
    compare(pair, 100_000, 2)
