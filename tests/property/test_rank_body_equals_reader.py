"""Whatever body native code reads, the general reader reads too, as the same rows."""

from __future__ import annotations

import json
import random

import pytest

from headrace.data.features import DenseFeature, IdFeature, Schema
from headrace.errors import SchemaError
from headrace.serve import ServeConfig
from headrace.serve.field_plan import field_plan
from headrace.serve.requests import RequestReader
from headrace.store.field_scores import KINDS
from headrace.store.table import load_native

SCHEMA = Schema(features=(
    IdFeature("user", 3, accepts="string"), IdFeature("item", 3), IdFeature("city", 3),
    IdFeature("device", 3, accepts="integer", optional=True), IdFeature("position", 3, serve_as=1),
    DenseFeature("price"), DenseFeature("age", optional=True),
))  # fmt: skip
NAMES = ["user", "item", "city", "device", "position", "price", "age", "usr", ""]
VALUES: list[object] = [
    "ann", "é", "a b", "", "\\", '"', "x" * 40, "y" * 1030, 0, -1, 7, 2**62, 10**19, 1.5, -0.0, 1e300, 2**53 + 1, True,
    None, [], ["a"], {}, "\u2028", "\ud800", "7",
]  # fmt: skip
PLAIN: dict[str, list[object]] = {
    "user": ["ann", "é", "a b"], "city": ["x", "é", ""], "device": [0, -7, 2**59],
    "price": [1, 2.5, -0.0, 1e300, 2**53], "age": [0.25, 9],
}  # fmt: skip


class Replica:
    def add_check(self, judge: object) -> None:
        pass


@pytest.fixture(scope="module")
def plan():
    import torch

    from headrace.nn import FM
    from headrace.serve import RankPredictor

    net = FM(torch.nn.Identity(), SCHEMA.id_names, 2, dim=3)
    found, reason = field_plan(RankPredictor(net, Replica(), SCHEMA))  # type: ignore[arg-type]
    assert found is not None, reason
    return found


def drawn(draw: random.Random) -> object:
    """Return something like the content of a body; most of them are plain."""
    plain = draw.random() < 0.8
    own = draw.sample(list(PLAIN), draw.randint(0, 3))
    shared = [name for name in PLAIN if name not in own or draw.random() < 0.2]
    texts = draw.random() < 0.5

    def value(name: str) -> object:
        return draw.choice(PLAIN[name] if plain or draw.random() < 0.8 else VALUES)

    rows = []
    for number in range(draw.randint(1, 4)):
        row: dict[str, object] = {"item": f"i{number}é" if texts else number * 3}
        row |= {name: value(name) for name in own}
        if not plain and draw.random() < 0.2:
            row.pop(draw.choice(list(row)))
        rows.append(row)
    user = {name: value(name) for name in shared if draw.random() < 0.9}
    content: dict[str, object] = {"candidates": rows, "user": user}
    for name, made in (("key", "k1"), ("event_time", 12), ("log_impressions", False), ("min_version", 3),
                       ("context", {name: value(name) for name in draw.sample(list(PLAIN), 2)}), ("context", {}),
                       ("key", draw.choice(VALUES)), ("other", 1), ("user", {draw.choice(NAMES): 1})):  # fmt: skip
        if draw.random() < (0.3 if plain and name in ("event_time", "log_impressions", "min_version") else 0.06):
            content[name] = made
    items = list(content.items())
    if draw.random() < 0.5:
        draw.shuffle(items)
    return dict(items)


def mutated(draw: random.Random, body: bytes) -> bytes:
    raw = bytearray(body)
    for _ in range(draw.choice([0, 0, 0, 0, 1, 1, 2, 5])):
        place = draw.randrange(len(raw))
        what = draw.random()
        if what < 0.4:
            raw[place] = draw.choice(b'{}[]",:0123456789.eE+-\\ \n\tabtrue\xc3\xa9\xff\x00')
        elif what < 0.7:
            del raw[place : place + draw.randint(1, 6)]
        else:
            raw[place:place] = raw[draw.randrange(len(raw)) :][: draw.randint(1, 12)]
        if not raw:
            break
    return bytes(raw)


def test_what_native_code_reads_is_what_the_reader_reads(plan):
    module = load_native()
    reader = RequestReader(SCHEMA, ServeConfig(max_rows=4, max_future_s=None), now=lambda: 99)
    columns = [
        (column.name, KINDS[column.kind], column.refused, place % 2 == 0) for place, column in enumerate(plan.columns)
    ]
    native = module.RankReader(columns, plan.item, 4)
    draw, read = random.Random(8), 0
    from headrace.store.field_scores import ScoredBody

    for number in range(6000):
        body = mutated(draw, json.dumps(drawn(draw), ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass"))
        found = native.read(body)
        if found is None:
            continue
        read += 1
        mine = ScoredBody(found, plan)
        try:
            asked = reader.rank_json(body)
        except SchemaError as error:
            raise AssertionError(f"{number}: native code read {body!r}, the reader says {error}") from error
        events = asked.events
        assert mine.rows == len(events)
        assert mine.log == asked.log_impressions
        assert mine.min_version == asked.min_version
        assert (mine.event_time if mine.event_time is not None else 99) == events.column("event_time")[0].as_py()
        assert mine.key is None or mine.key == events.column("key")[0].as_py()
        made = mine.columns()
        assert set(made) == set(events.names) - {"key", "kind", "event_time"}, body
        for name, column in made.items():
            assert column.equals(events.column(name)), (name, body)
    assert read > 800  # enough of them are plain
