"""Reading ahead changes nothing but the time: same items, bounded, errors in their place, and it ends when asked."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator

import pytest

from headrace.errors import ConfigError
from headrace.learn import ReadAhead, StageTimes
from headrace.learn.read_ahead import batch_bytes
from headrace.testing.toy import Toy, ToyConfig
from headrace.types import Position

WAIT_S = 5.0


def one(item: object) -> int:
    return 1


class Numbers:
    """Counts up to an end and knows where it stands; can be held up, and can fail."""

    def __init__(self, end: int, *, fail_at: int | None = None) -> None:
        self.at, self.end, self.fail_at = 0, end, fail_at
        self.gate = threading.Event()
        self.gate.set()

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        assert self.gate.wait(WAIT_S)
        if self.at == self.fail_at:
            raise KeyError(self.at)
        if self.at >= self.end:
            raise StopIteration
        self.at += 1
        return self.at - 1

    def position(self) -> Position:
        return {"at": self.at}

    def seek(self, position: Position) -> None:
        self.at = position.get("at", 0)


def eventually(condition) -> bool:
    deadline = time.monotonic() + WAIT_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    return bool(condition())


def readers() -> int:
    return sum(thread.name == "headrace-read" for thread in threading.enumerate())


@pytest.mark.parametrize("depth", [1, 3, 100])
def test_same_items_in_the_same_order(depth: int) -> None:
    with ReadAhead(Numbers(50), depth=depth, size=one) as ahead:
        assert list(ahead) == list(range(50))
        assert list(ahead) == []
        assert ahead.stats.items == 50


def test_it_reads_no_further_than_its_bounds() -> None:
    numbers = Numbers(1000)
    with ReadAhead(numbers, depth=4, size=one) as ahead:
        assert eventually(lambda: numbers.at == 4)
        time.sleep(0.02)
        assert numbers.at == 4
        next(ahead)
        assert eventually(lambda: numbers.at == 5)
    sized = Numbers(1000)
    with ReadAhead(sized, depth=100, max_bytes=25, size=lambda number: 10) as ahead:
        assert eventually(lambda: sized.at == 3)  # 20 bytes wait: there is room for another, whatever its size
        time.sleep(0.02)
        assert sized.at == 3
        assert ahead.stats.most_bytes == 30
        ahead.depth = 100


def test_a_larger_depth_is_used_at_once() -> None:
    numbers = Numbers(1000)
    with ReadAhead(numbers, depth=1, size=one) as ahead:
        assert eventually(lambda: numbers.at == 1)
        ahead.depth = 7
        assert eventually(lambda: numbers.at == 7)


def test_an_error_comes_in_its_place_and_stays() -> None:
    with ReadAhead(Numbers(9, fail_at=3), depth=8, size=one) as ahead:
        assert [next(ahead) for _ in range(3)] == [0, 1, 2]
        for _ in range(2):
            with pytest.raises(KeyError, match="3"):
                next(ahead)


def test_the_position_is_that_of_what_was_handed_out() -> None:
    numbers = Numbers(20)
    with ReadAhead(numbers, depth=6, size=one) as ahead:
        assert ahead.position() == {"at": 0}
        assert [next(ahead) for _ in range(4)] == [0, 1, 2, 3]
        assert eventually(lambda: numbers.at == 10)
        assert ahead.position() == {"at": 4}
        ahead.seek({"at": 2})
        assert ahead.position() == {"at": 2}
        assert list(ahead) == list(range(2, 20))
        ahead.seek({})
        assert next(ahead) == 0
    with pytest.raises(ConfigError, match="resumable"), ReadAhead(iter([1]), size=one) as plain:
        plain.position()


def test_the_thread_ends_when_closed_and_when_forgotten() -> None:
    before = readers()
    ahead = ReadAhead(Numbers(10**9), depth=2, size=one)
    assert readers() == before + 1
    ahead.close()
    assert readers() == before
    assert list(ahead) == []
    forgotten = ReadAhead(Numbers(10**9), depth=2, size=one)
    next(forgotten)
    del forgotten
    gc.collect()
    assert eventually(lambda: readers() == before)


def test_waiting_and_reading_are_counted_apart() -> None:
    times, numbers = StageTimes(), Numbers(3)
    numbers.gate.clear()
    with ReadAhead(numbers, depth=2, size=one, times=times) as ahead:
        assert not ahead.ready(0.01)
        threading.Timer(0.05, numbers.gate.set).start()
        assert next(ahead) == 0
        assert ahead.ready(WAIT_S)
        list(ahead)
        assert ahead.ready(0.0)
    assert times.seconds["wait"] > 0.03
    assert times.beside["read"] > 0.03
    assert ahead.stats.starved >= 1


def test_whoever_wants_to_know_hears_of_every_item_before_it_is_handed_out() -> None:
    heard: list[int] = []
    with ReadAhead(Numbers(5), depth=5, size=one, made=heard.append) as ahead:
        for number in ahead:
            assert number in heard
    assert heard == list(range(5))


def test_bytes_of_a_batch() -> None:
    batch = next(iter(Toy(ToyConfig()).batches(8, 1)))
    ids = sum(8 * (8 + 9) for _ in batch.ids)
    own = 8 * (4 * (4 + batch.dense.shape[1]) + 8 * 4)  # four columns of floats, four of integers, and dense ones
    assert batch_bytes(batch) == ids + own + sum(one.nbytes for one in batch.extra.values())


def test_bounds_have_to_be_positive() -> None:
    for wrong in ({"depth": 0}, {"max_bytes": 0}):
        with pytest.raises(ConfigError, match="positive"):
            ReadAhead(iter([]), **wrong)
