"""Rank requests of a worker process: read, put together into small batches, scored, and written as answers.

Two ways of scoring have one face: native code for the models that it knows (`FieldScoring`), and the general predictor
for all others (`GeneralScoring`). What neither reads is left to the process that has all the rules.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from headrace.errors import HeadraceError
from headrace.serve.arms import ARM, ARM_PROPENSITY
from headrace.serve.experiment import MAIN
from headrace.serve.openapi import ARROW, JSON
from headrace.serve.predictor import RankPredictor
from headrace.serve.rank_routes import ranked_json
from headrace.serve.requests import RequestReader
from headrace.serve.settings import ServeConfig
from headrace.store.field_scores import FieldScores, ScoredBody
from headrace.types import Events


class Asked(Protocol):
    """One rank request that was read."""

    log: bool | None
    min_version: int | None

    @property
    def rows(self) -> int:
        """Candidates."""
        ...

    def answer(self, version: int) -> tuple[bytes, str]:
        """Return the answer and its content type."""
        ...

    def impressions(self, version: int) -> bytes:
        """Return what is logged, as an Arrow stream."""
        ...


class Scoring(Protocol):
    """A way of scoring."""

    def read(self, body: bytes, arrow: bool) -> Asked | None:
        """Return the request, or None where this way does not read it."""
        ...

    def score(self, asked: Sequence[Asked]) -> int:
        """Score requests with one version, and return its number; a HeadraceError if that is not possible."""
        ...


class FieldScoring:
    """Scores in native code.

    Args:
        scores: Reads and scores.
        config: Limits.
    """

    def __init__(self, scores: FieldScores, config: ServeConfig) -> None:
        self.scores, self.config = scores, config
        self._more = f',"arm":"{MAIN}"'

    def read(self, body: bytes, arrow: bool) -> Asked | None:
        """Return a plain JSON request."""
        found = None if arrow else self.scores.read(body)
        if found is None:
            return None
        moment, ahead = found.event_time, self.config.max_future_s
        if moment is not None and ahead is not None and moment > time.time_ns() // 1000 + ahead * 1e6:
            return None
        return _FieldAsked(found, self._more)

    def score(self, asked: Sequence[Asked]) -> int:
        """Score requests with one version."""
        return self.scores.score([one.body for one in asked if isinstance(one, _FieldAsked)])


class _FieldAsked:
    """A request that native code has read."""

    def __init__(self, body: ScoredBody, more: str) -> None:
        self.body, self._more = body, more
        self.log, self.min_version = body.log, body.min_version
        self.key = body.key or os.urandom(16).hex()

    @property
    def rows(self) -> int:
        return self.body.rows

    def answer(self, version: int) -> tuple[bytes, str]:
        return self.body.answer(self.key, version, self._more), JSON

    def impressions(self, version: int) -> bytes:
        moment = self.body.event_time
        columns = _heads(self.key, time.time_ns() // 1000 if moment is None else moment, self.rows)
        columns |= self.body.columns()
        columns["score"] = pa.array(self.body.scores)
        return Events.from_columns(columns | _tails(version, self.rows)).to_bytes()


class GeneralScoring:
    """Scores with the predictor, JSON and Arrow requests.

    Args:
        predictor: Who scores.
        reader: Reads requests.
    """

    def __init__(self, predictor: RankPredictor, reader: RequestReader) -> None:
        self.predictor, self.reader = predictor, reader

    def read(self, body: bytes, arrow: bool) -> Asked | None:
        """Return a request without mistakes."""
        try:
            asked = self.reader.rank_arrow(body) if arrow else self.reader.rank_json(body)
        except HeadraceError:
            return None
        item = self.predictor.schema.item
        return _GeneralAsked(asked.events, item, arrow, asked.log_impressions, asked.min_version)

    def score(self, asked: Sequence[Asked]) -> int:
        """Score requests with one version; those with the same columns in one pass."""
        groups: dict[str, list[_GeneralAsked]] = {}
        for one in asked:
            assert isinstance(one, _GeneralAsked)
            groups.setdefault(one.events.batch.schema.to_string(), []).append(one)
        answers = [(group, self.predictor.scoring(Events.concat([one.events for one in group])))
                   for group in groups.values()]  # fmt: skip
        with self.predictor.replica.reading() as version:
            scored = [(group, answer(version)) for group, answer in answers]
        for group, predictions in scored:
            at = 0
            for member in group:
                member.predictions = predictions.slice(at, member.rows)
                at += member.rows
        return int(version.number)


@dataclass(slots=True)
class _GeneralAsked:
    """A request that the general reader has read."""

    events: Events
    item: str
    arrow: bool
    log: bool | None
    min_version: int | None
    predictions: Events | None = None

    @property
    def rows(self) -> int:
        return len(self.events)

    def answer(self, version: int) -> tuple[bytes, str]:
        assert self.predictions is not None
        tails = {name: column for name, column in _tails(version, self.rows).items() if name != "version"}
        answered = self.predictions.with_columns(tails)
        if self.arrow:
            return answered.to_bytes(), ARROW
        content = ranked_json(answered, self.item)
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(), JSON

    def impressions(self, version: int) -> bytes:
        assert self.predictions is not None
        names = [name for name in ("score", "score_logged") if name in self.predictions.names]
        scored = {name: self.predictions.column(name) for name in names}
        return self.events.with_columns(scored | _tails(version, self.rows)).to_bytes()


class MicroBatches:
    """Puts requests that come together into one pass of the scorer.

    Requests that came while the last pass ran are scored together. With a window, a pass waits for further ones, but
    only while they do come several at a time: a lone request never waits.

    Args:
        scoring: How.
        window_s: How long a pass may wait.
        most_rows: Candidates of one pass; what is more goes into the next one.

    Thread-safety: runs in one event loop.
    """

    def __init__(self, scoring: Scoring, *, window_s: float = 0.0, most_rows: int = 1024) -> None:
        self.scoring, self.window_s, self.most_rows = scoring, window_s, most_rows
        self._waiting: list[tuple[Asked, Callable[[Asked, int | HeadraceError], None]]] = []
        self._rows, self._several = 0, False
        self._handle: asyncio.Handle | None = None
        self.passes = self.requests = 0

    def submit(self, asked: Asked, done: Callable[[Asked, int | HeadraceError], None]) -> None:
        """Take a request; `done` is called with it and the version that answers, or what was wrong."""
        self._waiting.append((asked, done))
        self._rows += asked.rows
        loop = asyncio.get_running_loop()
        if self._rows >= self.most_rows:
            self._run()
        elif self._handle is None:
            late = self.window_s > 0 and self._several
            self._handle = loop.call_later(self.window_s, self._run) if late else loop.call_soon(self._run)

    def _run(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        waiting, self._waiting, self._rows, self._handle = self._waiting, [], 0, None
        self._several = len(waiting) > 1
        self.passes += 1
        self.requests += len(waiting)
        try:
            answer: int | HeadraceError = self.scoring.score([asked for asked, _ in waiting])
        except HeadraceError as error:
            answer = error
        for asked, done in waiting:
            done(asked, answer)


def _heads(key: str, moment: int, rows: int) -> dict[str, pa.Array]:
    return {"key": _repeat(key, rows), "kind": _repeat("impression", rows),
            "event_time": pa.repeat(pa.scalar(moment, pa.int64()), rows)}  # fmt: skip


def _tails(version: int, rows: int) -> dict[str, pa.Array]:
    return {"version": pa.repeat(pa.scalar(version, pa.int64()), rows), ARM: _repeat(MAIN, rows),
            ARM_PROPENSITY: pa.repeat(pa.scalar(1.0, pa.float32()), rows)}  # fmt: skip


def _repeat(value: str, rows: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, pa.string()), rows)
