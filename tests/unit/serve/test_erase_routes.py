"""Erasing over HTTP: at once in what answers, durable in the book, and nothing of the id in any log line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient

from headrace.data.erasure_book import ErasureBook
from headrace.data.hashing import hash_text
from headrace.data.log import EmbeddedLog
from headrace.data.subjects import UserColumns
from headrace.publish import ChangeReader, LogPublisher
from headrace.serve import client_calls as calls
from headrace.serve import create_app
from headrace.serve.erasures import ErasureDesk
from headrace.types import Change, RowChange, Version

MARY = "mary/jones@example.org"
PATH = "/v1/users/mary%2Fjones%40example.org"


@pytest.fixture
def users(schema) -> UserColumns:
    return UserColumns.of(schema, ("user",))


@pytest.fixture
def book(tmp_path: Path) -> ErasureBook:
    return ErasureBook(tmp_path / "erasures.db")


@pytest.fixture
def publisher(tmp_path: Path) -> LogPublisher:
    return LogPublisher(EmbeddedLog(tmp_path / "changes.db", durability="process"), tmp_path / "snapshots")


@pytest.fixture
def server(tmp_path: Path, make_predictor, make_change, users, book, publisher) -> Iterator[TestClient]:
    publisher.publish(with_mary(make_change(0)))
    desk = ErasureDesk([book], users, within_s=3600.0)
    log = EmbeddedLog(tmp_path / "events.db", durability="process")
    app = create_app(make_predictor(), log, changes=ChangeReader(publisher.changes.log, tmp_path / "snapshots"),
                     erasures=desk)  # fmt: skip
    with TestClient(app) as client:
        client.log, client.service = log, app.state.service  # type: ignore[attr-defined]
        yield client


def with_mary(change: Change, value: float = 0.5) -> Change:
    rows = change.tables["user"]
    ids = torch.cat([rows.ids, torch.tensor([hash_text(MARY)])])
    order = ids.argsort()
    put = RowChange(ids[order], torch.cat([rows.rows, torch.full((1, 4), value)])[order], rows.removed)
    return Change(version=change.version, tables={**change.tables, "user": put}, dense=change.dense)


def ask(key: str, user: str = MARY) -> dict[str, object]:
    return {"key": key, "user": {"user": user}, "context": {"city": "x"}, "candidates": [{"item": "a", "price": 1.0}]}


def holds(server: TestClient) -> bool:
    table = server.service.predictor.replica.tables["user"]  # type: ignore[attr-defined]
    return bool(table.contains(torch.tensor([hash_text(MARY)])).all())


def logged(server: TestClient) -> list[str]:
    entries = server.log.read("events", 0)  # type: ignore[attr-defined]
    return [key for entry in entries for key in entry.events.column("key").to_pylist()]


def test_an_erased_user_is_unknown_at_once(server, book, publisher, make_change) -> None:
    known = server.post("/v1/rank", json=ask("k1")).json()["scores"]
    stranger = server.post("/v1/rank", json=ask("k2", "nobody")).json()
    assert holds(server)
    answer = server.delete(PATH)
    assert answer.status_code == 202, answer.text
    told = answer.json()
    assert told["state"] == "asked"
    assert told["subject"] == book.subject(MARY).hex()
    assert told["due"] - told["requested"] == 3_600_000_000
    assert not holds(server)
    assert server.get("/v1/health").json()["erasures"] == {"unfinished": 1, "overdue": 0}
    assert 'headrace_erasures{state="unfinished"} 1.0' in server.get("/metrics").text
    after = server.post("/v1/rank", json=ask("k3"))
    assert after.status_code == 200
    assert after.json()["scores"] != known
    assert server.post("/v1/rank", json=ask("k4", "nobody")).json()["scores"] == stranger["scores"]
    assert logged(server) == ["k1", "k2", "k4"], "nothing of an erased user is logged"
    assert server.delete(PATH).json()["number"] == told["number"], "asked again, it is the same erasure"

    # a version that the learner had made before still puts the row: it stays out
    publisher.publish(with_mary(make_change(1), 0.9))
    wait_for(lambda: server.service.predictor.version.number == 1)
    assert not holds(server)


def test_consent_makes_a_new_user(server, book, publisher, make_change) -> None:
    number = server.delete(PATH).json()["number"]
    assert server.put(PATH).status_code == 409, "not before the erasure is finished"
    assert server.get(f"/v1/erasures/{number}").json()["state"] == "asked"
    book.mark(number, "removed", 7)
    assert server.get(f"/v1/erasures/{number}").json()["version"] == 7
    book.finish(number)
    assert server.get(f"/v1/erasures/{number}").json()["state"] == "finished"
    server.post("/v1/rank", json=ask("k1"))
    assert logged(server) == [], "finished, and still not logged"
    assert server.put(PATH).json()["state"] == "lifted"
    assert server.put(PATH).status_code == 404
    server.post("/v1/rank", json=ask("k2"))
    assert logged(server) == ["k2"]
    publisher.publish(with_mary(make_change(1)))
    wait_for(lambda: server.service.predictor.version.number == 1)
    assert holds(server), "what is learned from now on is served"
    assert server.delete(PATH).json()["number"] == number + 1


def test_another_process_asked(server, book) -> None:
    book.request(MARY)
    wait_for(lambda: not holds(server))
    server.post("/v1/rank", json=ask("k1"))
    assert logged(server) == []


def test_the_id_is_in_no_line_that_is_kept(server, tmp_path, caplog) -> None:
    server.delete(PATH)
    server.put(PATH)
    audit = (tmp_path / "audit.jsonl").read_text()
    assert "DELETE /v1/users/{id}" in audit
    assert server.service.erasures.subject(MARY) in audit
    for text in (audit, caplog.text):
        assert "mary" not in text


def test_what_is_no_erasure_is_not_found(server) -> None:
    for number in ("99", "-1", "x", "1" * 40):
        assert server.get(f"/v1/erasures/{number}").status_code == 404
    assert server.delete("/v1/users/" + "x" * 1025).status_code == 400
    assert server.delete("/v1/users/").status_code in (400, 404, 405)
    paths = server.get("/openapi.json").json()["paths"]
    assert set(paths["/v1/users/{id}"]) == {"delete", "put"}


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_versions_in_the_replica_are_whole_after_forgetting(make_predictor, make_change) -> None:
    replica = make_predictor().replica
    replica.apply(with_mary(make_change(0)))
    ids = {"user": torch.tensor([hash_text(MARY)]), "nowhere": torch.tensor([1])}
    replica.forget(ids)
    assert replica.version == Version(0, -1)
    with replica.reading():
        assert not bool(replica.tables["user"].contains(ids["user"]).any())
        assert bool(replica.tables["user"].contains(torch.arange(1, 9)).all()), "all others are where they were"
    replica.apply(with_mary(make_change(1)))
    assert not bool(replica.tables["user"].contains(ids["user"]).any())
    replica.remember(ids)
    replica.apply(with_mary(make_change(2)))
    assert bool(replica.tables["user"].contains(ids["user"]).all())


def test_the_clients_calls(server) -> None:
    """What a client sends is what the addresses take; ids with slashes and spaces included."""
    for user in (MARY, "a b/c?d#e", 17):
        call = calls.erase_call(user)
        told = server.request(call.method, call.path).json()
        assert told["subject"] == server.service.erasures.subject(str(user))
        back = calls.consent_call(user)
        assert server.request(back.method, back.path).status_code == 409
