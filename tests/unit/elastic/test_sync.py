"""What a synchronous run learns: the same whatever the number of workers, their sizes, deaths and comings."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from headrace.elastic.config import ElasticConfig
from headrace.elastic.job import SOURCE, Job
from headrace.elastic.sequence import RowSequence
from headrace.errors import DataError, NonFiniteLoss
from headrace.learn.ledger import LEDGER, open_ledger, record
from headrace.runtime.actions import AdjustBatch, AdjustRate, Decision
from headrace.runtime.work_queue import ShardQueue
from headrace.store import open_table

from .cluster import cluster, learned

NAMES = [f"worker-{number}" for number in range(4)]


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Compare what two runs have learned, up to the rounding of sums."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        if value.dtype == torch.float32:
            np.testing.assert_allclose(other[name].numpy(), value.numpy(), rtol=2e-4, atol=2e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(other[name].numpy(), value.numpy(), err_msg=name)


def until(condition, seconds: float = 20.0) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict[str, torch.Tensor]:
    """Return what one plain learner learns from the same batches, with tables of its own."""
    config = ElasticConfig(recipe="headrace.elastic.toy:toy", arguments={"rows": 2000},
                           folder=tmp_path_factory.mktemp("plain"))  # fmt: skip
    job = Job(config)
    tables = {table.name: open_table(table) for table in job.tables if table.name != LEDGER}
    learner, ledger = job.learner(tables), open_ledger()
    queue = ShardQueue(None, job.queue_config())
    queue.add(SOURCE, len(job.reader))
    rows = RowSequence(queue)
    rows.begin("one")
    step = 1
    while (work := rows.take(step, {"one": job.fit.batch_rows})) is not None:
        batch = job.reader.read(work.parts["one"])
        learner.learn(batch)
        record(ledger, batch)
        queue.commit(step, work.contributions(["one"]))
        step += 1
    found = {f"dense/{name}": value.detach().clone() for name, value in learner.model.state_dict().items()}
    for name, table in {**tables, LEDGER: ledger}.items():
        found |= {f"{name}/ids": table.rows().ids, f"{name}/rows": table.rows().rows}
    return found


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("sums", ["gloo", "head"])
def test_any_number_of_workers_learns_what_one_plain_learner_learns(plain, tmp_path, workers, sums) -> None:
    close(plain, learned(tmp_path, workers, sums=sums, servers=2))


def test_the_case_is_not_trivial(plain) -> None:
    assert plain[f"{LEDGER}/rows"].unique().tolist() == [1.0]
    assert len(plain[f"{LEDGER}/ids"]) == 1600
    assert float(plain["user/rows"].abs().max()) > 0.05


def test_sums_at_the_head_are_the_same_bits_again(tmp_path) -> None:
    one, other = (learned(tmp_path / str(turn), 3, sums="head") for turn in range(2))
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


class Scripted:
    """A solution that does what it is told, once each."""

    def __init__(self, *actions) -> None:
        self.actions = list(actions)

    def decide(self, view):
        """Return the next action."""
        return [Decision(self.actions.pop(0), "told so", {})] if self.actions else []


@pytest.mark.parametrize("sums", ["gloo", "head"])
def test_other_sizes_learn_the_same_and_hold_from_the_next_step(plain, tmp_path, sums) -> None:
    with cluster(tmp_path, workers=2, sums=sums) as run:
        run.head.controller.solution = Scripted(
            AdjustBatch({"worker-0": 50, "worker-1": 14}, {"worker-0": 3}),
            AdjustBatch({"worker-0": 1, "worker-1": 63}), AdjustBatch({"worker-0": 64, "worker-1": 0}),
        )  # fmt: skip
        run.start(*NAMES[:2])
        run.wait()
        made = list(run.head.controller.decisions)
        assert [decision.agree_at for decision in made] == [decision.step + 1 for decision in made] == [2, 3, 4]
        close(plain, run.weights())


def test_a_rate_is_changed_for_all_at_one_step(plain, tmp_path) -> None:
    with cluster(tmp_path, workers=2, arguments={"rows": 600}) as run:
        run.head.controller.solution = Scripted(AdjustRate(0.5))
        run.start(*NAMES[:2])
        run.wait()
        rates = {worker.learner.optimizer.param_groups[0]["lr"] for worker in run.workers.values()}
    assert rates == {0.005}


@pytest.mark.parametrize("sums", ["gloo", "head"])
@pytest.mark.parametrize("victim", ["worker-0", "worker-2"])
def test_the_death_of_a_worker_changes_nothing(plain, tmp_path, victim, sums) -> None:
    with cluster(tmp_path, workers=3, sums=sums) as run:
        run.start(*NAMES[:3])
        until(lambda: run.head.conductor.committed >= 8)
        run.die(victim)
        run.wait()
        close(plain, run.weights())
        assert run.head.members.epoch >= 5
        assert run.head.queue.counts().quarantined == 0


def test_workers_come_while_others_learn(plain, tmp_path) -> None:
    with cluster(tmp_path, workers=1) as run:
        run.start(NAMES[0])
        until(lambda: run.head.conductor.committed >= 4)
        run.start(NAMES[1])
        until(lambda: run.workers["worker-1"].taken >= 7)
        run.start(NAMES[2])
        run.wait()
        close(plain, run.weights())
        states = [worker.learner.model.state_dict() for worker in run.workers.values()]
        for state in states[1:]:
            assert all(torch.equal(value, state[name]) for name, value in states[0].items())


def test_rows_that_cannot_be_learned_are_quarantined_and_nothing_else(tmp_path) -> None:
    with cluster(tmp_path, workers=2, arguments={"rows": 600, "bad": [3, 200, 201]}) as run:
        run.start(*NAMES[:2])
        run.wait()
        given_up = run.head.queue.quarantined()
        assert sorted(row.row for row in given_up) == [3, 200, 201]
        assert all("NaN" in row.error or "loss" in row.error for row in given_up)
        ids = run.weights()[f"{LEDGER}/ids"].tolist()
        assert sorted(set(range(480)) - set(ids)) == [3, 200, 201]


def test_a_loss_that_no_row_is_at_fault_for_ends_the_run(tmp_path) -> None:
    with cluster(tmp_path, workers=2) as run:
        run.start(*NAMES[:2])
        until(lambda: run.head.conductor.committed >= 2)
        for worker in run.workers.values():
            with torch.no_grad():
                next(worker.learner.model.parameters()).fill_(float("nan"))
        with pytest.raises(NonFiniteLoss):
            run.wait()


def test_a_step_does_not_wait_for_backup_workers(tmp_path) -> None:
    from headrace.runtime.solutions import BackupWorkers, solution_json

    with cluster(tmp_path, workers=3, sums="head", solution=solution_json(BackupWorkers(count=1))) as run:
        run.start(*NAMES[:3])
        until(lambda: len(run.workers) == 3)
        run.workers["worker-1"].step.slow = lambda rows: 0.03
        run.wait()
        weights = run.weights()
        left_out = [result for result in run.head.conductor.results.values() if len(result.workers) < 3]
        assert left_out
        assert weights[f"{LEDGER}/rows"].unique().tolist() == [1.0]
        assert len(weights[f"{LEDGER}/ids"]) == 1600
        states = [worker.learner.model.state_dict() for worker in run.workers.values()]
        for state in states[1:]:
            assert all(torch.equal(value, state[name]) for name, value in states[0].items())


def test_a_silent_worker_is_left_behind_and_comes_back(plain, tmp_path) -> None:
    with cluster(tmp_path, workers=2, heartbeat_s=0.05, silence_s=0.3) as run:
        run.start(*NAMES[:2])
        until(lambda: run.head.conductor.committed >= 5)
        gate, worker = threading.Event(), run.workers["worker-1"]
        worker.step.slow = lambda rows: gate.wait(20) * 0.0
        worker.agent._numbers = lambda: gate.wait(20) and {}  # as if the whole process was frozen
        until(lambda: "worker-1" not in run.head.members)
        until(lambda: run.head.conductor.committed >= 10)
        worker.step.slow = lambda rows: 0.0
        worker.agent._numbers = worker._numbers
        gate.set()
        run.wait()
        close(plain, run.weights())


def test_the_death_of_a_table_server_takes_everybody_back_to_a_checkpoint(plain, tmp_path) -> None:
    with cluster(tmp_path, workers=2, servers=2, checkpoint_every=5) as run:
        run.start(*NAMES[:2])
        until(lambda: run.head.recovery.saved >= 5)
        run.restart_server(1)
        run.wait()
        close(plain, run.weights())
        assert any(event.kind == "restored" for event in run.head.members.events)


def test_without_a_checkpoint_the_death_of_a_table_server_means_beginning_anew(plain, tmp_path) -> None:
    with cluster(tmp_path, workers=2, servers=2) as run:
        run.start(*NAMES[:2])
        until(lambda: run.head.conductor.committed >= 4)
        run.restart_server(0)
        run.wait()
        close(plain, run.weights())


def test_a_run_whose_workers_all_died_goes_on_from_a_checkpoint(plain, tmp_path) -> None:
    with cluster(tmp_path, workers=2, checkpoint_every=4) as run:
        run.start(*NAMES[:2])
        until(lambda: run.head.recovery.saved >= 4)
        for name in NAMES[:2]:
            run.die(name)
        run.start("worker-5", "worker-6")
        run.wait()
        close(plain, run.weights())


def test_another_head_goes_on_where_the_first_one_died(plain, tmp_path) -> None:
    with cluster(tmp_path, workers=2) as run:
        run.start(*NAMES[:2])
        until(lambda: run.head.conductor.committed >= 6)
        run.restart_head()
        run.wait()
        close(plain, run.weights())


@pytest.mark.parametrize("sums", ["gloo", "head"])
def test_what_one_worker_alone_cannot_read_holds_up_nobody(plain, tmp_path, sums) -> None:
    with cluster(tmp_path, workers=2, sums=sums) as run:
        run.start(*NAMES[:2])
        reader = run.workers["worker-1"].job.reader
        read, failures = reader.read, [DataError("Rows", got="a torn file")] * 2

        def torn(pieces):
            if threading.current_thread().name == "rows" and failures and run.head.conductor.committed >= 3:
                raise failures.pop()
            return read(pieces)

        reader.read = torn
        run.wait(20.0)
        close(plain, run.weights())
        assert not failures
        assert run.head.queue.counts().quarantined == 0


def test_a_gradient_that_the_tables_refuse_is_its_workers_own(plain, tmp_path) -> None:
    """The others have summed and voted: they wait for a worker whose part was refused."""
    with cluster(tmp_path, workers=2) as run:
        run.start(*NAMES[:2])
        remote = run.workers["worker-1"].remote
        prepare, failures = remote.prepare, [NonFiniteLoss("Table 'user'", got="a gradient that is too large")] * 2

        def refused(transaction, part) -> None:
            if failures and run.head.conductor.committed >= 3:
                raise failures.pop()
            prepare(transaction, part)

        remote.prepare = refused
        run.wait(20.0)
        close(plain, run.weights())
        assert not failures
