"""What the head answers when connections, servers, disks and orders go wrong: a whole head, without workers."""

from __future__ import annotations

import json
import time

import pytest

from headrace.elastic import head as module
from headrace.elastic import membership
from headrace.elastic.head_start import Gate, _listen, _note
from headrace.elastic.membership import Membership
from headrace.errors import ConfigError, CorruptSnapshot, StoreError, WorkerLost
from headrace.runtime.actions import MoveBuckets, Restart
from headrace.runtime.frames import Request
from headrace.runtime.solutions import BackupWorkers, Together, solution_json

from .cluster import Cluster, cluster

RESULT = {"figures": {"auc": 0.5}, "audit": {}, "steps": 3}


def asked(run: Cluster, method: str, session: dict | None = None, **fields):
    """Return what the head answers."""
    return run.head.methods()[method](Request(method, fields, {}, {} if session is None else session))


def until(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_the_end_of_an_older_connection_is_not_that_of_its_worker(tmp_path) -> None:
    with cluster(tmp_path, workers=1, heartbeat_s=0.01, silence_s=60.0) as run:
        run.head.members.join("worker-0", {}, time.monotonic())
        older, newer = {}, {}
        asked(run, "beat", older, worker="worker-0", epoch=-1)
        asked(run, "beat", newer, worker="worker-0", epoch=-1)
        run.head.closed(older)
        assert "worker-0" in run.head.members
        run.head.closed(newer)
        assert "worker-0" not in run.head.members


def test_an_order_is_told_until_it_is_said_to_be_done(tmp_path) -> None:
    with cluster(tmp_path) as run:
        run.head.controller._orders.append(Restart("worker-0"))
        run.head.controller._moving["worker-0"] = 0.0
        [first] = asked(run, "orders")["orders"]
        assert asked(run, "orders")["orders"] == [first]  # the first answer may have been lost
        assert first["order"] == {"action": "Restart", "node": "worker-0"}
        for _ in range(2):
            asked(run, "ordered", number=first["number"], worked=False)
        assert asked(run, "orders")["orders"] == []
        assert not run.head.controller._moving
        assert [event.kind for event in run.head.controller.monitor.events].count("Restart failed") == 1


def test_a_server_that_was_started_again_is_awaited_no_longer(tmp_path) -> None:
    with cluster(tmp_path) as run:
        with run.head.conductor.turn:
            run.head.controller._moving["server-0"] = 1.0
            run.head.controller._awaited.append(("server-0", 1.0))
        run.restart_server(0)
        assert not run.head.controller._moving


def test_nobody_hears_of_a_result_that_is_not_written(tmp_path, monkeypatch) -> None:
    with cluster(tmp_path) as run:
        write = module.write_whole

        def full(path, data, **more) -> None:
            if path.name == "result.json":
                raise OSError("no space left")
            write(path, data, **more)

        monkeypatch.setattr(module, "write_whole", full)
        with pytest.raises(StoreError, match="no space left"):
            asked(run, "result", **RESULT)
        assert not run.head.status()["finished"]
        monkeypatch.setattr(module, "write_whole", write)
        asked(run, "result", **RESULT)
        assert run.head.status()["finished"]
        assert json.loads((tmp_path / "result.json").read_text()) == RESULT


def test_a_head_that_is_started_after_the_end_knows_of_it(tmp_path) -> None:
    tmp_path.joinpath("result.json").write_text(json.dumps(RESULT))
    with cluster(tmp_path) as run:
        assert run.head.status()["finished"]
        assert asked(run, "farewell", worker="worker-0", step=3) == {"leader": False}


def test_the_status_waits_for_no_server(tmp_path, monkeypatch) -> None:
    with cluster(tmp_path) as run:
        until(lambda: run.head.status()["servers"])

        def silent(number):
            time.sleep(2)
            raise WorkerLost("server 0", got="silence")

        monkeypatch.setattr(run.head.servers.directory, "client", silent)
        begun = time.monotonic()
        [server] = run.head.status()["servers"]
        assert time.monotonic() - begun < 1
        assert (server["name"], server["state"]) == ("server-0", "serving")
        monkeypatch.setattr("headrace.elastic.server_side.PATIENCE_S", 0.0)
        until(lambda: run.head.status()["servers"][0]["state"] == "silent")


def test_servers_of_which_one_was_replaced_on_the_way_back_go_back_again(tmp_path, monkeypatch) -> None:
    with cluster(tmp_path, servers=2) as run:
        until(lambda: run.head.servers.ready)
        run.head.controller.shares = {"server-0": 0.2, "server-1": 0.8}
        restore, ready = run.head.recovery.restore, []

        def replaced_meanwhile(numbers):
            found = restore(numbers)
            address = run.servers[1][0].address
            run.head.servers.set_server(1, address, "another process")
            return found

        monkeypatch.setattr(run.head.recovery, "restore", replaced_meanwhile)
        monkeypatch.setattr(run.head, "_watch", lambda now, gap: None)
        time.sleep(0.2)
        run.head._go_back("a test")
        ready.append(run.head.servers.ready)
        monkeypatch.setattr(run.head.recovery, "restore", restore)
        run.head.meet_servers()
        ready.append(run.head.servers.ready)
        assert ready == [False, True]
        assert run.head.controller.shares == {}


def test_a_way_back_that_broke_off_is_gone_again_by_the_head_itself(tmp_path, monkeypatch) -> None:
    with cluster(tmp_path, servers=2) as run:
        until(lambda: run.head.servers.ready)
        restore, failures = run.head.recovery.restore, [WorkerLost("server 1", got="silence")]

        def broken(numbers):
            if failures:
                raise failures.pop()
            return restore(numbers)

        monkeypatch.setattr(run.head.recovery, "restore", broken)
        with pytest.raises(WorkerLost):
            run.head._go_back("a test")
        until(lambda: run.head.servers.ready)
        assert [event.kind for event in run.head.members.events].count("restored") == 1


def test_what_cannot_heal_ends_the_run(tmp_path, monkeypatch) -> None:
    with cluster(tmp_path) as run:
        until(lambda: run.head.servers.ready)

        def damaged(queue):
            raise CorruptSnapshot("Checkpoint", got="a wrong checksum")

        monkeypatch.setattr(run.head.servers, "begin", damaged)
        run.head.servers.ready = False
        with pytest.raises(CorruptSnapshot):
            run.head.meet_servers()
        assert "wrong checksum" in run.head.status()["error"]


def test_what_the_watch_meets_ends_the_run_and_not_the_head(tmp_path, monkeypatch) -> None:
    with cluster(tmp_path, heartbeat_s=0.01) as run:

        def nudge() -> None:
            raise ConfigError("Rows", got="too few")

        monkeypatch.setattr(run.head.conductor, "nudge", nudge)
        until(lambda: run.head.conductor.failed is not None)
        assert "too few" in run.head.status()["error"]


def test_decisions_of_the_head_before_are_shown(tmp_path) -> None:
    (tmp_path / "decisions.jsonl").write_text('{"action": "Add 1", "order": {}}\n{"cut{"action": "x"}\n')
    with cluster(tmp_path) as run:
        assert [one["action"] for one in run.head.status()["decisions"]] == ["Add 1"]
        (tmp_path / "decisions.jsonl").unlink()  # it is read once, not with every status
        assert len(run.head.status()["decisions"]) == 1


@pytest.mark.parametrize("settings", [
    {"solution": solution_json(BackupWorkers())}, {"solution": solution_json(Together(solutions=(BackupWorkers(),)))},
    {"workers": 3, "batch_rows": 2},
])  # fmt: skip
def test_a_run_that_cannot_work_is_refused_at_once(tmp_path, settings) -> None:
    with pytest.raises(ConfigError, match=r"sums|rows"):
        Cluster(module.ElasticConfig(recipe="headrace.elastic.toy:toy", folder=tmp_path, **settings))


def test_a_head_listens_to_other_machines_on_purpose_only(tmp_path) -> None:
    with pytest.raises(ConfigError, match="loopback"):
        _listen(tmp_path, "0.0.0.0", b"s" * 32, Gate(), remote=False)
    _listen(tmp_path, "0.0.0.0", b"s" * 32, Gate(), remote=True).close()
    (tmp_path / "head.json").write_text("old")
    _note(tmp_path / "head.json", {"address": "there:1"})
    assert json.loads((tmp_path / "head.json").read_text()) == {"address": "there:1"}
    assert [path.name for path in tmp_path.iterdir()] == ["head.json"]


@pytest.mark.parametrize("sync", [False, True])
def test_epochs_outlive_a_power_cut_where_the_queue_does(tmp_path, monkeypatch, sync) -> None:
    synced = []
    monkeypatch.setattr(membership, "write_whole", lambda path, data, sync: synced.append(sync))
    Membership(tmp_path / "epoch.json", 1.0, sync=sync)
    assert synced == [sync]


def test_moves_are_not_told_to_whoever_starts_processes(tmp_path) -> None:
    with cluster(tmp_path) as run:
        run.head.controller._orders.append(MoveBuckets({"server-0": 1.0}))
        assert asked(run, "orders")["orders"] == []
