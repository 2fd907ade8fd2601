"""The loop: requests → predictions → feedback → examples → learner → published version → predictions.

Three drivers over the roles of `headrace.protocols`, and nothing else: `run` is the whole loop, `fit` its left half
(offline training, and the learner process that reads an example log), `predict` its right half.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from headrace.errors import ConfigError, SourceEnded
from headrace.protocols import (
    Cadence,
    Checkpoint,
    Feedback,
    Joiner,
    Learner,
    Metric,
    Predictor,
    Publisher,
    Resumable,
    Source,
)
from headrace.types import Batch, Change, Events, Report, State, Version

IDLE_S = 0.005
"""How long a driver sleeps when its source has nothing yet."""


@dataclass(slots=True)
class EveryExamples:
    """Publish after every `examples` learned examples: the same points on every replay."""

    examples: int
    learned: int = 0

    def due(self, batch: Batch | None) -> bool:
        """Return whether another `examples` examples have been learned."""
        self.learned += 0 if batch is None else len(batch)
        if self.learned < self.examples:
            return False
        self.learned %= self.examples
        return True

    def state(self) -> State:
        """Return the count since the last publication."""
        return {"learned": self.learned}

    def restore(self, state: State) -> None:
        """Continue counting."""
        self.learned = int(state["learned"])  # type: ignore[arg-type]


@dataclass(slots=True)
class EveryEventTime:
    """Publish when the newest event time has moved on by `interval_us`: replayable, and "every minute" on a log."""

    interval_us: int
    newest: int = -1
    published: int = -1

    def due(self, batch: Batch | None) -> bool:
        """Return whether the stream has moved on far enough since the last publication."""
        if batch is None or not len(batch):
            return False
        self.newest = max(self.newest, int(batch.event_times.max()))
        if self.published < 0:
            self.published = self.newest
        if self.newest - self.published < self.interval_us:
            return False
        self.published = self.newest
        return True

    def state(self) -> State:
        """Return both times."""
        return {"newest": self.newest, "published": self.published}

    def restore(self, state: State) -> None:
        """Continue."""
        self.newest, self.published = int(state["newest"]), int(state["published"])  # type: ignore[arg-type]


class Never:
    """Never publish while the loop runs; the end of the stream still publishes once."""

    def due(self, batch: Batch | None) -> bool:
        """Return False."""
        return False


@dataclass(slots=True, kw_only=True)
class Loop:
    """The parts of one loop. Optional parts may be None; the steps that need them are skipped.

    Attributes:
        batch_rows: Examples per learning step; the joiner's output is cut at multiples of it. None: as joined.
        read_rows: Request rows asked from the source at a time.
        checkpoint_every: Versions (published, or due where there is no publisher) between two checkpoints.
        closed: Whether answers depend on predictions, so that a replay would meet other answers. Such a loop saves
            before it publishes, at the end of a read: what was published is never learned again in another way. None:
            exactly when there is feedback. A recorded log may say False; its replay regenerates the same versions.
        on_step: Called after every step with the loop's progress; for terminal views.
        stop: Asked before every step; True ends the run as if the stream had paused (nothing is lost).
    """

    source: Source
    joiner: Joiner
    learner: Learner
    predictor: Predictor | None = None
    feedback: Feedback | None = None
    publisher: Publisher | None = None
    metric: Metric | None = None
    cadence: Cadence = field(default_factory=Never)
    checkpoint: Checkpoint | None = None
    batch_rows: int | None = None
    read_rows: int = 1024
    checkpoint_every: int = 10
    closed: bool | None = None
    on_step: Callable[[Progress], None] | None = None
    stop: Callable[[], bool] | None = None


@dataclass(slots=True)
class Progress:
    """Where a run stands: counts, the last loss and the last published version."""

    requests: int = 0
    examples: int = 0
    steps: int = 0
    loss: float = float("nan")
    version: Version = field(default_factory=lambda: Version(-1))
    seconds: float = 0.0


def run(loop: Loop) -> Report:
    """Drive the whole loop until the source ends or `stop` says so, and report.

    The seven steps of the design, plus: the joiner is drained at the end, the cadence is asked on empty steps, and
    every `checkpoint_every` versions one atomic checkpoint holds source position, joiner, learner, metric and version.
    If the checkpoint has a state, the run continues from it and regenerates what was published after it; the
    publisher recognises that. A predictor has to be caught up with the publisher before. Answers that come after the
    last request are learned if `Feedback.collect` returns them for a read without rows.
    """
    driver = _Driver(loop)
    driver.resume()
    ended = False
    while not ended and not (loop.stop and loop.stop()):
        try:
            requests = loop.source.read(loop.read_rows)
        except SourceEnded:
            ended, requests = True, None
        if requests is None:
            if not ended:
                driver.publish_if(loop.cadence.due(None))
                time.sleep(IDLE_S)
            continue
        predictions = loop.predictor.predict(requests) if loop.predictor is not None else None
        answered = loop.feedback is not None and predictions is not None
        answers = loop.feedback.collect(requests, predictions) if answered else None  # type: ignore[union-attr, arg-type]
        driver.progress.requests += len(requests)
        driver.learn(loop.joiner.add(requests, predictions, answers))
        driver.end_of_read()
    if ended:
        driver.learn(loop.joiner.flush())
        driver.publish_if(driver.unpublished > 0)
        driver.end_of_read()
    driver.save()
    return driver.report(ended)


def fit(loop: Loop) -> Report:
    """Drive the left half: source → examples → learner (→ publisher). Predictor and feedback are not asked.

    The joiner is whatever turns the source's rows into batches (`headrace.data.collate.Collator` for rows that are
    examples already). Used for offline training and by the learner process.
    """
    predictor, feedback = loop.predictor, loop.feedback
    loop.predictor = loop.feedback = None
    try:
        return run(loop)
    finally:
        loop.predictor, loop.feedback = predictor, feedback


def predict(
    source: Source, predictor: Predictor, sink: Callable[[Events, Events], None], *, read_rows: int = 4096
) -> Report:
    """Drive the right half: every request row of a finite source is answered once, in order, into `sink`.

    Args:
        source: Where requests come from.
        predictor: Who answers.
        sink: Called with (requests, predictions) of each chunk; has to be idempotent if runs are repeated.
        read_rows: Rows per chunk; the answers do not depend on it.
    """
    if read_rows < 1:
        raise ConfigError("read_rows", got=read_rows, expected="a positive integer")
    rows, started = 0, time.monotonic()
    while True:
        try:
            requests = source.read(read_rows)
        except SourceEnded:
            break
        if requests is None:
            time.sleep(IDLE_S)
            continue
        sink(requests, predictor.predict(requests))
        rows += len(requests)
    report = Report()
    report.add("rows", rows, source="loop.predict")
    report.add("rows_per_s", rows / max(time.monotonic() - started, 1e-9), unit="rows/s", source="loop.predict")
    return report


class _Driver:
    """Steps 5 to 7 of the loop and their durable state."""

    def __init__(self, loop: Loop) -> None:
        self.loop, self.progress = loop, Progress()
        self.started, self.unpublished, self.since_checkpoint = time.monotonic(), 0, 0
        self.closed = loop.feedback is not None if loop.closed is None else loop.closed
        self.pending, self.notes = False, list[str]()

    def resume(self) -> None:
        """Continue from the checkpoint, if there is one."""
        loop = self.loop
        state = loop.checkpoint.load() if loop.checkpoint else None
        if state is None:
            if loop.publisher is not None:
                self._publish()  # version 0, the initial model: serving can begin before anything is learned
            return
        for name, part in self._parts().items():
            if name in state:
                part.restore(state[name])  # type: ignore[arg-type]
            else:
                self.notes.append(f"the checkpoint has no state of '{name}': it starts anew")
        loop.source.seek(state["position"])  # type: ignore[arg-type]
        counts = state["progress"]
        assert isinstance(counts, dict)
        self.progress.requests, self.progress.examples = int(counts["requests"]), int(counts["examples"])  # type: ignore[arg-type]
        self.progress.steps, self.unpublished = int(counts["steps"]), int(counts["unpublished"])  # type: ignore[arg-type]
        self.progress.version = Version(int(counts["version"]), int(counts["version"]) - 1)  # type: ignore[arg-type]
        if loop.publisher is not None and (counts["pending"] or self.progress.version.number < 0):
            self._publish()

    def learn(self, batch: Batch | None) -> None:
        """Judge, learn and publish, piece by piece."""
        if batch is None:
            self.publish_if(self.loop.cadence.due(None))
            return
        for piece in batch.split(self.loop.batch_rows):
            if self.loop.metric is not None:
                self.loop.metric.update(piece)
            loss = self.loop.learner.learn(piece)
            self.progress.loss = float(loss.total.detach())
            self.progress.examples += len(piece)
            self.progress.steps += 1
            self.unpublished += len(piece)
            self.publish_if(self.loop.cadence.due(piece))
            self.progress.seconds = time.monotonic() - self.started
            if self.loop.on_step:
                self.loop.on_step(self.progress)

    def publish_if(self, due: bool) -> None:
        """Publish when due and something was learned; a closed loop puts it off to the end of the read."""
        if not (due and self.unpublished):
            return
        if self.loop.publisher is None:
            self.unpublished, self.since_checkpoint = 0, self.since_checkpoint + 1
        elif self.closed and self.loop.checkpoint is not None:
            self.pending = True
        else:
            self._publish()

    def _publish(self) -> Change:
        assert self.loop.publisher is not None
        change = self.loop.publisher.publish(self.loop.learner.changes(self.progress.version))
        if self.loop.predictor is not None:
            self.loop.predictor.apply(change)
        self.progress.version, self.unpublished, self.pending = change.version, 0, False
        self.since_checkpoint += 1
        return change

    def end_of_read(self) -> None:
        """Save, and publish what waits, between two reads: there source, joiner and learner stand at the same row."""
        if self.pending:
            self.save()
            self._publish()
        if self.since_checkpoint >= self.loop.checkpoint_every:
            self.save()

    def save(self) -> None:
        """Write one atomic checkpoint of everything."""
        if self.loop.checkpoint is None:
            return
        done = self.progress
        counts = {"requests": done.requests, "examples": done.examples, "steps": done.steps,
                  "unpublished": self.unpublished, "version": done.version.number, "pending": self.pending}  # fmt: skip
        state: State = {"position": dict(self.loop.source.position()), "progress": dict(counts)}
        for name, part in self._parts().items():
            state[name] = part.state()
        self.loop.checkpoint.save(state)
        self.since_checkpoint = 0

    def _parts(self) -> dict[str, Resumable]:
        loop = self.loop
        named = {"joiner": loop.joiner, "learner": loop.learner, "metric": loop.metric, "cadence": loop.cadence,
                 "feedback": loop.feedback}  # fmt: skip
        return {name: part for name, part in named.items() if isinstance(part, Resumable)}

    def report(self, ended: bool) -> Report:
        """Return what the run did."""
        report, done = Report(), self.progress
        seconds = max(time.monotonic() - self.started, 1e-9)
        report.add("requests", done.requests, source="loop.run")
        report.add("examples", done.examples, source="loop.run")
        report.add("steps", done.steps, source="loop.run")
        report.add("version", done.version.number, source="loop.run")
        report.add("examples_per_s", done.examples / seconds, unit="examples/s", source="loop.run")
        if self.loop.metric is not None:
            for name, value in self.loop.metric.compute().items():
                report.add(name, value, source="progressive validation")
        report.notes += ["the stream ended" if ended else "stopped before the end of the stream", *self.notes]
        report.settings["threads"] = torch.get_num_threads()
        return report
