"""The vectorised join equals a row-by-row one written from the rules, on input of any disorder."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.data.join import EventJoin, JoinConfig
from headrace.data.join_state import decode_state, encode_state
from headrace.types import Events

SECOND = 1_000_000
WINDOW, LATENESS = 6, 3
Row = tuple[str, str, int, str]  # kind, key, time, item


@dataclass
class Plain:
    """The rules of the join, one row at a time."""

    newest: int | None = None
    floor: int = -(10**9)
    impressions: dict[str, list[int | str]] = field(default_factory=dict)  # key -> time, fate, number
    waiting: list[Row] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    arrived: int = 0

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + number

    @property
    def watermark(self) -> int:
        return self.floor if self.newest is None else max(self.newest - LATENESS, self.floor)

    def known(self, key: str) -> list[int | str] | None:
        found = self.impressions.get(key)
        if found and found[1] != "open" and found[0] <= self.watermark - 2 * WINDOW:
            return None
        return found

    def push(self, rows: list[Row]) -> list[tuple[str, float]]:
        out: list[tuple[int, int, str, float]] = []
        shown = []
        for kind, key, time, _ in rows:
            if kind != "impression":
                continue
            if key in shown or self.known(key):
                self.count("duplicate_impressions")
            elif time + WINDOW <= self.watermark:
                self.count("late_impressions")
                shown.append(key)
            else:
                self.impressions[key] = [time, "open", self.arrived]
                self.arrived += 1
                shown.append(key)
        claimed = [row for row in self.waiting if row[1] in shown and self.known(row[1])]
        self.waiting = [row for row in self.waiting if row not in claimed]
        for row in [*claimed, *(row for row in rows if row[0] in ("click", "buy"))]:
            out += self.act(row)
        self.count("other_rows", sum(row[0] == "view" for row in rows))
        times = [row[2] for row in rows] + ([] if self.newest is None else [self.newest])
        self.newest = max(times)
        return self.close(out)

    def act(self, row: Row) -> list[tuple[int, int, str, float]]:
        _, key, time, _ = row
        found = self.known(key)
        if found is None:
            if time + WINDOW <= self.watermark:
                self.count("orphan_actions")
            elif row in self.waiting:
                self.count("duplicate_actions")
            else:
                self.waiting.append(row)
            return []
        if time < found[0]:
            self.count("orphan_actions")
        elif time > found[0] + WINDOW or found[1] == "closed":
            self.count("late_actions")
        elif found[1] == "positive":
            self.count("duplicate_actions")
        else:
            found[1] = "positive"
            self.count("positives")
            return [(int(found[0]), int(found[2]), key, 1.0)]
        return []

    def close(self, out: list[tuple[int, int, str, float]]) -> list[tuple[str, float]]:
        for key, entry in self.impressions.items():
            if entry[1] == "open" and entry[0] + WINDOW <= self.watermark:
                entry[1] = "closed"
                self.count("negatives")
                out.append((int(entry[0]), int(entry[2]), key, 0.0))
        gone = [row for row in self.waiting if row[2] + WINDOW <= self.watermark]
        self.waiting = [row for row in self.waiting if row not in gone]
        self.count("orphan_actions", len(gone))
        return [(key, label) for _, _, key, label in sorted(out)]

    def flush(self) -> list[tuple[str, float]]:
        if self.newest is not None:
            self.floor = max(self.floor, self.newest + WINDOW)
        return self.close([])


def events(rows: list[Row]) -> Events:
    kinds, keys, times, items = zip(*rows, strict=True)
    scaled = [time * SECOND for time in times]
    return Events.from_columns({"key": keys, "kind": kinds, "event_time": scaled, "item": items})


row = st.tuples(
    st.sampled_from(["impression", "impression", "click", "buy", "view"]), st.sampled_from("abcdefgh"),
    st.integers(0, 40), st.just("x"),
)  # fmt: skip
drifting = st.lists(st.lists(row, min_size=1, max_size=6), min_size=1, max_size=14).map(
    lambda pushes: [[(k, key, t // 3 + 4 * n, i) for k, key, t, i in push] for n, push in enumerate(pushes)]
)


def pairs(examples: Events | None) -> list[tuple[str, float]]:
    if examples is None:
        return []
    return list(zip(examples.column("key").to_pylist(), examples.column("label").to_pylist(), strict=True))


@settings(max_examples=300, deadline=None)
@given(drifting, st.booleans())
def test_every_push_gives_the_same_examples_in_the_same_order(pushes: list[list[Row]], flush: bool) -> None:
    config = JoinConfig(window_s=WINDOW, lateness_s=LATENESS, positive=("click", "buy"))
    join, plain = EventJoin(config), Plain()
    for number, push in enumerate(pushes):
        assert pairs(join.push(events(push))) == plain.push(push)
        if flush and number == len(pushes) // 2:
            assert pairs(join.flush()) == plain.flush()
    assert pairs(join.flush()) == plain.flush()
    counts = {name: count for name, count in join.counts.to_dict().items() if count}
    assert counts == {name: count for name, count in plain.counts.items() if count}


@settings(max_examples=120, deadline=None)
@given(drifting, st.data())
def test_a_restored_join_goes_on_exactly(pushes: list[list[Row]], data: st.DataObject) -> None:
    config = JoinConfig(window_s=WINDOW, lateness_s=LATENESS, positive=("click", "buy"), memory_rows=3)
    straight, resumed = EventJoin(config), EventJoin(config)
    stop = data.draw(st.integers(0, len(pushes)))
    for push in pushes[:stop]:
        straight.push(events(push))
        resumed.push(events(push))
    saved = decode_state(encode_state(resumed.state()))
    resumed = EventJoin(config)
    resumed.restore(saved)
    assert resumed.state() == saved
    for push in pushes[stop:]:
        assert pairs(resumed.push(events(push))) == pairs(straight.push(events(push)))
        assert resumed.state()["counts"] == straight.state()["counts"]
    assert pairs(resumed.flush()) == pairs(straight.flush())
