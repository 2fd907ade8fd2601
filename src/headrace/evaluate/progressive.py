"""Progressive validation: predictions judged as they were made, before anything is learned from their answers."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from headrace.config import require
from headrace.errors import ConfigError
from headrace.evaluate.intervals import hanley_mcneil_interval
from headrace.evaluate.metrics import Floats
from headrace.evaluate.streaming import EXACT_ROWS, Tally
from headrace.types import Batch, State, StateValue

LOGGED = "score_logged"
NOTHING_YET = -(1 << 63)
Integers = npt.NDArray[np.int64]


class _Views:
    """Two tallies of the same examples: of the score as served, and of the score with the logged values."""

    def __init__(self, exact_rows: int) -> None:
        self.served, self.logged = Tally(exact_rows=exact_rows), Tally(exact_rows=exact_rows)

    def numbers(self) -> dict[str, float]:
        """Return the numbers of both; those with logged values only where there are any."""
        logged = {f"logged_{name}": value for name, value in self.logged.numbers().items()} if self.logged.rows else {}
        counts = {"rows": float(self.served.rows), "positives": float(self.served.positives)}
        return self.served.numbers() | logged | counts

    def state(self) -> State:
        """Return both."""
        return {"served": self.served.state(), "logged": self.logged.state()}

    def restore(self, state: State) -> None:
        """Continue both."""
        self.served.restore(_part(state["served"]))
        self.logged.restore(_part(state["logged"]))


class ProgressiveMetric:
    """AUC, normalised entropy and calibration of predictions as made: in total, and by cohorts of impression time.

    A cohort is a window of impression times. Its numbers are complete, and reported, when it closes: no example of it
    can come any more. With a join whose examples come out in order of impression time (`headrace.data.join`), that is
    when a negative with a later impression time than the cohort's end has come, because a negative comes out when its
    own attribution window has passed. Examples of a closed cohort still count in total and are counted as
    `after_close`. Examples without a prediction (NaN) are skipped and counted.

    Where negatives were sampled, every example weighs 1 / sample_rate, so that all numbers are those of the whole
    traffic, which is what predictions as served are about.

    Args:
        window_s: Width of a cohort in seconds of impression time.
        attribution_s: Close a cohort when any example is at least this much newer than its end, instead: attribution
            window plus lateness; for joins that give no negatives, or labels that never come late (0).
        exact_rows: Up to how many rows an AUC is exact; binned beyond.
        max_open: Open cohorts at most; the oldest is closed beyond (one wrong clock must not cost unbounded memory).
        max_history: Closed cohorts kept for `history`; the oldest are dropped beyond.
    """

    def __init__(
        self, *, window_s: float, attribution_s: float | None = None, exact_rows: int = EXACT_ROWS,
        max_open: int = 256, max_history: int = 10_000,
    ) -> None:  # fmt: skip
        require(window_s > 0, "window_s", got=window_s, expected="a positive number of seconds")
        require(attribution_s is None or attribution_s >= 0, "attribution_s", got=attribution_s,
                expected="seconds, at least 0, or None")  # fmt: skip
        require(max_open >= 1, "max_open", got=max_open, expected="at least 1")
        require(max_history >= 1, "max_history", got=max_history, expected="at least 1")
        self.window = round(window_s * 1e6)
        require(self.window >= 1, "window_s", got=window_s, expected="at least a microsecond")
        self.attribution = None if attribution_s is None else round(attribution_s * 1e6)
        self.exact_rows, self.max_open = exact_rows, max_open
        self._total, self._open = _Views(exact_rows), dict[int, _Views]()
        self._history: deque[dict[str, float]] = deque(maxlen=max_history)
        self._reached = NOTHING_YET  # the event time up to which cohorts are complete
        self._forced = NOTHING_YET  # cohorts before this one were closed for want of memory
        self.skipped = self.after_close = self.cohorts = 0

    def update(self, batch: Batch) -> None:
        """Judge a batch of examples.

        Raises:
            DataError: If a label is not 0 or 1, or a prediction not in [0, 1].
        """
        if not len(batch):
            return
        times, labels = batch.event_times.numpy(), batch.labels.numpy().astype(np.float64)
        weights = 1.0 / batch.sample_rates.numpy().astype(np.float64)
        served = batch.predictions.detach().numpy().astype(np.float64)
        logged = batch.extra[LOGGED].detach().numpy().astype(np.float64) if LOGGED in batch.extra else None
        reached = self._reach(times, labels)
        cohorts = times // self.window
        late = (cohorts < self._forced) | (cohorts < np.floor_divide(reached[:-1], self.window))
        made = ~np.isnan(served)
        self.skipped += int((~made).sum())
        self.after_close += int((late & made).sum())
        for views, rows in self._shares(cohorts, late):
            _count(views.served, rows & made, labels, served, weights)
            if logged is not None:
                _count(views.logged, rows & ~np.isnan(logged), labels, logged, weights)
        self._reached = int(reached[-1])
        self._close(self._reached // self.window)

    def _reach(self, times: Integers, labels: Floats) -> Integers:
        """Return up to which event time all cohorts are complete, before every row and after the last, (N + 1,)."""
        if self.attribution is None:
            complete = np.where(labels == 0, times, NOTHING_YET)
        else:
            complete = times - self.attribution
        reached: Integers = np.maximum.accumulate(np.concatenate([np.array([self._reached]), complete]))
        return reached

    def _shares(self, cohorts: Integers, late: npt.NDArray[np.bool_]) -> Iterator[tuple[_Views, npt.NDArray[np.bool_]]]:
        yield self._total, np.ones(len(cohorts), dtype=bool)
        for cohort in np.unique(cohorts[~late]).tolist():
            views = self._open.setdefault(cohort, _Views(self.exact_rows))
            yield views, ~late & (cohorts == cohort)

    def _close(self, before: int) -> None:
        due = sorted(cohort for cohort in self._open if cohort < before)
        left = sorted(cohort for cohort in self._open if cohort >= before)
        for cohort in left[: max(len(left) - self.max_open, 0)]:
            due.append(cohort)
            self._forced = cohort + 1
        for cohort in due:
            views = self._open.pop(cohort)
            self._history.append({"start": float(cohort * self.window), "end": float((cohort + 1) * self.window)}
                                 | views.numbers())  # fmt: skip
            self.cohorts += 1

    def compute(self) -> dict[str, float]:
        """Return the numbers so far.

        `auc` (with `auc_low`, `auc_high`, Hanley and McNeil's interval), `ne`, `log_loss`, `calibration`, `ece`, `rows`
        and `positives` of everything; the same with `window_` of the newest closed cohort that has both classes; with
        `logged_` for the scores with logged values, where there are any; and the counts `skipped`, `after_close`,
        `cohorts` (closed) and `open_cohorts`.
        """
        total, newest = self._total.numbers(), self._newest()
        negatives = total["rows"] - total["positives"]
        interval = hanley_mcneil_interval(total["auc"], total["positives"], negatives)
        window = {f"window_{name}": value for name, value in newest.items() if name not in ("start", "end")}
        return total | {"auc_low": interval.low, "auc_high": interval.high} | window | {
            "skipped": float(self.skipped), "after_close": float(self.after_close), "cohorts": float(self.cohorts),
            "open_cohorts": float(len(self._open)),
        }  # fmt: skip

    def _newest(self) -> dict[str, float]:
        for row in reversed(self._history):
            if not math.isnan(row["auc"]):
                return row
        return _Views(0).numbers() | {"rows": math.nan, "positives": math.nan}

    def history(self) -> list[dict[str, float]]:
        """Return the closed cohorts, oldest first: start and end (µs of impression time) and all numbers."""
        return [dict(row) for row in self._history]

    def state(self) -> State:
        """Return all tallies and the history."""
        history: list[StateValue] = [dict(row) for row in self._history]
        return {
            "settings": self._settings(), "total": self._total.state(), "history": history,
            "open": {str(cohort): views.state() for cohort, views in sorted(self._open.items())},
            "reached": self._reached, "forced": self._forced, "skipped": self.skipped,
            "after_close": self.after_close, "cohorts": self.cohorts,
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue exactly.

        Raises:
            ConfigError: If the state was written with other settings; nothing was changed.
        """
        if state["settings"] != self._settings():
            raise ConfigError("ProgressiveMetric state", got=str(state["settings"]), expected=str(self._settings()),
                              do="Restore with the settings it was written with.")  # fmt: skip
        total, opened = _Views(self.exact_rows), dict[int, _Views]()
        total.restore(_part(state["total"]))
        for cohort, views in _part(state["open"]).items():
            opened[int(cohort)] = _Views(self.exact_rows)
            opened[int(cohort)].restore(_part(views))
        history = state["history"]
        assert isinstance(history, list)
        self._total, self._open = total, opened
        self._history.clear()
        self._history.extend({name: float(value) for name, value in _part(row).items()} for row in history)  # type: ignore[arg-type]
        self._reached, self._forced = int(state["reached"]), int(state["forced"])  # type: ignore[arg-type]
        self.skipped = int(state["skipped"])  # type: ignore[arg-type]
        self.after_close, self.cohorts = int(state["after_close"]), int(state["cohorts"])  # type: ignore[arg-type]

    def _settings(self) -> State:
        return {"window": self.window, "attribution": self.attribution, "exact_rows": self.exact_rows,
                "max_open": self.max_open}  # fmt: skip


def _count(tally: Tally, rows: npt.NDArray[np.bool_], labels: Floats, probabilities: Floats, weights: Floats) -> None:
    if rows.any():
        tally.update(labels[rows], probabilities[rows], weights[rows])


def _part(value: StateValue) -> State:
    assert isinstance(value, dict)
    return value
