"""Asking people: which example of a pool to ask about next, and what becomes of the answer.

An answer is written into the event log as an impression of the example, with the prediction that it was asked with,
and a positive action if the answer is the positive one. So the joiner makes an example of it like of any other event,
and the learner learns it. What nobody answered is no impression, and never becomes a negative.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa

from headrace.config import known_name, require
from headrace.data.log import EmbeddedLog
from headrace.errors import DataError, nearest
from headrace.feedback.query import QueryBudget, chance_of, choose
from headrace.protocols import Predictor
from headrace.serve.event_writer import EventWriter, Written
from headrace.serve.question_book import SKIP, Mask, Question, QuestionBook, Rows
from headrace.serve.question_pool import QuestionPool
from headrace.types import Events

Strategy = Literal["draw", "top", "random"]
Scored: TypeAlias = tuple[int, float, int, float]
"""Row, score, version and chance of an example."""
MOST_AT_ONCE, CHUNK = 1000, 64
SMALLEST = 6e-8
"""Scores come as float32: beyond this from 0 and 1 margins are all alike."""


@dataclass(frozen=True, kw_only=True)
class QuestionConfig:
    """How questions are chosen.

    Attributes:
        strategy: `draw`: examples come by in random order, and each is asked about with the chance that the served
            model's margin gives it (selective sampling, as committees do it). `top`: the smallest margins first
            (uncertainty sampling). `random`: any.
        softness: The margin, in log-odds, at which every second example is asked about.
        passes: How often `draw` goes through the pool; after the last pass there is nothing left to ask.
        budget: How many questions may be asked.
        lease_s: After so many seconds without an answer a question is taken back, and its example can be asked about
            again.
        considered: Examples that `top` scores for one request; of a larger pool they are drawn at random.
        answers: The two answers, the positive one first.
        seed: Of the random choices.

    Raises:
        ConfigError: If a value cannot work.
    """

    strategy: Strategy = "draw"
    softness: float = 1.0
    passes: int = 1
    budget: QueryBudget = field(default_factory=QueryBudget)
    lease_s: float = 3600.0
    considered: int = 4096
    answers: tuple[str, str] = ("yes", "no")
    seed: int = 0

    def __post_init__(self) -> None:
        known_name("strategy", self.strategy, ["draw", "top", "random"])
        for name in ("softness", "lease_s"):
            require(getattr(self, name) > 0, name, got=getattr(self, name), expected="a positive number")
        for name in ("passes", "considered"):
            require(getattr(self, name) >= 1, name, got=getattr(self, name), expected="a positive integer")
        require(len({*self.answers, SKIP}) == 3 and all(self.answers), "answers", got=self.answers,
                expected=f"two different words, neither of them '{SKIP}'")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asking:
    """What a server needs to ask people: the examples, and how they are chosen."""

    pool: QuestionPool
    config: QuestionConfig = field(default_factory=QuestionConfig)


@dataclass(frozen=True, slots=True)
class Answer:
    """What somebody said to a question; `said` is one of the two answers, or `skip`."""

    key: str
    said: str
    annotator: str = ""


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of answers: how many are taken, how many were known before, and what has to be waited for."""

    accepted: int
    duplicates: int
    durable: tuple[Future[Written], ...]


class QuestionDesk:
    """Hands out questions and takes answers; its state is the event log.

    An example is asked about once. The first answer to a question counts; a repeated one is a duplicate, and so is one
    to a question that was taken back, if its example was answered since.

    Args:
        predictor: Whose margins decide; `score` is read as a probability.
        writer: Writes the event log; the same one that writes impressions and actions of the server.
        pool: The examples to ask about.
        positive: The kind of action that the positive answer becomes, one that the schema's label names.
        config: How they are chosen.
        now: The wall clock in µs.

    Thread-safety: may be used from any thread.
    """

    def __init__(
        self, predictor: Predictor, writer: EventWriter, pool: QuestionPool, *, positive: str,
        config: QuestionConfig | None = None, now: Callable[[], int] | None = None,
    ) -> None:  # fmt: skip
        self.predictor, self.writer, self.pool, self.positive = predictor, writer, pool, positive
        self.config = config or QuestionConfig()
        self._now = now or (lambda: time.time_ns() // 1000)
        self._lock, self._book = threading.RLock(), QuestionBook(pool)
        self._draw = np.random.default_rng(self.config.seed)
        self._queue, self._passes, self._last = self._draw.permutation(len(pool)), 1, 0

    @property
    def answers(self) -> tuple[str, ...]:
        """What may be answered: the positive answer, the other one, and `skip`."""
        return (*self.config.answers, SKIP)

    def recover(self, log: EmbeddedLog, topic: str) -> None:
        """Read back from the log what was asked and answered; a pass begins anew with what was not asked about."""
        start = log.topic(topic).first_offset
        while entries := log.read(topic, start):
            for entry in entries:
                self._book.replay(entry.events)
            start = entries[-1].offset + 1

    def status(self) -> dict[str, object]:
        """Return how many examples are open, answered and skipped, and how many questions the budget has left."""
        with self._lock:
            return {**self._book.counts(), "pool": len(self.pool), "left": self.config.budget.left(self._book.asked())}

    # asking ----------------------------------------------------------------------------------------------------------

    def ask(
        self, count: int = 1, *, task: str | None = None, annotator: str = ""
    ) -> tuple[list[Question], Future[Written] | None]:
        """Return at most `count` questions, and what has to be waited for before they are handed out.

        Args:
            count: How many are wanted; fewer come where budget, pass or pool end.
            task: Only of this task; None: of all.
            annotator: Who asks for them; kept with the answer.

        Raises:
            DataError: If the count or the task cannot be.
            VersionError: If the predictor has no version yet.
            CapacityError: If too many requests wait for the disk.
        """
        if not 1 <= count <= MOST_AT_ONCE:
            raise DataError("Query, count", got=count, expected=f"1 to {MOST_AT_ONCE}")
        if task is not None and task not in self.pool.tasks:
            raise DataError("Query, task", got=repr(task[:100]), expected=nearest(task, self.pool.tasks))
        with self._lock:
            now = self._tick()
            self._book.take_back(now - round(self.config.lease_s * 1e6))
            chosen = self._chosen(count, task)
            if not chosen:
                return [], None
            asked = [Question(uuid.uuid4().hex, *one, now, annotator) for one in chosen]
            durable = self.writer.submit(self._book.question_rows(asked))
            self._book.open_all(asked)
        durable.add_done_callback(lambda done: None if done.exception() is None else self._forget(asked))
        return asked, durable

    def _tick(self) -> int:
        """Return the time in µs, later than that of any row before: rows stand in the log in order of event time."""
        self._last = max(self._now(), self._last + 1)
        return self._last

    def _forget(self, asked: Sequence[Question]) -> None:
        with self._lock:
            self._book.forget(asked)

    def _chosen(self, count: int, task: str | None) -> list[Scored]:
        """Return what to ask about: row, score, version and chance."""
        asked, budget, found = self._book.asked(), self.config.budget, list[Scored]()
        free, owners = self._book.free(), self.pool.owners
        wanted = np.full(len(free), True) if task is None else owners == self.pool.tasks.index(task)
        while len(found) < count and len(rows := self._candidates(free & budget.open(asked)[owners], wanted)):
            scored = self._scored(rows)
            for place in self._order(scored):
                row, owner = scored[place][0], owners[scored[place][0]]
                if self._comes_by(scored[place]) and budget.open(asked)[owner]:
                    asked[owner] += 1
                    found.append(scored[place])
                    free[row] = False
                    if len(found) == count:
                        break
            if self.config.strategy != "draw":
                break
        return found

    def _candidates(self, free: Mask, wanted: Mask) -> Rows:
        """Return rows to score now: the next of this pass, or a sample of all that are free."""
        if self.config.strategy != "draw":
            return self._draw.permutation(np.flatnonzero(free & wanted))[: self.config.considered]
        while not free[self._queue].any() and free.any() and self._passes < self.config.passes:
            self._queue, self._passes = self._draw.permutation(len(self.pool)), self._passes + 1
        return self._queue[(free & wanted)[self._queue]][:CHUNK]

    def _comes_by(self, one: Scored) -> bool:
        """Return whether to ask about an example now that it comes by, for this pass the only time."""
        if self.config.strategy != "draw":
            return True
        self._queue = self._queue[self._queue != one[0]]
        return bool(self._draw.random() < one[3])

    def _order(self, scored: Sequence[Scored]) -> Rows:
        if self.config.strategy != "top":
            return np.arange(len(scored))
        return choose(np.array([chance for *_, chance in scored]), len(scored), self._draw, "top")

    def _scored(self, rows: Rows) -> list[Scored]:
        predictions = self.predictor.predict(self.pool.requests(rows, [""] * len(rows), self._now()))
        scores = np.asarray(predictions.column("score").to_numpy(zero_copy_only=False), dtype=np.float64)
        inside = np.clip(scores, SMALLEST, 1.0 - SMALLEST)
        chances = chance_of(np.log(inside / (1.0 - inside)), self.config.softness)
        version = int(predictions.column("version")[0].as_py())
        return [(int(row), float(score), version, float(chance))
                for row, score, chance in zip(rows, scores, chances, strict=True)]  # fmt: skip

    # answering -------------------------------------------------------------------------------------------------------

    def answer(self, answers: Sequence[Answer]) -> Taken:
        """Take answers.

        Raises:
            DataError: If a question is unknown or an answer none of those that there are; nothing was taken.
            CapacityError: If too many requests wait for the disk; nothing was taken.
        """
        known = self.answers
        for one in answers:
            if one.said not in known:
                raise DataError("Answer", got=repr(one.said[:100]), expected=" or ".join(map(repr, known)))
        with self._lock:
            fresh = self._book.fresh([one.key for one in answers])
            durable = {self._book.coming[one.key] for one in answers if one.key in self._book.coming}
            if fresh:
                durable.add(self._submit(fresh, answers))
        return Taken(len(fresh), len(answers) - len(fresh), tuple(durable))

    def _submit(self, fresh: Sequence[str], answers: Sequence[Answer]) -> Future[Written]:
        """Hand the first answer of every key to the log."""
        first = {one.key: one for one in reversed(answers)}
        said = [first[key] for key in fresh]
        future = self.writer.submit(self._answer_rows(said))
        self._book.coming.update(dict.fromkeys(fresh, future))
        future.add_done_callback(lambda done: self._settle(said, done))
        return future

    def _settle(self, said: Sequence[Answer], done: Future[Written]) -> None:
        with self._lock:
            for one in said:
                self._book.coming.pop(one.key, None)
                if done.exception() is None:
                    self._book.close(one.key, skipped=one.said == SKIP)

    def _answer_rows(self, said: Sequence[Answer]) -> Events:
        """Return an impression per answer, an action per positive one, and a note per skip."""
        now, told = self._tick(), [one for one in said if one.said != SKIP]
        parts = []
        if told:
            questions = [self._book.open[one.key] for one in told]
            rows = np.array([question.row for question in questions], dtype=np.int64)
            shown = self.pool.requests(rows, [one.key for one in told], now)
            parts.append(shown.with_columns({
                "score": pa.array([question.score for question in questions], pa.float32()),
                "version": pa.array([question.version for question in questions], pa.int64()),
                "asked": pa.array([question.asked_at for question in questions], pa.int64()),
                "chance": pa.array([question.chance for question in questions], pa.float32()),
                "annotator": pa.array([one.annotator or self._book.open[one.key].annotator for one in told]),
                "answer": pa.array([one.said for one in told]),
            }))  # fmt: skip
        positive = [one for one in told if one.said == self.config.answers[0]]
        for kind, some in ((self.positive, positive), (SKIP, [one for one in said if one.said == SKIP])):
            if some:
                parts.append(Events.from_columns({
                    "key": [one.key for one in some], "kind": [kind] * len(some), "event_time": [now] * len(some),
                    self.pool.item: [self.pool.name_of(self._book.open[one.key].row) for one in some],
                }))  # fmt: skip
        return Events.concat(parts)
