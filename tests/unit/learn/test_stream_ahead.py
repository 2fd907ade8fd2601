"""A stream read ahead and published behind: positions, states and versions are those of what the loop has taken."""

from __future__ import annotations

import gc
import threading
import time
from dataclasses import replace

import pytest

from headrace.data import Collator, IdFeature, MemorySource, Schema
from headrace.errors import ConfigError, GapError, SchemaError, SourceEnded
from headrace.learn import PublishBehind, StageTimes, StreamAhead
from headrace.testing import DictPublisher, ListSource, Toy, ToyConfig, assert_same_state, check_joiner, check_source
from headrace.testing.publish_checks import toy_changes
from headrace.types import Batch, Change, Events, State, Version

TOY = Toy(ToyConfig(users=16, items=16))
SCHEMA = Schema(features=(IdFeature("user", 4), IdFeature("item", 4)))
ROWS = 200
WAIT_S = 5.0


class Silent(MemorySource):
    """Has nothing yet, for ever."""

    def __init__(self) -> None:
        super().__init__(events(1))

    def read(self, limit: int) -> None:
        return None


def events(rows: int = ROWS) -> Events:
    return TOY.events(0, rows)


def stream(pause_every: int = 0, depth: int = 4) -> StreamAhead:
    rows = [events().slice(at, 30) for at in range(0, ROWS, 30)]
    return StreamAhead(ListSource(rows, pause_every=pause_every), Collator(SCHEMA, 32), depth=depth)


def take(ahead: StreamAhead, limit: int = 50) -> tuple[Events | None, Batch | None]:
    while (rows := ahead.source.read(limit)) is None:
        pass
    return rows, ahead.joiner.add(rows, None, None)


@pytest.mark.parametrize("pause_every", [0, 3])
def test_its_source_keeps_the_contract(pause_every: int) -> None:
    assert check_source(lambda: stream(pause_every).source).untried == ()


def test_its_joiner_keeps_the_contract_of_a_joiner_alone() -> None:
    chunks = [(events().slice(at, 40), None, None) for at in range(0, ROWS, 40)]
    inner = check_joiner(lambda: Collator(SCHEMA, 32), chunks, repeats=False)
    assert check_joiner(lambda: stream().joiner, chunks, repeats=False) == inner


def test_batches_positions_and_states_are_those_of_one_after_the_other() -> None:
    plain = (ListSource([events().slice(at, 30) for at in range(0, ROWS, 30)]), Collator(SCHEMA, 32))
    with stream() as ahead:
        for _ in range(7):
            rows, batch = take(ahead)
            assert rows is not None
            expected = plain[1].add(plain[0].read(50), None, None)
            assert_same_state(batch, expected)
            assert ahead.source.position() == plain[0].position()
            assert_same_state(ahead.joiner.state(), plain[1].state())
        with pytest.raises(SourceEnded):
            ahead.source.read(50)
        assert_same_state(ahead.joiner.flush(), plain[1].flush())


def test_closed_it_leaves_source_and_joiner_where_the_loop_stands() -> None:
    source, joiner = MemorySource(events()), Collator(SCHEMA, 32)
    before = set(threading.enumerate())
    with StreamAhead(source, joiner, depth=3) as ahead:
        take(ahead, 40)
        assert set(threading.enumerate()) - before
    assert source.position() == {"memory": 40}
    again = Collator(SCHEMA, 32)
    again.add(events().slice(0, 40))
    assert_same_state(joiner.state(), again.state())
    assert not set(threading.enumerate()) - before


def test_a_forgotten_stream_ends_its_thread_even_where_nothing_comes() -> None:
    before = set(threading.enumerate())
    forgotten = StreamAhead(Silent(), Collator(SCHEMA, 32))
    assert forgotten.source.read(10) is None
    assert set(threading.enumerate()) - before
    del forgotten
    gc.collect()
    deadline = time.monotonic() + WAIT_S
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not set(threading.enumerate()) - before


def test_a_row_that_does_not_fit_is_refused_where_it_stands() -> None:
    bad = events(60).with_columns({"label": events(60).column("user")})
    with StreamAhead(ListSource([events(60), bad]), Collator(SCHEMA, 32)) as ahead:
        take(ahead, 60)
        with pytest.raises(SchemaError):
            take(ahead, 60)
        assert ahead.source.position() == {"list": 60}


def test_depths_have_to_be_positive() -> None:
    with pytest.raises(ConfigError, match="depth"):
        stream(depth=0)
    with pytest.raises(ConfigError, match="depth"):
        PublishBehind(DictPublisher(), depth=0)


# ------------------------------------------------------------------------------------------------------ publishing


class Slow(DictPublisher):
    """Waits at a gate before every version, and may fail at one."""

    def __init__(self, fail_at: int = -1) -> None:
        super().__init__()
        self.gate, self.fail_at = threading.Event(), fail_at

    def publish(self, change: Change) -> Change:
        assert self.gate.wait(WAIT_S)
        if change.version.number == self.fail_at:
            raise OSError("disk full")
        return super().publish(change)


class Saved:
    def __init__(self) -> None:
        self.states: list[State] = []

    def save(self, state: State) -> None:
        self.states.append(state)

    def load(self) -> State | None:
        return self.states[-1] if self.states else None


CHANGES = toy_changes(5)


def test_the_learner_goes_on_while_a_version_is_written() -> None:
    slow, times = Slow(), StageTimes()
    with PublishBehind(slow, times=times) as behind:
        assert behind.publish(CHANGES[0]) is CHANGES[0]
        behind.publish(CHANGES[1])  # one is being written, one waits
        assert slow.kept == {}
        slow.gate.set()
        for change in CHANGES[2:]:
            behind.publish(change)
        assert behind.last() == Version(4, 3)
        assert_same_state([slow.kept[n] for n in range(5)], CHANGES)
    assert times.beside["publish"] > 0


def test_no_checkpoint_is_written_before_its_versions() -> None:
    slow, saved = Slow(), Saved()
    with PublishBehind(slow) as behind:
        checkpoint = behind.before(saved)
        behind.publish(CHANGES[0])
        threading.Timer(0.05, slow.gate.set).start()
        checkpoint.save({"version": 0})
        assert list(slow.kept) == [0]
        assert checkpoint.load() == {"version": 0}


def test_an_error_arrives_with_the_next_call_and_stops_everything() -> None:
    slow, saved = Slow(fail_at=1), Saved()
    slow.gate.set()
    with pytest.raises(OSError, match="disk full"), PublishBehind(slow) as behind:
        behind.publish(CHANGES[0])
        behind.publish(CHANGES[1])
        for call in (
            behind.last,
            behind.wait,
            lambda: behind.publish(CHANGES[2]),
            lambda: behind.before(saved).save({}),
        ):
            with pytest.raises(OSError, match="disk full"):
                call()
        behind.wait()
    assert list(slow.kept) == [0]
    assert saved.states == []


def test_a_change_that_is_not_the_next_is_judged_at_once() -> None:
    kept = DictPublisher()
    with PublishBehind(kept) as behind:
        for change in CHANGES[:3]:
            behind.publish(change)
        behind.publish(CHANGES[1])  # recognised
        with pytest.raises(GapError):
            behind.publish(replace(CHANGES[1], notes=CHANGES[1].dense))
        with pytest.raises(GapError):
            behind.publish(CHANGES[4])
        behind.publish(CHANGES[3])
        assert behind.last().number == 3


def test_after_an_error_of_the_run_what_waits_is_dropped() -> None:
    slow = Slow()
    with pytest.raises(KeyError), PublishBehind(slow) as behind:
        behind.publish(CHANGES[0])
        behind.publish(CHANGES[1])
        slow.gate.set()
        raise KeyError
    assert set(slow.kept) <= {0, 1}
