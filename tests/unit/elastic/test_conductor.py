"""Who takes part when somebody dies while it waits, and errors that are one worker's own."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from headrace.elastic.conductor import TRIES, Conductor
from headrace.elastic.membership import Membership
from headrace.elastic.worker import Late, Worker
from headrace.errors import ConfigError, CorruptSnapshot, DataError, LeaseLost, NonFiniteLoss, StoreError
from headrace.runtime.controller import Controller, ControllerConfig
from headrace.runtime.solutions import Static
from headrace.runtime.work_queue import QueueConfig, ShardQueue


def conductor(folder: Path, *, workers: int, batch: int = 8) -> Conductor:
    """Return one over 40 rows, with table servers that are told in vain."""
    queue = ShardQueue(None, QueueConfig(shard_rows=10, shuffle=False, split_rows=10))
    queue.add("rows", 40)
    tables = SimpleNamespace(ready=True, committed=lambda *words: None, fence=lambda epoch: None)
    members = Membership(folder / "epoch.json", 2.0)
    return Conductor(queue, members, Controller(Static(), ControllerConfig(batch=batch)), tables, begin_with=workers)


def entered(to: Conductor, *names: str) -> dict[str, dict]:
    """Let workers enter, each in a thread; return their places."""
    places: dict[str, dict] = {}
    threads = [threading.Thread(target=lambda own=name: places.update({own: to.enter(own, {}, 0)})) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(places) == len(names)
    return places


def test_a_worker_that_died_while_it_waited_does_not_come_back_as_a_ghost(tmp_path) -> None:
    to, outcome = conductor(tmp_path, workers=2), []

    def enter() -> None:
        try:
            outcome.append(to.enter("worker-0", {}, 0))
        except LeaseLost as error:
            outcome.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    while "worker-0" not in to.members:
        time.sleep(0.001)
    to.left("worker-0", "its connection ended")
    thread.join(10)
    assert isinstance(outcome[0], LeaseLost)
    assert len(to.members) == 0
    places = entered(to, "worker-0", "worker-1")  # alive after all
    assert places["worker-0"]["members"] == ["worker-0", "worker-1"]


def test_a_worker_that_was_taken_for_dead_enters_again() -> None:
    answers = [LeaseLost("Epoch 1", got="epoch 2"), SimpleNamespace(fields={"end": True})]
    asked = []

    def call(method, fields):
        asked.append(method)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    worker = SimpleNamespace(
        agent=SimpleNamespace(epoch=0), ended=False, name="worker-0", me=SimpleNamespace(host="", generation=0),
        job=SimpleNamespace(reader=()), taken=0, call=call, _meeting=None,
    )  # fmt: skip
    Worker.run(worker)
    assert asked == ["enter", "enter"]


def test_an_error_of_one_worker_alone_is_tried_again_and_then_ends_the_run(tmp_path) -> None:
    to = conductor(tmp_path, workers=2)
    for turn in range(1, TRIES + 1):
        place = entered(to, "worker-0", "worker-1")["worker-1"]
        begun, step = time.monotonic(), place["committed"] + 1
        to.poison("worker-1", place["epoch"], step, [], "DataError: torn", own=True)  # the other one waits for it
        assert time.monotonic() - begun < 5
        assert (to.members.epoch > place["epoch"]) == (turn < TRIES)
    assert isinstance(to.failed, DataError)
    assert "torn" in str(to.failed)


def test_a_loss_that_is_everybodys_waits_for_those_whose_sums_were_taken(tmp_path) -> None:
    """A worker that was left out of the sums has not seen the loss: nobody waits for its word."""
    to = conductor(tmp_path, workers=2)
    place = entered(to, "worker-0", "worker-1")["worker-0"]
    to._step.chosen = ("worker-0",)
    late = threading.Timer(5.0, to.fail, [StoreError("The test", got="a wait")])
    late.start()
    to.poison("worker-0", place["epoch"], 1, [], "NaN")
    late.cancel()
    assert isinstance(to.failed, NonFiniteLoss)


def test_what_does_not_heal_ends_the_run_and_not_the_worker_that_asked(tmp_path, monkeypatch) -> None:
    to = conductor(tmp_path, workers=1)
    problems = [StoreError("Disk", got="full"), CorruptSnapshot("Log", got="damage")]

    def lease(holder):
        raise problems[0] if len(problems) == 1 else problems.pop(0)

    monkeypatch.setattr(to.queue, "lease", lease)
    with pytest.raises(CorruptSnapshot):
        to.enter("worker-0", {}, 0)
    assert isinstance(to.failed, CorruptSnapshot)


def test_more_workers_than_rows_end_the_run_with_a_reason(tmp_path) -> None:
    to = conductor(tmp_path, workers=3, batch=1)
    threading.Thread(target=lambda: _quietly(lambda: to.enter("worker-0", {}, 0)), daemon=True).start()
    while "worker-0" not in to.members:
        time.sleep(0.001)
    with pytest.raises(ConfigError, match="split"):
        to.enter("worker-1", {}, 0)
    assert isinstance(to.failed, ConfigError)


def _quietly(call) -> None:
    try:
        call()
    except ConfigError:
        pass


def test_a_worker_that_caught_up_brings_its_dense_part_as_well() -> None:
    saved = []
    worker = SimpleNamespace(
        step=SimpleNamespace(summer=None, plan=None, begin=lambda rows: None), taken=0, _plans={},
        learner=SimpleNamespace(follow=lambda rows: None), _save_if_due=saved.append,
    )  # fmt: skip
    Worker._catch_up(worker, Late([(4, 8, torch.zeros(1)), (5, 8, torch.zeros(1))]))
    assert saved == [4, 5]
