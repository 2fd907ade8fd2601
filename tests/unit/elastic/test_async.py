"""Asynchronous training: what a push changes, who waits for whom, and that every row is learned exactly once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.elastic.async_commits import AsyncCommits
from headrace.elastic.config import ElasticConfig
from headrace.elastic.finish import audited
from headrace.elastic.membership import Membership
from headrace.elastic.sequence import Piece
from headrace.elastic.transactions import Transaction
from headrace.errors import ConfigError, LeaseLost, NonFiniteLoss, RowRuleMismatch, StoreError
from headrace.runtime.controller import Controller, ControllerConfig
from headrace.runtime.solutions import Static
from headrace.runtime.work_queue import QueueConfig, ShardQueue
from headrace.store import SGD

from .async_world import run_all, running


class Told:
    """Table servers that note what they are told."""

    def __init__(self) -> None:
        self.ready, self.steps, self.fences = True, [], []

    def took(self, step, transactions) -> None:
        self.steps.append((step, [one.text for one in transactions]))

    def fence(self, epoch: int, worker: str = "") -> None:
        self.fences.append((epoch, worker))


def commits(folder: Path, *, rows: int = 40, bound: int | None = None, queue: ShardQueue | None = None) -> AsyncCommits:
    if queue is None:
        queue = ShardQueue(folder / "queue.db", QueueConfig(shard_rows=10, shuffle=False), durability="process")
        queue.add("rows", rows)
    return AsyncCommits(queue, Membership(folder / "epoch.json", 2.0), Controller(Static(), ControllerConfig(batch=10)),
                        Told(), begin_with=2, max_staleness=bound)  # fmt: skip


def until(reached: Callable[[], object]) -> None:
    """Wait for what has to come, and a little for what must not come behind it."""
    deadline = time.monotonic() + 20.0
    while not reached() and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)


class Hand:
    """A worker by hand."""

    def __init__(self, to: AsyncCommits, name: str) -> None:
        self.to, self.name, self.number = to, name, 0
        self.place = to.enter(name, {}, 0)
        self.seen = self.place["committed"]

    def take(self) -> None:
        self.pieces = [Piece.from_fields(one) for one in self.to.work(self.name, self.place["epoch"])["pieces"]]
        self.number += 1

    def push(self):
        answer = self.to.push(Transaction(self.name, self.place["epoch"], self.number),
                              [one.contribution for one in self.pieces], self.seen, 0.01, 5)  # fmt: skip
        self.seen = answer["step"] or self.seen
        return answer


def test_a_push_counts_once_and_is_the_next_step(tmp_path) -> None:
    to = commits(tmp_path)
    one, other = Hand(to, "worker-0"), Hand(to, "worker-1")
    one.take()
    other.take()
    assert sum(piece.rows for piece in one.pieces) == 5  # half of the batch
    assert other.push() == {"step": 1, "staleness": 0}
    first = one.push()
    assert first == one.push() == {"step": 2, "staleness": 1}
    assert [step for step, _ in to.tables.steps] == [1, 2]
    assert (to.staleness, to.queue.counts().pending) == ({0: 1, 1: 1}, 10)


def test_the_rows_of_a_dead_worker_are_learned_by_others_and_it_may_not_push(tmp_path) -> None:
    to = commits(tmp_path, rows=10)
    one, other = Hand(to, "worker-0"), Hand(to, "worker-1")
    one.take()
    to.left("worker-0", "killed")
    assert to.tables.fences[-1] == (to.members.epoch, "worker-0")
    with pytest.raises(LeaseLost):
        one.push()
    while not to.work("worker-1", other.place["epoch"])["end"]:
        other.take()
        if other.pieces:
            other.push()
    assert to.queue.finished
    assert to.queue.counts().pending == 10


def test_a_head_that_starts_again_knows_the_pushes_that_count(tmp_path) -> None:
    to = commits(tmp_path)
    one = Hand(to, "worker-0")
    one.take()
    one.push()
    to.queue.shut()
    again = commits(tmp_path)
    assert again.committed == 1
    one.to = again
    assert one.push()["step"] == 1  # the answer had been lost on its way
    assert again.tables.steps == []
    one.number += 1
    with pytest.raises(LeaseLost):
        one.push()


def test_rows_that_went_to_somebody_else_make_a_push_void(tmp_path) -> None:
    to = commits(tmp_path)
    one = Hand(to, "worker-0")
    one.take()
    to.queue.expire(time.monotonic() + 1e6)  # its leases ran out while it was slow
    assert one.push() == {"step": None, "staleness": -1}
    one.take()
    assert one.push()["step"] == 1


def test_the_fast_wait_for_the_slow_as_far_as_the_bound_says(tmp_path) -> None:
    to = commits(tmp_path, rows=200, bound=2)
    slow, fast = Hand(to, "worker-0"), Hand(to, "worker-1")
    slow.take()
    done = []

    def run() -> None:
        for _ in range(4):
            fast.take()
            done.append(fast.push()["step"])

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: len(done) >= 2)
    assert done == [1, 2]  # a third would make the slow one's parameters too old
    assert slow.push() == {"step": 3, "staleness": 2}
    to.left("worker-0", "killed")  # nobody waits for the dead
    thread.join(5.0)
    assert done == [1, 2, 4, 5]


def test_three_workers_go_on_under_the_lowest_bound_whoever_is_fast(tmp_path) -> None:
    for bound in (0, 2):  # 0 counts as 2: the last of three workers lags two steps
        (tmp_path / str(bound)).mkdir()
        to = commits(tmp_path / str(bound), rows=200, bound=bound)
        hands = [Hand(to, f"worker-{number}") for number in range(3)]
        for one in hands:
            one.take()
        answers: list[dict] = []

        def run(one: Hand, to=to, answers=answers) -> None:
            for _ in range(4):
                answers.append(one.push())
                one.take()
            to.left(one.name, "it has done its part")

        threads = [threading.Thread(target=run, args=(hands[0],), daemon=True)]
        threads[0].start()
        until(lambda answers=answers: answers)
        assert len(answers) == 1  # a second one, and the last of the others would lag three steps
        threads += [threading.Thread(target=run, args=(one,), daemon=True) for one in hands[1:]]
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join(5.0)
            assert not thread.is_alive()
        assert sorted(answer["step"] for answer in answers) == list(range(1, 13))
        assert max(to.staleness) == 2


def test_a_bound_that_no_order_can_keep_is_refused(tmp_path) -> None:
    for bound in (None, 2):
        ElasticConfig(recipe="a:b", folder=tmp_path, workers=3, mode="async", max_staleness=bound)
    with pytest.raises(ConfigError, match="max_staleness"):
        ElasticConfig(recipe="a:b", folder=tmp_path, workers=3, mode="async", max_staleness=1)


def test_nobody_waits_for_a_worker_without_rows(tmp_path) -> None:
    to = commits(tmp_path, rows=20, bound=1)
    busy, idle = Hand(to, "worker-0"), Hand(to, "worker-1")
    answers = []

    def run() -> None:
        for _ in range(4):
            busy.take()
            answers.append(busy.push())

    to._pieces = lambda worker, wanted, usual=to._pieces: [] if worker == "worker-1" else usual(worker, wanted)
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    until(lambda: answers)
    assert [answer["step"] for answer in answers] == [1]  # the other one may be computing
    idle.take()
    thread.join(5.0)
    assert [answer["step"] for answer in answers] == [1, 2, 3, 4]


def test_a_push_asked_twice_while_it_waits_counts_once_and_both_hear_so(tmp_path) -> None:
    to = commits(tmp_path, rows=200, bound=1)
    slow, fast = Hand(to, "worker-0"), Hand(to, "worker-1")
    slow.take()
    fast.take()
    fast.push()
    fast.take()
    answers: list[dict] = []
    threads = [threading.Thread(target=lambda: answers.append(fast.push()), daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)  # neither may have come
    assert answers == []
    slow.push()
    for thread in threads:
        thread.join(5.0)
    assert [answer["step"] for answer in answers] == [3, 3]
    assert len(to.tables.steps) == 3


def test_a_server_that_cannot_take_a_step_ends_the_run(tmp_path) -> None:
    to = commits(tmp_path)
    one = Hand(to, "worker-0")
    one.take()

    def took(step, transactions) -> None:
        raise StoreError("Table server 0", got="half a step")

    to.tables.took = took
    assert one.push()["step"] == 1  # it is in the queue
    with pytest.raises(StoreError, match="half a step"):
        one.take()
    assert to.failed is not None


def test_an_error_that_is_told_twice_counts_once(tmp_path) -> None:
    to = commits(tmp_path)
    one = Hand(to, "worker-0")
    one.take()
    piece = one.pieces[0]
    bad = [(piece.grant.shard, piece.grant.fence, piece.start, "bad")]
    for step in (1, 2):
        for _ in range(3):
            to.poison("worker-0", one.place["epoch"], step, [], "NaN")
    for _ in range(2):  # its answer was lost
        to.poison("worker-0", one.place["epoch"], 3, bad, "bad")
    assert [row.error for row in to.queue.quarantined()] == ["bad"]
    assert to.failed is None


def test_rows_at_fault_are_quarantined_and_an_error_without_a_culprit_ends_the_run(tmp_path) -> None:
    to = commits(tmp_path)
    one = Hand(to, "worker-0")
    one.take()
    piece = one.pieces[0]
    to.poison("worker-0", one.place["epoch"], 1, [(piece.grant.shard, piece.grant.fence, piece.start, "bad")], "bad")
    assert [row.error for row in to.queue.quarantined()] == ["bad"]
    for step in (2, 3, 4):
        to.poison("worker-0", one.place["epoch"], step, [], "NaN")
    with pytest.raises(NonFiniteLoss, match="No single row"):
        one.take()


def test_after_going_back_everybody_enters_again(tmp_path) -> None:
    to = commits(tmp_path)
    one = Hand(to, "worker-0")
    one.take()
    one.push()
    to.go_back(0, {}, {})
    with pytest.raises(LeaseLost):
        one.take()
    assert not to.homeless()
    assert Hand(to, "worker-0").place["committed"] == 0


def test_two_workers_learn_every_example_once(tmp_path) -> None:
    with running(tmp_path, ["worker-0", "worker-1"], servers=2) as (head, workers):
        run_all(workers.values())
        found = audited(workers["worker-0"])
        assert (found["lost"], found["doubled"], found["learned"]) == (0, 0, found["expected"])
        assert head.conductor.committed == sum(head.conductor.staleness.values())
        dense = [torch.cat([p.detach().reshape(-1) for p in worker.learner.model.parameters()])
                 for worker in workers.values()]  # fmt: skip
        assert torch.equal(*dense)
        assert float(dense[0].abs().sum()) > 0


def test_the_pushes_of_a_worker_that_dies_count_once_or_not_at_all(tmp_path) -> None:
    with running(tmp_path, ["worker-0", "worker-1", "worker-2"], servers=2, silence_s=0.5) as (head, workers):
        victim, deaths = workers["worker-2"], []
        usual = victim._push

        def push(*arguments):
            if len(deaths) == 0 and victim._pushes == 3:
                deaths.append("prepared, and never heard of again")
                victim.agent.stop()
                victim._connection.close()
            return usual(*arguments)

        victim.own._push = push
        run_all(workers.values())
        found = audited(workers["worker-0"])
        assert deaths
        assert (found["lost"], found["doubled"], found["learned"]) == (0, 0, found["expected"])
        assert np.isfinite(float(workers["worker-0"].learner.model.state_dict()[_first(workers)].sum()))
        assert sum(one["prepared"] for one in head.servers.stats()) == 0


def _first(workers) -> str:
    return next(iter(workers["worker-0"].learner.model.state_dict()))


def test_one_asynchronous_worker_is_never_stale(tmp_path) -> None:
    with running(tmp_path, ["worker-0"]) as (head, workers):
        run_all(workers.values())
        assert set(head.conductor.staleness) == {0}


def test_every_row_weighs_the_same_in_whatever_push_it_comes(tmp_path) -> None:
    """Two workers with a batch of ten: who takes two rows moves the weights by two fifths of what a share would."""
    to = commits(tmp_path)
    one, _ = Hand(to, "worker-0"), Hand(to, "worker-1")
    to.controller.plan(0)
    to.controller._put(0, replace(to.controller.plan(0), sizes={"worker-0": 2, "worker-1": 8}))
    told = to.work("worker-0", one.place["epoch"])
    assert (sum(Piece.from_fields(piece).rows for piece in told["pieces"]), told["usual"]) == (2, 5)
    with running(tmp_path / "run", ["worker-0"]) as (_, workers):
        worker, found = workers["worker-0"], {}
        batch = next(iter(worker.job.splits.train.batches(2, 1)))
        for usual in (0, 5):
            worker.own.usual = usual
            worker.learner._gradients(batch, worker.own.examples(batch))
            found[usual] = torch.cat([p.grad.reshape(-1) for p in worker.learner.model.parameters()])
        run_all([worker])
        assert worker.own.usual == worker.config.learned().batch_rows  # its share is all of it
    assert float(found[0].abs().max()) > 0
    torch.testing.assert_close(found[5], found[0] * 2 / 5)


def test_a_worker_with_other_tables_than_the_servers_does_not_learn(tmp_path) -> None:
    with running(tmp_path, ["worker-0"]) as (head, workers):
        remote = workers["worker-0"].remote
        name, config = next(iter(remote.configs.items()))
        remote.configs[name] = replace(config, rule=SGD(lr=77.0))
        with pytest.raises(RowRuleMismatch, match=name):
            workers["worker-0"].run()
        assert head.conductor.committed == 0
