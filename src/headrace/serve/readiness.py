"""Ready or not: a server takes traffic once its first version has answered requests that nobody sent."""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol

import numpy as np
import pyarrow as pa

from headrace.errors import HeadraceError
from headrace.serve.columns import Columns
from headrace.types import Events, Version

_log = logging.getLogger(__name__)
POLL_S = 0.02


class Answering(Protocol):
    """Who answers: a predictor over a replica."""

    @property
    def version(self) -> Version:
        """The version that answers."""
        ...

    def predict(self, requests: Events) -> Events:
        """Return one row per request row."""
        ...


def practice_rows(columns: Columns, item: str, rows: int) -> Events:
    """Return made-up request rows: every column of its own type, ids that no table has learned."""
    made: dict[str, pa.Array] = {
        "key": pa.array(["headrace practice"] * rows), "kind": pa.array(["impression"] * rows),
        "event_time": pa.array(np.zeros(rows, np.int64)),
    }  # fmt: skip
    for name in columns.names:
        kind = columns.choices(name)[0]
        made[name] = _filled(kind, rows) if name != item else _names(kind, rows)
    scenario = columns.schema.scenario
    if scenario is not None:
        made[scenario.column] = pa.array([scenario.values[0]] * rows)
    return Events.from_columns(made)


def _names(kind: pa.DataType, rows: int) -> pa.Array:
    numbers = range(rows)
    return pa.array([f"practice {n}" for n in numbers] if pa.types.is_string(kind) else list(numbers), kind)


def _filled(kind: pa.DataType, rows: int) -> pa.Array:
    if pa.types.is_list(kind):
        return pa.array([[_one(kind.value_type)]] * rows, kind)
    return pa.array([_one(kind)] * rows, kind)


def _one(kind: pa.DataType) -> str | int:
    return "practice" if pa.types.is_string(kind) else 1


class Readiness:
    """Lets a new server answer made-up requests, so that the first real one is not the slow one.

    Args:
        predictor: Who answers.
        columns: The columns of a request.
        rows: Candidates of the made-up requests, one request each; empty: none are asked.

    Thread-safety: may be asked from any thread.
    """

    def __init__(self, predictor: Answering, columns: Columns, rows: tuple[int, ...]) -> None:
        self.predictor, self.columns, self.rows = predictor, columns, rows
        self._warm, self._ended = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to wait for the first version, beside the caller."""
        self._thread = threading.Thread(target=self._run, name="warm-up", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more traffic."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def reason(self) -> str:
        """Why no traffic should come; empty when it may."""
        if self._ended.is_set():
            return "ending"
        if self.predictor.version.number < 0:
            return "waiting for the first version"
        return "" if self._warm.is_set() else "warming up"

    def practise(self, rows: int) -> None:
        """Answer one made-up request."""
        self.predictor.predict(practice_rows(self.columns, self.columns.schema.item, rows))

    def _run(self) -> None:
        while self.predictor.version.number < 0:
            if self._ended.wait(POLL_S):
                return
        started = time.perf_counter()
        try:
            for rows in self.rows:
                self.practise(rows)
        except HeadraceError as error:  # such a row may be refused (prepared columns); real ones will say so themselves
            _log.warning("warm-up went without made-up requests: %s", error)
        _log.info("warm after %.3f s", time.perf_counter() - started)
        self._warm.set()
