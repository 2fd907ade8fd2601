from __future__ import annotations

import threading

import numpy as np
import pyarrow as pa
import pytest

from headrace.data.log import EmbeddedLog
from headrace.errors import ConfigError
from headrace.serve.popularity import Popularity
from headrace.serve.seen import SeenLimits, SeenMemory
from headrace.serve.shelf import Shelf, item_ids
from headrace.types import Events


def ids(*names: str) -> list[int]:
    return item_ids(pa.array(list(names), pa.string())).tolist()


def user(name: str) -> int:
    return ids(name)[0]


def shown(key: str, who: str | None, *items: str, kind: str = "impression") -> Events:
    n = len(items)
    columns: dict[str, object] = {"key": [key] * n, "kind": [kind] * n, "event_time": [1] * n}
    names = {"item": pa.array(items, pa.string()), "user": pa.array([who] * n, pa.string())}
    return Events.from_columns(columns | names)


def acted(key: str, item: str, kind: str = "click") -> Events:
    return Events.from_columns({"key": [key], "kind": [kind], "event_time": [2], "item": [item]})


@pytest.fixture
def log(tmp_path) -> EmbeddedLog:
    return EmbeddedLog(tmp_path / "events.db", durability="process")


def memory(log: EmbeddedLog, **more: object) -> SeenMemory:
    return SeenMemory(log, "events", user="user", **more)  # type: ignore[arg-type]


def test_what_was_shown_and_acted_on_is_known_by_user(log) -> None:
    seen = memory(log)
    log.append("events", shown("r1", "ann", "a", "b"))
    log.append("events", shown("r2", "bob", "c"))
    log.append("events", acted("r1", "b"))
    seen.follow()
    assert seen.items(user("ann"), "acted").tolist() == ids("b")
    assert seen.items(user("ann"), "shown").tolist() == ids("b", "a")
    assert seen.items(user("bob"), "shown").tolist() == ids("c")
    assert seen.items(user("ann"), "none").tolist() == []
    assert seen.knows(user("bob"))
    assert not seen.knows(user("eve"))


def test_only_named_kinds_count_as_acting_and_rows_without_user_are_left_out(log) -> None:
    seen = memory(log, acted=("buy",))
    log.append("events", shown("r1", None, "a"))
    log.append("events", shown("r2", "ann", "b"))
    log.append("events", acted("r1", "a", "buy"))
    log.append("events", acted("r2", "b"))
    log.append("events", acted("unknown", "c", "buy"))
    seen.follow()
    assert seen.items(user("ann"), "acted").tolist() == []
    assert seen.counts() == {"users": 1, "pairs": 1, "keys": 1}


def test_it_is_never_behind_the_log_whoever_writes(log) -> None:
    seen, other = memory(log), EmbeddedLog(log.path, durability="process")
    for turn in range(5):
        other.append("events", shown(f"r{turn}", "ann", f"i{turn}"))
        seen.follow()
        assert seen.items(user("ann"), "shown")[0] == ids(f"i{turn}")[0]


def test_it_is_the_same_after_a_restart_as_far_as_it_reads_back(log) -> None:
    first = memory(log)
    for turn in range(20):
        log.append("events", shown(f"r{turn}", f"u{turn % 3}", f"i{turn}"))
        log.append("events", acted(f"r{turn}", f"i{turn}"))
    first.follow()
    again = memory(log)
    again.follow()
    short = memory(log, limits=SeenLimits(replay_rows=4))
    short.follow()
    for who in ("u0", "u1", "u2"):
        assert again.items(user(who), "acted").tolist() == first.items(user(who), "acted").tolist()
    assert short.counts()["pairs"] == 2


def test_a_trimmed_log_is_read_on_from_where_it_begins(log) -> None:
    seen = memory(log)
    for turn in range(4):
        log.append("events", shown(f"r{turn}", "ann", f"i{turn}"))
    seen.follow()
    log.append("events", shown("r8", "ann", "i8"))
    log.trim("events", 5)
    log.append("events", shown("r9", "ann", "i9"))
    seen.follow()
    assert ids("i9")[0] in seen.items(user("ann"), "shown").tolist()


def test_memory_is_bounded(log) -> None:
    seen = memory(log, limits=SeenLimits(items_each=3, pairs=5, keys=2))
    log.append("events", shown("r1", "ann", *"abcde"))
    log.append("events", shown("r2", "bob", "x", "y"))
    log.append("events", shown("r3", "cy", "z"))
    seen.follow()
    assert seen.items(user("ann"), "shown").tolist() == []  # idle longest, gone for the others
    assert seen.counts() == {"users": 2, "pairs": 3, "keys": 2}
    log.append("events", shown("r4", "bob", *"pqrs"))
    seen.follow()
    assert seen.items(user("bob"), "shown").tolist() == ids("s", "r", "q")


def test_an_item_shown_again_is_newest_and_stays_acted_on(log) -> None:
    seen = memory(log)
    log.append("events", shown("r1", "ann", "a", "b"))
    log.append("events", acted("r1", "a"))
    log.append("events", shown("r2", "ann", "b"))
    seen.follow()
    log.append("events", shown("r3", "ann", "a"))
    seen.follow()
    assert seen.items(user("ann"), "shown").tolist() == ids("a", "b")
    assert seen.items(user("ann"), "acted").tolist() == ids("a")


def test_old_things_may_come_again(log) -> None:
    seen = memory(log)
    log.append("events", shown("r1", "ann", "a"))
    before = log.read("events", 0)[0].accepted_time + 1
    log.append("events", shown("r2", "ann", "b"))
    seen.follow()
    assert seen.items(user("ann"), "shown", since=before).tolist() in (ids("b"), ids("b")[:0])


def test_a_forgotten_user_is_unknown_and_late_actions_find_nobody(log) -> None:
    seen = memory(log)
    log.append("events", shown("r1", "ann", "a", "b"))
    seen.follow()
    assert seen.forget(user("ann"))
    assert not seen.forget(user("ann"))
    log.append("events", acted("r1", "a"))
    seen.follow()
    assert seen.counts() == {"users": 0, "pairs": 0, "keys": 0}


def test_threads_may_follow_and_ask_at_once(log) -> None:
    seen, failed = memory(log), list[BaseException]()

    def ask() -> None:
        try:
            for _ in range(50):
                seen.follow()
                seen.items(user("ann"), "shown")
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(40):
        log.append("events", shown(f"r{turn}", "ann", f"i{turn}"))
    for thread in threads:
        thread.join()
    seen.follow()
    assert failed == []
    assert len(seen.items(user("ann"), "shown")) == 40


def shelf(*names: str) -> Shelf:
    return Shelf.empty("item").put(pa.RecordBatch.from_pydict({"item": list(names)}))


HOUR = 3_600_000_000


def test_popular_is_what_many_take_and_not_only_what_is_shown_to_many() -> None:
    counts, items = Popularity(), shelf("seldom", "liked", "pushed")
    counts.watch(items)
    seldom, liked, pushed = (np.array(ids(name)) for name in ("seldom", "liked", "pushed"))
    counts.add(np.repeat(liked, 100), np.repeat(liked, 30), 1)
    counts.add(np.repeat(pushed, 3000), np.repeat(pushed, 35), 1)
    counts.add(seldom, seldom, 1)
    popular, shown_ever = counts.of(items)
    order = items.names(np.argsort(-popular)).to_pylist()
    assert order == ["liked", "pushed", "seldom"] or order[0] == "liked"
    assert shown_ever.tolist() == [1, 100, 3000]


def test_old_counts_fade_by_half_in_a_half_life() -> None:
    counts, items = Popularity(3600.0), shelf("old", "new")
    counts.watch(items)
    old, new = (np.array(ids(name)) for name in ("old", "new"))
    counts.add(np.repeat(old, 40), np.repeat(old, 40), 0)
    counts.add(np.repeat(new, 21), np.repeat(new, 21), HOUR)
    popular, _ = counts.of(items)
    assert popular[1] > popular[0]
    counts.add(old[:0], old[:0], 2000 * HOUR)  # far beyond what a float could hold if old counts were not written anew
    counts.add(new, new, 2000 * HOUR)
    popular, _ = counts.of(items)
    assert popular[0] < 1e-6 < popular[1] < 1.01


def test_counts_follow_the_items_on_the_shelf() -> None:
    counts = Popularity()
    first = shelf("a", "b")
    counts.watch(first)
    counts.add(np.array(ids("a", "a", "b", "elsewhere")), np.array(ids("a")), 1)
    after = first.remove(np.array(ids("b"))).put(pa.RecordBatch.from_pydict({"item": ["c"]}))
    counts.watch(after)
    _, shown_ever = counts.of(after)
    assert dict(zip(after.columns.column("item").to_pylist(), shown_ever, strict=True)) == {"a": 2.0, "c": 0.0}


def test_bounds_and_half_lives_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="pairs"):
        SeenLimits(pairs=0)
    with pytest.raises(ConfigError, match="half_life_s"):
        Popularity(0.0)
