"""Rank requests of a worker: put together, scored once, answered each with its own."""

from __future__ import annotations

import asyncio
import json

import pytest

from headrace.errors import NumericError, StoreError
from headrace.serve import ServeConfig
from headrace.serve.fast_rank import GeneralScoring, MicroBatches
from headrace.serve.requests import RequestReader
from headrace.types import Events


class Counting:
    """A way of scoring that counts its passes."""

    def __init__(self, error: StoreError | None = None) -> None:
        self.passes: list[int] = []
        self.error = error

    def read(self, body: bytes, arrow: bool) -> None:
        return None

    def score(self, asked) -> int:
        self.passes.append(len(asked))
        if self.error is not None:
            raise self.error
        return 7


class One:
    def __init__(self, rows: int = 10) -> None:
        self.rows, self.log, self.min_version = rows, None, None


def collected(scoring, steps, **settings) -> list[object]:
    async def inside() -> list[object]:
        answers: list[object] = []
        batches = MicroBatches(scoring, **settings)
        for step in steps:
            if isinstance(step, float):
                await asyncio.sleep(step)
            else:
                batches.submit(step, lambda asked, answer: answers.append(answer))
        await asyncio.sleep(0.15)
        return answers

    return asyncio.run(inside())


def test_what_comes_together_is_scored_together():
    scoring = Counting()
    assert collected(scoring, [One(), One(), One(), 0.01, One()]) == [7] * 4
    assert scoring.passes == [3, 1]


def test_a_pass_takes_so_many_rows_and_no_more():
    scoring = Counting()
    collected(scoring, [One(40) for _ in range(5)], most_rows=100)
    assert scoring.passes == [3, 2]


def test_a_window_waits_only_while_requests_come_several_at_a_time():
    scoring = Counting()
    # Alone, then two together: from now on the next pass waits, until one was alone again.
    collected(scoring, [One(), 0.005, One(), One(), 0.005, One(), 0.01, One(), 0.1, One(), 0.001], window_s=0.05)
    assert scoring.passes == [1, 2, 2, 1]


def test_an_error_is_told_to_everybody_in_the_pass():
    error = NumericError("Version 3", got="NaN", expected="numbers")
    assert collected(Counting(error), [One(), One()]) == [error, error]  # type: ignore[arg-type]


@pytest.fixture
def general(make_predictor, make_change, schema):
    predictor = make_predictor()
    predictor.apply(make_change(0))
    return GeneralScoring(predictor, RequestReader(schema, ServeConfig()))


def body(items: int, **more: object) -> bytes:
    candidates = [{"item": f"i{n}", "price": n + 1, "city": 3} for n in range(items)]
    return json.dumps({"user": {"user": "u1"}, "candidates": candidates, **more}).encode()


def test_general_scores_are_those_of_the_predictor_for_any_mixture_of_requests(general, make_requests):
    bodies = [(body(3), False), (body(5, key="k", log_impressions=True), False), (make_requests(7).to_bytes(), True),
              (make_requests(4, position=True).to_bytes(), True)]  # fmt: skip
    asked = [general.read(*one) for one in bodies]
    assert [one.rows for one in asked] == [3, 5, 7, 4]
    assert [one.log for one in asked] == [None, True, None, None]
    assert general.score(asked) == 0
    for one in asked:
        alone = general.predictor.predict(one.events)
        assert one.predictions.column("score").equals(alone.column("score"))
        logged = Events.from_bytes(one.impressions(0))
        assert logged.column("score").equals(alone.column("score"))
        assert set(logged.column("arm").to_pylist()) == {"main"}
        assert set(logged.column("version").to_pylist()) == {0}
    answer = json.loads(asked[1].answer(0)[0])
    assert answer["key"] == "k"
    assert answer["scores"] == asked[1].predictions.column("score").to_pylist()
    arrow = Events.from_bytes(asked[3].answer(0)[0])
    assert "score_logged" in arrow.names


def test_requests_with_mistakes_are_left_to_those_who_have_the_words(general):
    assert general.read(b"{", False) is None
    assert general.read(body(0), False) is None
    assert general.read(b"no arrow", True) is None
