"""`kill -9` of the work queue at random instants, and its log cut off at every place: nothing is lost, nothing half.

The same scripted operations run in a child that is killed, and beside it in memory: after the kill the log must hold
exactly the operations that were acknowledged, and perhaps the one that nobody was told of.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import struct
import time
from pathlib import Path

import pytest

from headrace.runtime import Contribution, QueueConfig, ShardQueue, ledger_state
from headrace.runtime import ledger_kept as kept
from headrace.runtime.ledger_state import capture, load

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
CONFIG = QueueConfig(shard_rows=16, seed=2, retries=2, retry_s=0.0, lease_s=5.0, split_rows=2, epochs=200,
                     quarantine_limit=10**9)  # fmt: skip


@pytest.fixture(autouse=True)
def _clock_stands_still(monkeypatch) -> None:
    """So that a restore raises the fences to the same number in the child and beside it."""
    monkeypatch.setattr(ledger_state, "time_ns", lambda: 0)


def still() -> float:
    return 0.0


def act(queue: ShardQueue, number: int) -> None:
    """Do operation `number`: what it is depends on the number and on the queue's state only."""
    draw = random.Random(number)
    worker, held = f"w{draw.randrange(4)}", queue.held()
    kind = draw.choices(["lease", "commit", "fail", "leave", "expire", "extend", "saved", "restore", "both"],
                        [6, 12, 1, 1, 0.5, 2, 1, 0.3, 2])[0]  # fmt: skip
    grants = draw.sample(held, min(len(held), 4))
    if kind == "commit" and grants:
        parts = []
        for grant in grants:
            start, stop = grant.ranges[0]
            parts.append(Contribution(grant.shard, grant.fence, start, min(stop, start + draw.randint(1, 5))))
        queue.commit(number, parts, note=f"step {number}")
    elif kind == "fail" and grants:
        queue.fail(grants[0], grants[0].ranges[0][0] if draw.random() < 0.5 else None, "bad")
    elif kind == "leave":
        queue.leave(worker)
    elif kind == "expire":
        queue.expire(100.0)
    elif kind == "extend":
        queue.extend("p", number)
    elif kind == "saved":
        queue.saved(queue.state())
    elif kind == "restore":
        queue.restore(queue.state())
    elif kind == "both":
        with queue.together():
            queue.lease(worker)
            queue.lease(worker)
    else:
        queue.lease(worker)


def begun(path: Path | None) -> ShardQueue:
    return ShardQueue(path, CONFIG, clock=still, durability="process")


def as_text(queue: ShardQueue) -> str:
    return json.dumps(capture(queue._ledger), sort_keys=True)


def opened_anew(queue: ShardQueue) -> ShardQueue:
    """The queue in memory as it is after its log was read: free parts of one shard that lay apart are one part."""
    again = begun(None)
    again._kept.ledger = load(json.loads(json.dumps(capture(queue._ledger))), CONFIG)
    again._rebuild(again._kept.ledger)
    again._kept.steps = dict(queue._kept.steps)
    return again


def work_until_killed(path: Path, number: int, acknowledge: int) -> None:
    queue = begun(path)
    while True:
        act(queue, number)
        os.write(acknowledge, struct.pack("<q", number))
        number += 1


def killed_run(path: Path, first: int, after_s: float) -> int:
    """Let a child do operations from `first` on, kill it, and return the last one that it acknowledged."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work_until_killed(path, first, writing)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read(8 * 3)  # however slow the machine is, something was acknowledged
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)
        told += pipe.read()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the child failed on its own"
    numbers = [number for (number,) in struct.iter_unpack("<q", told[: len(told) // 8 * 8])]
    assert numbers == list(range(first, first + len(numbers)))
    return numbers[-1]


def kill_again_and_again(path: Path, kills: int) -> int:
    rng, reference, number = random.Random(5), begun(None), 1
    begun(path).add("a", 1000)
    reference.add("a", 1000)
    for _ in range(kills):
        last = killed_run(path, number, rng.uniform(0, 0.03))
        queue = begun(path)
        for one in range(number, last + 1):
            act(reference, one)
        number = last + 1
        found = as_text(queue)
        if found != as_text(reference):  # one more may be kept that nobody was told of
            act(reference, number)
            number += 1
        assert found == as_text(reference), f"after {number} operations"
        assert queue.decided(0) == reference.decided(0)
        counts = queue.counts()
        assert counts == reference.counts()
        assert counts.todo + counts.doing + counts.pending + counts.done + counts.quarantined == counts.total
        queue.shut()
        reference = opened_anew(reference)
    return number


def test_after_kills_the_queue_is_what_was_acknowledged(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(kept, "SNAPSHOT_RECORDS", 150)
    assert kill_again_and_again(tmp_path / "q.db", kills=10) > 30


@pytest.mark.slow
def test_after_many_kills_the_queue_is_what_was_acknowledged(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(kept, "SNAPSHOT_RECORDS", 150)
    assert kill_again_and_again(tmp_path / "q.db", kills=200) > 600


def cut_off(tmp_path: Path, operations: int, stride: int) -> tuple[int, int]:
    """Cut the log's newest file off at every `stride`-th byte; return how many cuts and how many moments were seen."""
    queue, reference = begun(tmp_path / "q.db"), begun(None)
    (tmp_path / "cut").mkdir()
    moments = {as_text(reference): 0}
    for one in (queue, reference):
        one.add("a", 100)
    moments[as_text(reference)] = 1
    for number in range(1, operations):
        act(queue, number)
        act(reference, number)
        moments[as_text(reference)] = number + 1
    whole = (tmp_path / "q.db-wal").read_bytes()
    seen, cuts, rng = [], 0, random.Random(1)
    for size in [*range(0, len(whole), stride), len(whole)]:
        size = min(len(whole), size + (rng.randrange(stride) if 0 < size < len(whole) else 0))
        shutil.copy(tmp_path / "q.db", tmp_path / "cut" / "q.db")
        (tmp_path / "cut" / "q.db-wal").write_bytes(whole[:size])
        (tmp_path / "cut" / "q.db-shm").unlink(missing_ok=True)
        found = begun(tmp_path / "cut" / "q.db")
        moment = moments.get(as_text(found))
        assert moment is not None, f"after {size} of {len(whole)} bytes the queue is at no moment that ever was"
        seen.append(moment)
        found.shut()
        cuts += 1
    assert seen == sorted(seen), "more bytes, a later moment"
    assert seen[-1] == max(moments.values())
    return cuts, len(set(seen))


def test_a_log_cut_off_anywhere_is_the_queue_at_an_earlier_moment(tmp_path) -> None:
    cuts, moments = cut_off(tmp_path, operations=50, stride=5000)
    assert cuts > 30
    assert moments > 20


@pytest.mark.slow
def test_a_log_cut_off_at_many_more_places(tmp_path) -> None:
    cuts, moments = cut_off(tmp_path, operations=60, stride=331)
    assert cuts > 700
    assert moments > 30
