"""The pipeline of a fit: same batches; further ahead where single ones are late, more threads where all of them are."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from headrace.errors import ConfigError
from headrace.learn import Pipeline, PipelineConfig, StageTimes
from headrace.learn import pipeline as module
from headrace.testing.toy import Toy, ToyConfig
from headrace.types import Batch

BATCHES = list(Toy(ToyConfig()).batches(4, 1)) * 200


class Decoding:
    """Batches that `workers` threads decode."""

    def __init__(self, workers: int = 0) -> None:
        self.workers, self.left = workers, iter(BATCHES)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self.left)


def late(read_s: float) -> Iterator[Batch]:
    """The first batch takes long, as the first of a window does."""
    time.sleep(read_s)
    yield from BATCHES


def slowly(count: int, read_s: float) -> Iterator[Batch]:
    for number in range(count):
        time.sleep(read_s)
        yield BATCHES[number]


@pytest.mark.parametrize("depth", [None, 0, 1, 7])
def test_the_batches_are_the_same(depth: int | None) -> None:
    pipeline = Pipeline(PipelineConfig(depth=depth))
    with pipeline.over(iter(BATCHES)) as ahead:
        assert all(batch is other for batch, other in zip(ahead, BATCHES, strict=True))


@pytest.mark.parametrize(
    ("seconds", "read_s", "waited_s", "found"),
    [
        (10.0, 1.0, 0.0, "nothing"), (10.0, 9.0, 0.09, "nothing"),  # hardly waited
        (10.0, 1.0, 0.2, "depth"), (10.0, 6.0, 2.0, "depth"),  # fast enough on average
        (10.0, 9.9, 9.0, "workers"), (10.0, 7.0, 2.0, "workers"),
    ],
)  # fmt: skip
def test_what_a_waiting_learner_lacks(seconds: float, read_s: float, waited_s: float, found: str) -> None:
    assert module.missing(seconds, read_s, waited_s) == found


def test_late_batches_make_it_read_further_ahead(monkeypatch) -> None:
    monkeypatch.setattr(module, "missing", lambda *_: "depth")
    monkeypatch.setattr(module, "CHEAP", 0.0)  # always on a thread
    pipeline, decoding = Pipeline(), Decoding()
    with pipeline.over(decoding) as ahead:
        list(ahead)
    assert pipeline.depth >= min(module.FIRST_DEPTH * 2 ** (len(BATCHES) // module.TUNE_BATCHES), module.MOST_DEPTH)
    assert (pipeline.workers, decoding.workers) == (None, 0)
    assert f"up to {pipeline.depth} batches" in pipeline.chosen()
    once = Pipeline()
    with once.over(late(0.05)) as ahead:
        for _, batch in zip(range(module.TUNE_BATCHES + 1), ahead, strict=False):
            assert len(batch)
    assert once.depth > 2 * module.FIRST_DEPTH  # at once as far as the longest read takes
    fixed = Pipeline(PipelineConfig(depth=3))
    with fixed.over(iter(BATCHES)) as ahead:
        list(ahead)
    assert fixed.depth == 3


def test_a_slow_reader_gets_threads_up_to_the_cores_and_keeps_them(monkeypatch) -> None:
    monkeypatch.setattr(module, "missing", lambda *_: "workers")
    monkeypatch.setattr(module, "cores", lambda: 3)
    pipeline, slow, again = Pipeline(), Decoding(), Decoding()
    with pipeline.over(slow) as ahead:
        list(ahead)
    assert slow.workers == pipeline.workers == 3
    assert "3 threads decoded" in pipeline.chosen()
    with pipeline.over(again) as ahead:
        next(ahead)
    assert (again.workers, pipeline.depth) == (3, module.FIRST_DEPTH)
    fixed, slow = Pipeline(PipelineConfig(workers=1)), Decoding()
    with fixed.over(slow) as ahead:
        list(ahead)
    assert slow.workers == 1


def test_a_reader_that_has_no_threads_is_left_alone(monkeypatch) -> None:
    monkeypatch.setattr(module, "missing", lambda *_: "workers")
    pipeline = Pipeline()
    with pipeline.over(iter(BATCHES)) as ahead:
        list(ahead)
    assert (pipeline.depth, pipeline.workers) == (module.FIRST_DEPTH, None)


def test_where_the_time_went() -> None:
    times = StageTimes()
    with Pipeline(times=times).over(slowly(20, 0.001)) as ahead:
        list(ahead)
    assert times.seconds["wait"] > 0.005
    assert times.beside["read"] >= 0.015
    plain = StageTimes()
    off = Pipeline(PipelineConfig(depth=0), plain)
    with off.over(slowly(20, 0.001)) as ahead:
        list(ahead)
    assert plain.seconds["read"] >= 0.015
    assert plain.beside == {}
    assert "depth 0" in off.chosen()


def test_leaving_early_ends_the_reader_and_errors_arrive() -> None:
    pipeline = Pipeline()
    with pipeline.over(iter(BATCHES)) as ahead:
        next(ahead)

    def broken() -> Iterator[Batch]:
        yield BATCHES[0]
        raise KeyError("torn")

    with pytest.raises(KeyError, match="torn"), pipeline.over(broken()) as ahead:
        list(ahead)


def test_settings_that_cannot_work() -> None:
    for wrong in ({"depth": -1}, {"max_bytes": 0}, {"workers": -1}):
        with pytest.raises(ConfigError):
            PipelineConfig(**wrong)


def test_quick_batches_are_read_between_the_steps(monkeypatch) -> None:
    monkeypatch.setattr(module, "CHEAP", 1e9)  # whatever the machine does meanwhile
    times = StageTimes()
    pipeline = Pipeline(times=times)
    with pipeline.over(iter(BATCHES)) as ahead:
        assert all(batch is other for batch, other in zip(ahead, BATCHES, strict=True))
    assert pipeline.between
    assert times.totals()["seconds"]["read"] > 0  # type: ignore[index]
    assert "depth 0" in pipeline.chosen()
    monkeypatch.setattr(module, "CHEAP", 0.0)
    with pipeline.over(iter(BATCHES)) as ahead:  # it stays so, until reading turns out to be slow
        assert all(batch is other for batch, other in zip(ahead, BATCHES, strict=True))
    assert not pipeline.between
    monkeypatch.setattr(module, "CHEAP", 1e9)
    fixed = Pipeline(PipelineConfig(depth=2))
    with fixed.over(iter(BATCHES)) as ahead:
        assert len(list(ahead)) == len(BATCHES)
    assert not fixed.between


def test_a_reader_that_fails_says_so_where_it_failed_though_it_is_read_between(monkeypatch) -> None:
    monkeypatch.setattr(module, "CHEAP", 1e9)

    def failing() -> Iterator[Batch]:
        yield from BATCHES[:40]
        raise ValueError("torn file")

    pipeline, seen = Pipeline(), 0
    with pytest.raises(ValueError, match="torn file"), pipeline.over(failing()) as ahead:
        for _ in ahead:
            seen += 1
    assert seen == 40


def test_a_stream_is_never_read_between_the_steps(monkeypatch) -> None:
    monkeypatch.setattr(module, "CHEAP", 1e9)

    class Stream(Decoding):
        def interrupt(self) -> None:
            self.left = iter(())

    pipeline = Pipeline()
    with pipeline.over(Stream()) as ahead:
        assert sum(1 for _ in zip(range(64), ahead, strict=False)) == 64
    assert not pipeline.between
