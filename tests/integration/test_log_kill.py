"""`kill -9` at random instants: the log is a prefix without gap or double, and the joiner's examples are the same."""

from __future__ import annotations

import os
import random
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headrace.data.join import EventJoin, JoinConfig
from headrace.data.join_log import join_log
from headrace.data.log import EmbeddedLog
from headrace.types import Events

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
SECOND = 1_000_000


def born(work: Callable[[], None]) -> int:
    """Run work in a child process and return its id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


def killed(child: int, after_s: float) -> bool:
    """Kill the child after so long; return whether that was what ended it."""
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed on its own"
    return os.WIFSIGNALED(status)


def numbered(number: int) -> Events:
    count = 1 + number % 7
    columns = {"key": [str(number)] * count, "kind": ["click"] * count, "event_time": [number] * count}
    return Events.from_columns(columns)


def append_forever(path: Path, durability: str, acknowledge: int) -> None:
    log = EmbeddedLog(path, durability=durability)  # type: ignore[arg-type]
    while True:
        with log.transaction() as write:
            number = write.append("t", numbered(log.end("t")))
            write.commit_offset("reader", "elsewhere", 0, number + 1)
            write.put_state("last", struct.pack("<q", number) * 2000)
        os.write(acknowledge, struct.pack("<q", number))


@pytest.mark.parametrize("durability", ["process", "power"])
def test_after_kills_the_log_is_what_was_acknowledged(tmp_path: Path, durability: str) -> None:
    path, rng, acknowledged = tmp_path / "log.db", random.Random(7), -1
    for _ in range(12):
        reading, writing = os.pipe()
        child = born(lambda writing=writing: append_forever(path, durability, writing))
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            told = pipe.read(8 * rng.randint(1, 8))  # however slow the machine is, something was acknowledged
            assert killed(child, rng.uniform(0, 0.02))
            told += pipe.read()
        answers = [number for (number,) in struct.iter_unpack("<q", told)]
        assert answers == list(range(acknowledged + 1, acknowledged + 1 + len(answers)))
        acknowledged = answers[-1]
        with EmbeddedLog(path) as log:
            entries = log.read("t", 0, limit=10**6, max_bytes=1 << 30)
            assert [entry.offset for entry in entries] == list(range(len(entries)))
            assert acknowledged + 1 <= len(entries) <= acknowledged + 2  # one may be kept that nobody was told of
            assert [entry.first_row for entry in entries] == np.cumsum([0, *(e.rows for e in entries)])[:-1].tolist()
            assert [entry.events.column("key")[0].as_py() for entry in entries] == [str(e.offset) for e in entries]
            assert log.committed("reader", "elsewhere", 0) == len(entries)
            assert log.state("last") == struct.pack("<q", len(entries) - 1) * 2000
            acknowledged = len(entries) - 1
    assert acknowledged >= 12


def events_of_a_day(path: Path) -> None:
    rng, log = np.random.default_rng(3), EmbeddedLog(path, durability="process")
    for number in range(400):
        shown = np.full(10, number * SECOND) - rng.integers(0, 3 * SECOND, 10)
        asked, items = rng.integers(max(number - 40, 0), number + 1, 4), rng.integers(0, 10, 4)
        log.append("events", Events.from_columns({
            "key": [f"r{number}"] * 10 + [f"r{other}" for other in asked],
            "kind": ["impression"] * 10 + ["click"] * 4,
            "item": [f"i{item}" for item in range(10)] + [f"i{item}" for item in items],
            "event_time": [*shown.tolist(), *[number * SECOND] * 4],
        }))  # fmt: skip
    log.close_topic("events")


def join_slowly(folder: Path, examples: str) -> None:
    config = JoinConfig(window_s=30, lateness_s=3, memory_rows=100, spill=folder / f"{examples}-spill")
    events, out = EmbeddedLog(folder / "events.db"), EmbeddedLog(folder / f"{examples}.db", durability="process")
    join_log(events, "events", out, "examples", EventJoin(config), snapshot_every=30)


def example_bytes(path: Path) -> bytes:
    entries = EmbeddedLog(path).read("examples", 0, limit=10**6, max_bytes=1 << 30)
    columns = [(e.events.column("example_id"), e.events.column("label")) for e in entries]
    return b"".join(c.to_numpy(zero_copy_only=False).tobytes() for pair in columns for c in pair)


def test_a_killed_joiner_writes_the_example_log_of_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.data.join_log.GROUP_ENTRIES", 4)  # more instants to die at
    events_of_a_day(tmp_path / "events.db")
    join_slowly(tmp_path, "undisturbed")
    rng, kills = random.Random(11), 0
    for _ in range(15):
        if not killed(born(lambda: join_slowly(tmp_path, "killed")), rng.uniform(0.01, 0.08)):
            break
        kills += 1
    join_slowly(tmp_path, "killed")
    assert EmbeddedLog(tmp_path / "killed.db").is_closed("examples")
    assert kills >= 3
    assert example_bytes(tmp_path / "killed.db") == example_bytes(tmp_path / "undisturbed.db")
