"""`headrace inspect cluster`: what it shows of a run, from its folder and from its head."""

from __future__ import annotations

import json
import time

import pytest
from rich.console import Console

from headrace.cli import cluster_view, inspect_cluster
from headrace.cli.cluster_view import action_text, draw_cluster, shard_bar
from headrace.cli.main import dispatch
from headrace.errors import ConfigError, DataError
from headrace.online import RunFolder
from headrace.runtime.wire import Server

STATUS = {
    "name": "ranker", "mode": "sync", "step": 120, "steps": 400, "epoch": 7, "finished": False,
    "rows": {"committed": 61440, "all": 204800},
    "workers": [
        {"name": "worker-0", "state": "working", "rows": 30000, "batch_rows": 300, "rows_per_s": 2500.0},
        {"name": "worker-1", "state": "slow", "rows": 31440, "batch_rows": 212, "step_s": 0.1234, "generation": 2},
    ],
    "servers": [{"name": "server-0", "state": "working", "buckets": 2048,
                 "tables": {"user": {"rows": 90000, "bytes": 2 << 20}, "item": {"rows": 12, "bytes": 1 << 20}}}],
    "shards": {"todo": 30, "doing": 2, "done": 14, "quarantined": 1, "dropped": 0, "total": 47, "leases": 4},
    "quarantined": [{"source": "day-1.csv", "row": 17, "error": "DataError: no label"}],
    "lag": {"clicks/0": 1200},
    "decisions": [
        {"order": {"action": "Nothing", "reason": "all is well"}, "step": 90, "reason": "nobody is slow"},
        {"order": {"action": "AdjustBatch", "sizes": {"worker-0": 300, "worker-1": 212}}, "step": 118,
         "reason": "worker-1 takes 1.4 times the mean", "numbers": {}},
    ],
}  # fmt: skip


def text_of(status, **options) -> str:
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(draw_cluster(status, **options))
    return console.export_text()


def test_everything_is_on_the_panel() -> None:
    text = text_of(STATUS)
    for words in ("ranker", "120 of 400", "membership 7", "61,440 committed of 204,800", "worker-1", "slow", "0.123 s",
                  "2,048", "90,012", "3.0 MiB", "30 todo, 2 doing, 14 done, 1 quarantined rows; 4 leases",
                  "clicks/0 1,200 rows",
                  "rows a step: worker-0 300, worker-1 212", "worker-1 takes 1.4 times the mean",
                  "row 17, error DataError: no label"):  # fmt: skip
        assert words in text, words
    assert "nobody is slow" not in text  # what was decided is shown, not every look


def test_nothing_known_is_no_error() -> None:
    assert "–" in text_of({})


def test_a_silent_head_is_said() -> None:
    assert "said nothing for 60 s" in text_of(STATUS, stale_s=60.0)
    assert "finished" in text_of(STATUS | {"finished": True}, stale_s=60.0)


def test_long_lists_are_cut() -> None:
    many = [{"name": f"worker-{number}", "state": "working"} for number in range(40)]
    text = text_of(STATUS | {"workers": many})
    assert f"and {40 - cluster_view.NODES} more" in text
    sizes = {f"worker-{number}": 10 for number in range(9)}
    assert action_text({"action": "AdjustBatch", "sizes": sizes}).endswith("and 5 more")


def test_a_rare_state_has_a_letter() -> None:
    assert shard_bar({"done": 10_000, "quarantined": 1}).plain.endswith("x")
    assert shard_bar({}).plain == ""


@pytest.mark.parametrize(
    ("decision", "text"),
    [
        ({"action": "Restart", "node": "worker-1"}, "restart worker-1"),
        ({"action": "Add", "count": 2}, "add 2 workers"),
        ({"action": "Backup", "count": 1}, "not wait for the last 1 workers"),
        ({"action": "MoveBuckets", "shares": {"server-0": 0.25}}, "share of the tables: server-0 0.25"),
        ({"action": "OfAnotherPackage"}, "OfAnotherPackage"),
    ],
)
def test_decisions_in_words(decision, text: str) -> None:
    assert action_text(decision) == text


def test_a_folder_is_read(tmp_path, capsys) -> None:
    RunFolder(tmp_path).write_status("cluster", STATUS)
    assert dispatch(["inspect", "cluster", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 120
    assert dispatch(["inspect", "cluster", str(tmp_path)]) == 0
    assert "worker-1" in capsys.readouterr().out


def test_watching_ends_with_the_run(tmp_path, monkeypatch) -> None:
    told = [STATUS | {"step": step, "finished": step == 3, "time": time.time()} for step in (1, 2, 3)]
    monkeypatch.setattr(inspect_cluster, "EVERY_S", 0.0)
    monkeypatch.setattr(inspect_cluster, "from_folder", lambda folder: told.pop(0))
    assert dispatch(["inspect", "cluster", str(tmp_path), "--watch"]) == 0
    assert told == []


def test_a_head_is_asked(tmp_path, capsys) -> None:
    secret = b"a secret of this run"
    (tmp_path / "secret").write_bytes(secret)
    (tmp_path / "secret").chmod(0o600)
    with Server({"status": lambda request: STATUS}, secret=secret) as server:
        assert dispatch(["inspect", "cluster", server.address, "--secret-from", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["epoch"] == 7


@pytest.mark.parametrize("option", [["--watch"], ["--secret-from", "there"]])
def test_its_options_are_refused_elsewhere(tmp_path, option: list[str]) -> None:
    with pytest.raises(ConfigError, match=f"{option[0]}: .* but with `inspect cluster`"):
        dispatch(["inspect", str(tmp_path), *option])


def test_without_a_secret_it_is_said_where_there_is_one(monkeypatch) -> None:
    monkeypatch.delenv("HEADRACE_SECRET", raising=False)
    with pytest.raises(ConfigError, match=r"Add --secret-from RUN_FOLDER, or set HEADRACE_SECRET\."):
        dispatch(["inspect", "cluster", "127.0.0.1:9"])


def test_mistakes_are_named(tmp_path) -> None:
    with pytest.raises(DataError, match="no run on a cluster"):
        dispatch(["inspect", "cluster", str(tmp_path)])
    with pytest.raises(ConfigError, match="2 words"):
        dispatch(["inspect", "cluster", "a", "b"])
