"""A run from the outside: its end, orders, addresses of servers, and folders that were used before."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest

from headrace.elastic.config import ElasticConfig
from headrace.elastic.run_local import HEAD, _Run, run_elastic, steps_of
from headrace.errors import ClusterError, ConfigError, WorkerLost
from headrace.runtime.actions import Restart, action_json
from headrace.runtime.launch import Exit

RESULT = {"figures": {"auc": 0.75}, "audit": {"lost": 0, "doubled": 0, "unknown": 0}, "steps": 7}


class Still:
    """A launcher whose processes do nothing; tests say when one ends."""

    def __init__(self) -> None:
        self.started, self.ended, self.stopped = [], [], []

    def start(self, command) -> None:
        self.started.append(command.name)

    def exits(self, timeout_s: float = 0.0):
        found, self.ended = self.ended, []
        return found

    def address(self, name: str, timeout_s: float = 60.0) -> str:
        return "127.0.0.1:1"

    def pid(self, name: str):
        return None

    def stop(self, name: str, timeout_s: float = 10.0) -> None:
        self.stopped.append(name)

    def tail(self, name: str, lines: int = 15) -> str:
        return "its last line"

    def close(self) -> None: ...


def config(folder, **settings) -> ElasticConfig:
    given = {"recipe": "headrace.elastic.toy:toy", "arguments": {"rows": 100}} | settings
    return ElasticConfig(folder=folder, **given)


@pytest.fixture
def run(tmp_path):
    """Return a run whose processes are still."""
    made = _Run(config(tmp_path), Still(), None)
    made.crew.start()
    yield made
    made.close()


def written(run: _Run, **known) -> None:
    folder = run.config.folder / "status"
    folder.mkdir(exist_ok=True)
    (folder / "cluster.json").write_text(json.dumps(known))


def unreachable(*words, **more):
    raise WorkerLost("head", got="no answer")


def test_a_head_that_has_ended_before_it_was_asked_has_said_how(run, monkeypatch) -> None:
    monkeypatch.setattr(run, "call", unreachable)
    monkeypatch.setattr(run, "_tell_servers", lambda: None)
    written(run, finished=True, started=time.time(), step=7, shards={"quarantined": 2})
    (run.config.folder / "result.json").write_text(json.dumps(RESULT))
    run.launcher.ended = [Exit(HEAD, 0, time.monotonic())]
    asked = []
    report = run.follow(lambda: asked.append(1) or len(asked) > 100, None)
    assert report.figures["auc"].value == 0.75
    assert report.figures["quarantined"].value == 2
    assert not report.notes


def test_what_an_earlier_start_left_behind_is_not_the_end_of_this_one(run) -> None:
    written(run, finished=True, started=time.time() - 60.0, step=99)
    assert run._last_word({"step": 3}) == {"step": 3}  # the head is being started again
    run.launcher.ended = [Exit(HEAD, 0, time.monotonic())]
    run.crew.poll()
    with pytest.raises(ClusterError, match="its last line"):
        run._last_word({"step": 3})
    (run.config.folder / "result.json").write_text(json.dumps(RESULT))
    assert run._last_word({"step": 3}) == {"step": 3, "finished": True}


def test_the_error_that_a_head_has_written_is_raised(run, monkeypatch) -> None:
    monkeypatch.setattr(run, "call", unreachable)
    monkeypatch.setattr(run, "_tell_servers", lambda: None)
    written(run, finished=False, started=time.time(), error="a table that is too large")
    run.launcher.ended = [Exit(HEAD, 0, time.monotonic())]
    with pytest.raises(ClusterError, match="too large"):
        run.follow(None, None)


def test_servers_are_told_whatever_went_wrong_before(run, monkeypatch) -> None:
    told, problems = [], [ClusterError("Checkpoint", got="torn"), RuntimeError("changed size"), WorkerLost("head")]

    def tell(method, fields) -> None:
        if problems:
            raise problems.pop()
        told.append((method, fields["number"]))
        run._closing.set()

    monkeypatch.setattr(run, "_call_aside", tell)
    run._tell_servers()
    assert told == [("set_server", 0)]


def test_an_order_is_carried_out_once_however_often_it_is_told(run, monkeypatch) -> None:
    orders = {"orders": [{"number": "9.1", "order": action_json(Restart("worker-1"))}]}
    said = []

    def call(method, fields=None, **more):
        if method == "orders":
            return orders
        said.append(fields)
        if len(said) == 1:
            raise WorkerLost("head", got="no answer")
        return {}

    monkeypatch.setattr(run, "call", call)
    with pytest.raises(WorkerLost):
        run._carry_out()
    run._carry_out()
    assert run.launcher.stopped == ["worker-1"]
    assert said == [{"number": "9.1", "worked": True}] * 2


def test_steps_are_those_of_this_start_and_torn_lines_are_left_out(tmp_path) -> None:
    own = config(tmp_path)
    lines = [json.dumps({"step": step, "rows": 10, "monotonic": 5.0 * step}) for step in range(1, 5)]
    (tmp_path / "steps.jsonl").write_text(f"{lines[0]}\n{lines[1]}\n" + '{"step": 3, {"step": 3}\n')
    run = _Run(own, Still(), None)
    with (tmp_path / "steps.jsonl").open("a") as file:
        file.write(f"{lines[2]}\n{lines[3]}\n" + '{"step": 5, "ro')
    assert [line["step"] for line in steps_of(own)] == [1, 2, 3, 4]
    report = run._report({}, whole=False)
    assert (report.figures["steps"].value, report.figures["job_s"].value) == (2, 5.0)
    run.close()


def test_a_run_that_has_ended_is_not_begun_again(tmp_path) -> None:
    own, launcher = config(tmp_path), Still()
    own.write()
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    report = run_elastic(config(tmp_path, workers=4), launcher=launcher)
    assert (report.figures["auc"].value, report.figures["steps"].value) == (0.75, 7)
    assert report.settings["audit"]["lost"] == 0
    assert "ended before" in report.notes[0]
    for other in ({"arguments": {"rows": 200}}, {"seed": 3}, {"epochs": 2}):
        with pytest.raises(ConfigError, match="another run"):
            run_elastic(config(tmp_path, **other), launcher=launcher)
    assert launcher.started == []


def test_what_cannot_work_is_refused_before_anything_is_started(tmp_path) -> None:
    launcher = Still()
    with pytest.raises(ConfigError, match="batch_rows"):
        run_elastic(config(tmp_path, batch_rows=1), launcher=launcher)
    assert launcher.started == []
    with pytest.raises(ConfigError, match="batch_rows"):
        config(tmp_path).check(SimpleNamespace(batch_rows=1))
