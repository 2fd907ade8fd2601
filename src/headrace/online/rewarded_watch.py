"""Watching a run from rewards: numbers and completions of every rollout, and the CPU time of its phases.

The parts of a run wrapped, so that they tell what they see; they do what they did.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from headrace.data import tokens_of
from headrace.errors import CorruptSnapshot
from headrace.learn import PolicyLearner
from headrace.objectives.tokens import joined
from headrace.online.writing import DOMAIN, Writing
from headrace.protocols import Feedback, Learner, Predictor
from headrace.types import Batch, Change, Events, Loss, Report, State, Version

SAMPLES = 4
"""Completions of a rollout that are kept for people to read."""
Point = dict[str, float]
"""What one rollout was like, by name."""


class Watch:
    """Collects what a rollout is like from the parts that see it, and CPU seconds of each phase.

    Args:
        on_point: Called after every rollout.
    """

    def __init__(self, on_point: Callable[[Point, Sequence[str]], None] | None = None) -> None:
        self.points: list[Point] = []
        self.samples: list[str] = []
        self._now: Point = {}
        self._on_point = on_point

    @contextmanager
    def phase(self, name: str) -> Any:
        """Count the CPU time of what happens inside."""
        start = time.process_time()
        yield
        self._now[f"{name}_cpu_s"] = self._now.get(f"{name}_cpu_s", 0.0) + time.process_time() - start

    def note(self, numbers: Point) -> None:
        """Take numbers of the rollout that is under way."""
        self._now |= numbers

    def close(self) -> None:
        """Take the rollout as done."""
        self.points.append({"rollout": float(len(self.points)), **self._now})
        self._now = {}
        if self._on_point is not None:
            self._on_point(self.points[-1], self.samples)

    def finish(self, report: Report, last: int = 3) -> None:
        """Put means of the last rollouts into a report."""
        tail = self.points[-last:]
        for name in tail[-1] if tail else ():
            values = [point[name] for point in tail if name in point]
            report.add(name, sum(values) / len(values), source=f"mean of the last {len(values)} rollouts")


class _TimedPredictor:
    """See `timed`."""

    def __init__(self, inside: Predictor, watch: Watch) -> None:
        self.inside, self.watch = inside, watch

    def predict(self, requests: Events) -> Events:
        """Return what the predictor inside says."""
        with self.watch.phase("generate"):
            return self.inside.predict(requests)

    def apply(self, change: Change) -> None:
        """Move on to the change's version."""
        with self.watch.phase("publish"):
            self.inside.apply(change)


class _JudgedFeedback:
    """See `judged`."""

    def __init__(self, inside: Feedback, writing: Writing, watch: Watch) -> None:
        self.inside, self.writing, self.watch = inside, writing, watch

    def collect(self, requests: Events, predictions: Events) -> Events | None:
        """Return the answers of those inside."""
        with self.watch.phase("reward"):
            answers = self.inside.collect(requests, predictions)
        if len(predictions):
            whole = joined(tokens_of(predictions, "prompt_ids"), tokens_of(predictions, "completion_ids"))
            texts = self.writing.codec.decode(whole.tokens)
            inside = np.array([domain == DOMAIN for domain in requests.column("domain").to_pylist()])
            golds = self.writing.judge(texts)
            found = {"gold": golds[inside], "gold_general": golds[~inside]}
            self.watch.note({name: float(values.mean()) for name, values in found.items() if len(values)})
            self.watch.samples = texts[:SAMPLES]
        return answers


class _WatchedLearner:
    """See `watched`."""

    def __init__(self, inside: PolicyLearner, watch: Watch, config: str) -> None:
        self.inside, self.watch, self.config = inside, watch, config

    def learn(self, batch: Batch) -> Loss:
        """Learn, and close the rollout."""
        with self.watch.phase("learn"):
            loss = self.inside.learn(batch)
        self.watch.note(dict(loss.parts))
        self.watch.close()
        return loss

    def changes(self, since: Version) -> Change:
        """Return the policy after a version."""
        return self.inside.changes(since)

    def state(self) -> State:
        """Return the learner's state, the curve, and what run it is of."""
        return {"learner": self.inside.state(), "points": json.dumps(self.watch.points), "config": self.config}

    def restore(self, state: State) -> None:
        """Go on from there.

        Raises:
            CorruptSnapshot: If it is not the state of such a learner, or of another run; nothing was changed.
        """
        learner, points = state.get("learner"), state.get("points")
        if not isinstance(learner, dict) or not isinstance(points, str) or state.get("config") != self.config:
            raise CorruptSnapshot("State of a run from rewards", got=str(sorted(state)),
                                  expected=f"that of a run with the settings {self.config}",
                                  do="Begin a new run in another folder.")  # fmt: skip
        curve = json.loads(points)
        self.inside.restore(learner)
        self.watch.points[:] = curve


def timed(predictor: Predictor, watch: Watch) -> Predictor:
    """Return a predictor whose CPU time is counted as `generate`; otherwise the one inside.

    Args:
        predictor: The one inside.
        watch: Counts.
    """
    return _TimedPredictor(predictor, watch)


def judged(feedback: Feedback, writing: Writing, watch: Watch) -> Feedback:
    """Return feedback that a hidden judge watches: what it says is noted as `gold`, and never part of an answer.

    Args:
        feedback: Who answers.
        writing: Has the judge.
        watch: Where `gold` (of prompts of the domain), `gold_general` and completions are noted.
    """
    return _JudgedFeedback(feedback, writing, watch)


def watched(learner: PolicyLearner, watch: Watch, config: str) -> Learner:
    """Return a policy learner whose losses are noted; its state has the curve in it.

    Args:
        learner: The one inside.
        watch: Takes notes.
        config: Fingerprint of the run's configuration, kept in the state.
    """
    return _WatchedLearner(learner, watch, config)
