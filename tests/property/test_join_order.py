"""Order and repetition of the input, within the lateness, do not change the set of examples."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.data.join import EventJoin, JoinConfig
from headrace.types import Events

SECOND = 1_000_000
WINDOW, LATENESS = 10, 5


@dataclass(frozen=True)
class Row:
    time: int
    key: str
    kind: str
    item: str
    price: float


@st.composite
def worlds(draw: st.DrawFn) -> list[Row]:
    rows, shown = [], set()
    for number in range(draw(st.integers(1, 12))):
        time = draw(st.integers(0, 40))
        key, item = f"r{draw(st.integers(0, 5))}", f"i{draw(st.integers(0, 3))}"
        if (key, item) in shown:
            continue
        shown.add((key, item))
        rows.append(Row(time, key, "impression", item, float(number)))
        for _ in range(draw(st.integers(0, 3))):
            kind = draw(st.sampled_from(["click", "buy", "view"]))
            rows.append(Row(time + draw(st.integers(-3, WINDOW + 4)), key, kind, item, 0.0))
    for time in draw(st.lists(st.integers(0, 40), max_size=3)):
        rows.append(Row(time, "nobody", "click", "nothing", 0.0))
    return sorted(rows, key=lambda row: row.time)


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[list[Row], list[list[Row]]]:
    """A world, and the same rows as they might arrive: shuffled within the lateness, some twice, in odd pieces."""
    world = draw(worlds())
    times = st.floats(0, LATENESS, exclude_max=True, allow_nan=False)
    arriving = [(row.time + draw(times), draw(st.integers(0, 9)), row) for row in world]
    again = draw(st.lists(st.sampled_from(world), max_size=8)) if world else []
    arriving += [(row.time + draw(times), draw(st.integers(0, 9)), row) for row in again]
    ordered = [row for _, _, row in sorted(arriving, key=lambda entry: entry[:2])]
    pieces, rest = [], ordered
    while rest:
        size = draw(st.integers(1, 5))
        pieces.append(rest[:size])
        rest = rest[size:]
    return world, pieces


def events(rows: list[Row]) -> Events:
    return Events.from_columns({
        "key": [row.key for row in rows], "kind": [row.kind for row in rows],
        "event_time": [row.time * SECOND for row in rows], "item": [row.item for row in rows],
        "price": [row.price for row in rows],
    })  # fmt: skip


def config(folder: str | None = None, **more: object) -> JoinConfig:
    spill = {} if folder is None else {"memory_rows": 2, "spill": Path(folder)}
    settings = {"window_s": WINDOW, "lateness_s": LATENESS, "positive": ("click", "buy")} | spill | more
    return JoinConfig(**settings)  # type: ignore[arg-type]


def joined(pieces: list[list[Row]], settings: JoinConfig) -> list[tuple[object, ...]]:
    join, out = EventJoin(settings), []
    for examples in [*(join.push(events(piece)) for piece in pieces), join.flush()]:
        if examples is not None:
            columns = ("key", "item", "event_time", "price", "label", "sample_rate", "example_id")
            out += list(zip(*(examples.column(name).to_pylist() for name in columns), strict=True))
    join.close()
    return out


@settings(max_examples=250, deadline=None)
@given(arrivals())
def test_the_set_of_examples_is_what_the_rows_say(case: tuple[list[Row], list[list[Row]]]) -> None:
    world, pieces = case
    actions = [row for row in world if row.kind in ("click", "buy")]
    expected = {}
    for row in (row for row in world if row.kind == "impression"):
        hit = any((a.key, a.item) == (row.key, row.item) and 0 <= a.time - row.time <= WINDOW for a in actions)
        expected[row.key, row.item] = (row.time * SECOND, row.price, float(hit))
    found = joined(pieces, config())
    assert len(found) == len(expected)
    assert {row[:2]: row[2:5] for row in found} == expected


@settings(max_examples=80, deadline=None)
@given(arrivals(), st.integers(0, 3))
def test_the_negatives_kept_do_not_depend_on_the_order(case: tuple[list[Row], list[list[Row]]], seed: int) -> None:
    world, pieces = case
    sampled = config(negative_rate=0.4, seed=seed)
    straight, shuffled = joined([[row] for row in world], sampled), joined(pieces, sampled)
    assert sorted(straight) == sorted(shuffled)
    assert {row[5] for row in straight if row[4] == 1.0} <= {1.0}


@settings(max_examples=40, deadline=None)
@given(arrivals())
def test_the_disk_tier_changes_nothing_not_even_the_order(case: tuple[list[Row], list[list[Row]]]) -> None:
    _, pieces = case
    with tempfile.TemporaryDirectory() as folder:
        assert joined(pieces, config(folder)) == joined(pieces, config())
