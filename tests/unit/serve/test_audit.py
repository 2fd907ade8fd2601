from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from headrace.errors import CorruptSnapshot, StoreError
from headrace.serve.audit import AuditLog


def test_an_action_is_written_before_and_after(tmp_path) -> None:
    audit = AuditLog(tmp_path / "deep" / "audit.jsonl")
    action = audit.begin("ops", "POST /v1/versions/rollback", {"to": 3})
    assert [line["state"] for line in audit.lines()] == ["begun"]
    audit.end(action, "200", {"version": 9})
    first, second = audit.lines()
    assert first["action"] == second["action"] == action.number
    assert (first["who"], first["what"], first["details"]) == ("ops", "POST /v1/versions/rollback", {"to": 3})
    assert (second["state"], second["details"]) == ("200", {"version": 9})
    assert abs(first["time"] - time.time()) < 60
    assert audit.path.stat().st_mode & 0o777 == 0o600
    assert audit.check() == 2


def filled(path: Path, actions: int = 3) -> AuditLog:
    audit = AuditLog(path)
    for number in range(actions):
        audit.end(audit.begin("ops", f"action {number}"), "200")
    return audit


def test_a_changed_line_is_noticed(tmp_path) -> None:
    audit = filled(tmp_path / "audit.jsonl")
    audit.path.write_text(audit.path.read_text().replace("action 1", "action 7"))
    with pytest.raises(CorruptSnapshot, match="another line before it"):
        audit.check()


def test_a_missing_line_is_noticed(tmp_path) -> None:
    audit = filled(tmp_path / "audit.jsonl")
    lines = audit.path.read_text().splitlines(keepends=True)
    audit.path.write_text("".join(lines[:2] + lines[3:]))
    with pytest.raises(CorruptSnapshot):
        audit.check()


def test_a_line_that_a_crash_cut_short_does_not_spoil_the_next(tmp_path) -> None:
    audit = filled(tmp_path / "audit.jsonl", 1)
    whole = audit.path.read_bytes()
    for cut in (1, len(whole) // 3, len(whole) - 1):
        audit.path.write_bytes(whole[:cut])
        again = AuditLog(audit.path)
        again.end(again.begin("ops", "later"), "200")
        what = [line["what"] for line in again.lines()]
        assert what[-2:] == ["later", "later"]
        assert set(what[:-2]) <= {"action 0"}
        assert again.check() == len(what)


def test_lines_longer_than_the_look_back_are_followed_right(tmp_path) -> None:
    audit = AuditLog(tmp_path / "audit.jsonl")
    audit.begin("ops", "long", {"text": "x" * 300_000})
    audit.begin("ops", "next")
    assert audit.check() == 2


def test_what_cannot_be_written_is_not_done(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Nothing was done"):
        AuditLog(tmp_path / "file" / "audit.jsonl").begin("ops", "anything")


def _write(path: Path, count: int) -> None:
    audit = AuditLog(path)
    for number in range(count):
        audit.begin(f"process {os.getpid()}", f"action {number}")


def test_several_processes_write_one_chain_and_a_killed_one_breaks_nothing(tmp_path) -> None:
    path = tmp_path / "audit.jsonl"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_write, args=(path, 60)) for _ in range(3)]
    killed = context.Process(target=_write, args=(path, 100_000))
    for process in [*processes, killed]:
        process.start()
    time.sleep(0.1)
    os.kill(killed.pid, signal.SIGKILL)
    for process in [*processes, killed]:
        process.join(30)
    audit = AuditLog(path)
    lines = list(audit.lines())
    assert audit.check() == len(lines) >= 180
    assert all(sum(line["who"] == f"process {process.pid}" for line in lines) == 60 for process in processes)
    for line in path.read_text().splitlines():
        json.loads(line)
