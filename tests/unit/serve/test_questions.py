from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import pyarrow as pa
import pytest

from headrace.data import DenseFeature, EmbeddedLog, EventJoin, JoinConfig, MultiIdFeature, Scenario, Schema
from headrace.errors import CapacityError, ConfigError, DataError, SchemaError, StoreError
from headrace.feedback import QueryBudget
from headrace.serve import Answer, EventWriter, QuestionConfig, QuestionDesk, QuestionPool, Written
from headrace.types import Events

SCHEMA = Schema(features=(DenseFeature("x"), MultiIdFeature("tags", 2, optional=True)),
                scenario=Scenario(column="team", values=("a", "b")))  # fmt: skip
ROWS = 10
TABLE = pa.table({
    "item": [f"i{row}" for row in range(ROWS)], "team": ["a", "b"] * 5, "x": np.arange(ROWS) / ROWS,
    "tags": [[f"t{row}"] for row in range(ROWS)], "text": [f"text {row}" for row in range(ROWS)],
    "day": pa.array([18_000 + row for row in range(ROWS)], pa.date32()),
})  # fmt: skip


class Even:
    """Scores by x: 0.5 where it is 0, surer and surer above."""

    def predict(self, requests: Events) -> Events:
        x = requests.column("x").to_numpy(zero_copy_only=False)
        scores = 1.0 / (1.0 + np.exp(-20.0 * x))
        return requests.with_columns({
            "score": pa.array(scores, pa.float32()), "version": pa.array([7] * len(requests), pa.int64()),
        })  # fmt: skip

    def apply(self, change: object) -> None:
        """Nothing."""


@pytest.fixture
def log(tmp_path) -> EmbeddedLog:
    return EmbeddedLog(tmp_path / "events.db", durability="process")


class Opener:
    """Opens desks over one log, one after another."""

    def __init__(self, log: EmbeddedLog) -> None:
        self.log, self.writer, self.now = log, EventWriter(log, "events"), 1_000_000
        self.writer.start()

    def desk(self, **config: object) -> QuestionDesk:
        pool = QuestionPool(TABLE, SCHEMA)
        made = QuestionDesk(Even(), self.writer, pool, positive="click", config=QuestionConfig(**config),
                            now=lambda: self.now)  # fmt: skip
        made.recover(self.log, "events")
        return made

    def rows(self) -> list[dict[str, object]]:
        entries = self.log.read("events", 0, limit=1000)
        return [row for entry in entries for row in entry.events.batch.to_pylist()]


@pytest.fixture
def opener(log) -> Iterator[Opener]:
    made = Opener(log)
    yield made
    made.writer.close()


def ask(desk: QuestionDesk, count: int = 1, **options: object) -> list:
    asked, durable = desk.ask(count, **options)
    if durable is not None:
        durable.result(10)
    return asked


def answer(desk: QuestionDesk, *answers: Answer) -> tuple[int, int]:
    taken = desk.answer(answers)
    for one in taken.durable:
        one.result(10)
    return taken.accepted, taken.duplicates


def test_the_most_doubtful_come_first(opener) -> None:
    desk = opener.desk(strategy="top")
    asked = ask(desk, 3, annotator="ann")
    assert [desk.pool.name_of(one.row) for one in asked] == ["i0", "i1", "i2"]
    assert (asked[0].chance, asked[0].version, asked[0].score) == (1.0, 7, 0.5)
    assert [row["kind"] for row in opener.rows()] == ["question"] * 3
    assert desk.pool.told(3) == {"item": "i3", "team": "b", "x": 0.3, "text": "text 3", "day": "2019-04-17"}
    assert desk.status() == {"open": 3, "answered": 0, "skipped": 0, "pool": 10, "left": None}


def test_an_answer_becomes_an_example_of_the_join_and_silence_does_not(opener) -> None:
    desk = opener.desk(strategy="top")
    yes, no, silent, skipped = ask(desk, 4, annotator="ann")
    opener.now += 5_000_000
    said = (Answer(yes.key, "yes", "bob"), Answer(no.key, "no"), Answer(skipped.key, "skip"))
    assert answer(desk, *said) == (3, 0)
    join, entries = EventJoin(JoinConfig(window_s=0.0, lateness_s=0.0)), opener.log.read("events", 0)
    examples = [part for entry in entries if (part := join.push(entry.events)) is not None]
    rows = [row for part in examples for row in part.batch.to_pylist()]
    assert [(row["item"], row["label"], row["annotator"], row["x"]) for row in rows] == [
        ("i0", 1.0, "bob", 0.0), ("i1", 0.0, "ann", 0.1),
    ]  # fmt: skip
    assert {row["version"] for row in rows} == {7}
    assert join.flush() is None
    assert desk.status()["open"] == 1
    assert silent.key not in {row["key"] for row in rows}


def test_an_answer_counts_once(opener) -> None:
    desk = opener.desk(strategy="top")
    (one,) = ask(desk)
    assert answer(desk, Answer(one.key, "yes"), Answer(one.key, "no")) == (1, 1)
    assert answer(desk, Answer(one.key, "no")) == (0, 1)
    assert answer(opener.desk(strategy="top"), Answer(one.key, "no")) == (0, 1)
    assert [row["answer"] for row in opener.rows() if row["kind"] == "impression"] == ["yes"]


def test_a_repeated_answer_waits_until_the_first_is_durable(opener) -> None:
    desk = opener.desk(strategy="top")
    (one,) = ask(desk)
    first: Future[Written] = Future()
    desk.writer = type("Slow", (), {"submit": lambda self, rows: first})()
    taken, repeated = desk.answer([Answer(one.key, "yes")]), desk.answer([Answer(one.key, "yes")])
    assert (taken.durable, repeated.durable, repeated.duplicates) == ((first,), (first,), 1)
    first.set_exception(StoreError("disk"))
    assert desk.status()["answered"] == 0
    desk.writer = opener.writer
    assert answer(desk, Answer(one.key, "yes")) == (1, 0)  # the first one never got there


def test_questions_that_never_got_to_the_disk_are_not_open(opener) -> None:
    desk = opener.desk(strategy="top")
    lost: Future[Written] = Future()
    desk.writer = type("Broken", (), {"submit": lambda self, rows: lost})()
    asked, _ = desk.ask(2)
    lost.set_exception(CapacityError("disk"))
    assert desk.status()["open"] == 0
    with pytest.raises(DataError, match="key of a question"):
        desk.answer([Answer(asked[0].key, "yes")])


def test_what_was_asked_and_answered_is_known_after_a_restart(opener) -> None:
    desk = opener.desk(strategy="top")
    asked = ask(desk, 4, annotator="ann")
    answer(desk, Answer(asked[0].key, "no"), Answer(asked[1].key, "skip"))
    again = opener.desk(strategy="top")
    assert again.status() == desk.status()
    assert not {one.row for one in ask(again, 10)} & {one.row for one in asked}
    assert answer(again, Answer(asked[2].key, "yes")) == (1, 0)
    (told,) = [row for row in opener.rows() if row.get("answer") == "yes"]
    assert (told["annotator"], told["version"], told["chance"] > 0) == ("ann", 7, True)


def test_unanswered_questions_are_taken_back(opener) -> None:
    desk = opener.desk(strategy="top", lease_s=10.0)
    (first,) = ask(desk)
    opener.now += 11_000_000
    (second,) = ask(desk)
    assert second.row == first.row
    assert answer(desk, Answer(first.key, "yes")) == (1, 0)  # late, and still the first
    assert answer(desk, Answer(second.key, "no")) == (0, 1)
    assert desk.status()["answered"] == 1


def test_budgets_and_tasks_are_kept(opener) -> None:
    desk = opener.desk(strategy="random", budget=QueryBudget(questions=5, per_task=3))
    assert len(ask(desk, 9, task="a")) == 3
    assert {desk.pool.task_of(one.row) for one in ask(desk, 9)} == {"b"}
    assert ask(desk, 9) == []
    assert desk.status()["left"] == 0


def test_examples_come_by_once_and_by_chance(opener) -> None:
    desk = opener.desk(strategy="draw", softness=0.5)
    asked = ask(desk, 10)
    assert 1 <= len(asked) < 10  # sure ones are passed
    assert 0 in {one.row for one in asked}
    assert ask(desk, 10) == []
    more = opener.desk(strategy="draw", softness=0.5, passes=200)
    assert len(ask(more, 10)) == 10 - len(asked)


def test_many_ask_at_once_and_nobody_is_asked_twice(opener) -> None:
    desk, found = opener.desk(strategy="random"), []
    threads = [threading.Thread(target=lambda: found.extend(ask(desk, 2))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.row for one in found) == list(range(ROWS))
    times = [row["event_time"] for row in opener.rows()]
    assert times == sorted(times)


def test_what_cannot_be_is_refused(opener) -> None:
    desk = opener.desk()
    for call in (
        lambda: desk.ask(0), lambda: desk.ask(10**6), lambda: desk.ask(task="c"),
        lambda: desk.answer([Answer("?", "yes")]), lambda: desk.answer([Answer(ask(desk)[0].key, "perhaps")]),
    ):  # fmt: skip
        with pytest.raises(DataError):
            call()
    for config in ({"strategy": "best"}, {"softness": 0.0}, {"passes": 0}, {"lease_s": -1.0}, {"considered": 0},
                   {"answers": ("yes", "yes")}, {"answers": ("skip", "no")}):  # fmt: skip
        with pytest.raises(ConfigError):
            QuestionConfig(**config)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (TABLE.drop_columns(["item"]), "column 'item'"),
        (TABLE.drop_columns(["x"]), "'x'"),
        (TABLE.set_column(0, "item", pa.array(["same"] * ROWS)), "stands there twice"),
        (TABLE.set_column(1, "team", pa.array(["c"] * ROWS)), "'team', row 0"),
    ],
)
def test_pools_that_cannot_be_read_are_refused(table, says) -> None:
    with pytest.raises(SchemaError, match=says):
        QuestionPool(table, SCHEMA)


def test_people_see_what_they_are_meant_to() -> None:
    assert QuestionPool(TABLE, SCHEMA, ("text", "tags")).told(2) == {"text": "text 2", "tags": "['t2']"}
    with pytest.raises(SchemaError, match="'txt'"):
        QuestionPool(TABLE, SCHEMA, ("txt",))
    with pytest.raises(ConfigError, match="no rows"):
        QuestionPool(TABLE.slice(0, 0), SCHEMA)
