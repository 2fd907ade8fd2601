"""A small world with a known truth: it asks, it clicks late and with a bias, and it knows the best AUC there is.

Closed loop: a `World` is a Source of requests and the Feedback that answers them. Requests are impressions without a
score; the order of the predictions' scores decides who is seen where, and clicks come back when event time has reached
their arrival. Open loop: `stream` writes the log of a world whose lists were made by a logging policy with known
propensities.

Example:
    >>> world = World(WorldConfig(requests=200))
    >>> log = list(world.stream(entry_requests=100))
    >>> shown = Events.concat(log).of_kind("impression")
    >>> len(shown), shown.names[:4]
    (2000, ['key', 'kind', 'event_time', 'item'])
    >>> bool((world.true_probability(shown) < 1).all())
    True
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from headrace.config import fingerprint
from headrace.errors import ConfigError, DataError, SourceEnded
from headrace.feedback.pending import PendingClicks
from headrace.feedback.population import Population, Shown
from headrace.feedback.randomness import Draw, Floats, Ints, bits, normal, uniform
from headrace.feedback.rows import clicks, impressions, join, parse, select
from headrace.feedback.truth import Truth, area_under_curve, expected_area
from headrace.feedback.world_config import WorldConfig
from headrace.types import Events, Position, State

PARTITION = "world"
LOGGER_NOISE = 0.5
"""How badly the logging policy knows the quality of items, in standard deviations."""


class World:
    """Simulated users as Source, Feedback and writer of logs; every number follows from the configuration.

    Row numbers are the only clock that is kept: what is asked at row n, and whether and when it is clicked, does not
    depend on how the stream was cut, on earlier reads or on restarts. Not thread-safe; give each thread its own.

    Cost: on one core about a million request rows a second, 300,000 with answers, 400,000 log rows.

    Args:
        config: The world.
    """

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.population = Population(config)
        self.truth = Truth(self.population)
        self._pending = PendingClicks()
        self._cursor, self._now, self._answered = 0, config.start_us, -1
        self._waiting = self._nothing()
        self._waiting_scores = np.zeros(0)

    def _nothing(self) -> Shown:
        return self.population.rows(0, 0)

    @property
    def _end(self) -> int | None:
        return None if self.config.requests is None else self.config.requests * self.config.candidates

    # ---------------------------------------------------------------------------------------------- Source

    def read(self, limit: int) -> Events | None:
        """Return at most `limit` next request rows: impressions at the reference position, without a score.

        A request's rows come in one read, unless the limit is below `candidates`: then it comes in pieces.

        Raises:
            SourceEnded: After the last of `config.requests` requests.
        """
        if limit < 1:
            raise ConfigError("World.read: limit", got=limit, expected="a positive integer")
        last = self._cursor + limit
        whole = last - last % self.config.candidates
        last = whole if whole > self._cursor else last
        if self._end is not None:
            if self._cursor >= self._end:
                raise SourceEnded(f"World: all {self.config.requests} requests were read")
            last = min(last, self._end)
        shown = self.population.rows(self._cursor, last)
        self._cursor = last
        return impressions(self.population, shown)

    def position(self) -> Position:
        """Return the number of rows read."""
        return {PARTITION: self._cursor}

    def seek(self, position: Position) -> None:
        """Read on from a row number, at once. What was answered stays answered; to start over, make a new World."""
        cursor = position.get(PARTITION, 0)
        if set(position) - {PARTITION} or cursor < 0 or (self._end is not None and cursor > self._end):
            raise DataError("World.seek", got=position, expected=f"{{'{PARTITION}': rows already read}}")
        self._cursor = cursor

    # -------------------------------------------------------------------------------------------- Feedback

    def collect(self, requests: Events, predictions: Events) -> Events | None:
        """Show the requests in the order of their scores and return the clicks that have arrived by their event time.

        Requests have to come in the order in which the world asked; one that was answered already is ignored, so a
        repeated call adds no click. A request whose rows come in two calls is shown when it is whole, or when a later
        one comes.

        Args:
            requests: Rows that `read` returned.
            predictions: Row-aligned with them; `score` decides, ties keep their order.

        Returns:
            Rows of kind `click` (key, item, event_time, `arrival_time`) in order of arrival; None when there are none.

        Raises:
            DataError: If the predictions are not aligned with the requests or a score is not a number.
        """
        if not len(requests):
            return self._arrived(self._now)
        scores = np.asarray(predictions.column("score").to_numpy(zero_copy_only=False), dtype=np.float64)
        if len(scores) != len(requests) or not np.isfinite(scores).all():
            raise DataError(
                "World.collect", got=f"{len(scores)} scores for {len(requests)} requests, or a score that is NaN",
                expected="one finite score per request row",
            )  # fmt: skip
        shown = join([self._waiting, parse(self.population, requests)])
        self._now = max(self._now, int(requests.times.max()))
        self._answer(shown, np.concatenate([self._waiting_scores, scores]), keep=True)
        return self._arrived(self._now)

    def drain(self) -> Events | None:
        """End of the stream: return every click that is still on its way, however late; None when there is none."""
        self._answer(self._waiting, self._waiting_scores, keep=False)
        return self._arrived(None)

    def shown(self, requests: Events, predictions: Events) -> Events:
        """Return whole requests with the `position` at which `collect` shows each row, for models that train on it."""
        scores = np.asarray(predictions.column("score").to_numpy(zero_copy_only=False), dtype=np.float64)
        order, positions = _ranked(parse(self.population, requests).requests, scores)
        where = np.empty(len(scores), dtype=np.float32)
        where[order] = positions
        return requests.with_columns({"position": pa.array(where)})

    def _answer(self, shown: Shown, scores: Floats, *, keep: bool) -> None:
        """Show every whole request, remember its clicks, and keep the rows of one that may not be whole yet."""
        fresh = np.flatnonzero(shown.requests > self._answered)
        fresh = fresh[np.lexsort((fresh, shown.items[fresh], shown.requests[fresh]))]
        pairs = np.stack([shown.requests[fresh], shown.items[fresh]])
        first = np.ones(len(fresh), dtype=bool)
        first[1:] = (pairs[:, 1:] != pairs[:, :-1]).any(axis=0)
        rows = np.sort(fresh[first])
        whole = np.ones(len(rows), dtype=bool)
        if keep and len(rows):
            newest = shown.requests[rows] == shown.requests[rows].max()
            whole = ~newest if newest.sum() < self.config.candidates else whole
        later = rows[~whole]
        self._waiting, self._waiting_scores = select(shown, later), scores[later]
        shown, scores = select(shown, rows[whole]), scores[rows[whole]]
        if len(scores):
            self._answered = int(shown.requests.max())
            order, positions = _ranked(shown.requests, scores)
            self._click(select(shown, order), positions)

    def _click(self, shown: Shown, positions: Floats) -> None:
        clicked = select(shown, np.flatnonzero(self.truth.clicks(shown, positions)))
        times = clicked.times + self.truth.delays(clicked.requests, clicked.items)
        arrivals = times + self.truth.lags(clicked.requests, clicked.items)
        self._pending.push(arrivals, times, clicked.requests, clicked.items)

    def _arrived(self, until: int | None) -> Events | None:
        taken = self._pending.pop(until)
        return clicks(taken) if len(taken["items"]) else None

    # ------------------------------------------------------------------------------------------- open loop

    def entry(self, requests: int = 400) -> Events:
        """Return the next entry of the world's log: impressions of so many requests, and clicks, in order of arrival.

        Impressions carry `position` and `propensity`, the exact probability that the logging policy puts this item of
        this request at this position; clicks leave the features null. `arrival_time` is on the world's clock.

        Raises:
            SourceEnded: When all requests and clicks have been written.
        """
        if requests < 1:
            raise ConfigError("World.entry: requests", got=requests, expected="a positive integer")
        first = self._cursor
        if first % self.config.candidates:
            raise DataError("World.entry", got=f"row {first}", expected="the first row of a request")
        last = first + requests * self.config.candidates
        last = last if self._end is None else min(last, self._end)
        if first >= last:
            rest = self._arrived(None)
            if rest is None:
                raise SourceEnded(f"World: the log of {self.config.requests} requests is written")
            return rest
        shown = self.population.rows(first, last)
        positions, propensities = self._logged(shown)
        self._click(shown, positions)
        self._cursor = last
        following = self.population.request_times(np.array([last // self.config.candidates]))
        written = impressions(self.population, shown, positions).with_columns({
            "propensity": pa.array(propensities.astype(np.float32)), "arrival_time": pa.array(shown.times),
        })  # fmt: skip
        arrived = self._arrived(int(following[0]) - 1)
        if arrived is None:
            return written
        arrivals = np.concatenate([shown.times, arrived.column("arrival_time").to_numpy()])
        return Events.concat([written, arrived]).take(np.argsort(arrivals, kind="stable"))

    def stream(self, entry_requests: int = 400) -> Iterator[Events]:
        """Yield log entries until everything is written; `state` between two entries continues exactly."""
        while True:
            try:
                entry = self.entry(entry_requests)
            except SourceEnded:
                return
            yield entry

    def _logged(self, shown: Shown) -> tuple[Floats, Floats]:
        """Return position (from 1) and propensity of every row of whole requests under the logging policy."""
        width, seed = self.config.candidates, self.config.seed
        requests = shown.requests.reshape(-1, width)
        quality = self.population.quality(shown.items) + self.population.wave(shown.items, shown.times)
        guess = quality + LOGGER_NOISE * normal(seed, Draw.LOGGER, shown.items)
        best = _places(-guess.reshape(-1, width))
        shuffled = _places(bits(seed, Draw.EXPLORE, requests, shown.items.reshape(-1, width)))
        explored = uniform(seed, Draw.EXPLORE, requests[:, :1]) < self.config.explore
        positions = np.where(explored, shuffled, best)
        share = self.config.explore
        propensities = share / width + (1.0 - share) * (positions == best)
        return (positions + 1.0).reshape(-1), propensities.reshape(-1)

    # ----------------------------------------------------------------------------------------------- truth

    def true_probability(
        self, events: Events, *, position: float | None = None, window_s: float | None = None
    ) -> Floats:
        """Return the exact click probability of every impression, (N,) float64.

        Args:
            events: Impressions (or examples) of this world.
            position: Answer for this position instead of the column's.
            window_s: Answer for clicks that happen within this time; None: at any time.
        """
        shown = parse(self.population, events)
        if position is None:
            positions = np.asarray(events.column("position").to_numpy(zero_copy_only=False), dtype=np.float64)
        else:
            positions = np.full(len(events), float(position))
        if not (positions >= 1).all():
            raise DataError("World: position", got="values below 1 or missing ones", expected="1, 2, 3, ...")
        share = 1.0 if window_s is None else self.truth.clicked_within(window_s)
        return share * self.truth.probability(shown, positions)

    def bayes_auc(self, events: Events, labels: npt.ArrayLike | None = None, *, position: float | None = None) -> float:
        """Return the AUC of the true probabilities: what no model can beat, other than by luck.

        Args:
            events: Impressions (or examples) of this world.
            labels: Their 0/1 labels, (N,); None: the mean over all labels that the probabilities can produce.
            position: Judge at this position, as a model is served; None: with the positions known.
        """
        truth = self.true_probability(events, position=position)
        if labels is not None:
            return area_under_curve(truth, np.asarray(labels, dtype=np.float64))
        return expected_area(truth)

    # ----------------------------------------------------------------------------------------------- state

    def state(self) -> State:
        """Return row number, clock, rows that wait for the rest of their request, and clicks on their way."""
        waiting = np.stack([getattr(self._waiting, name) for name in Shown.__slots__])
        return {
            "world": fingerprint(self.config), "cursor": self._cursor, "now": self._now, "answered": self._answered,
            "waiting": torch.from_numpy(waiting), "waiting_scores": torch.from_numpy(self._waiting_scores.copy()),
            "pending": self._pending.state(),
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue exactly; ConfigError if the state is another world's, before anything changed."""
        if state.get("world") != fingerprint(self.config):
            raise ConfigError(
                "World.restore", got=f"the state of world {state.get('world')!r}",
                expected=f"world {fingerprint(self.config)}", do="Use the configuration that the run began with.",
            )  # fmt: skip
        waiting, scores, pending = state["waiting"], state["waiting_scores"], state["pending"]
        assert isinstance(waiting, torch.Tensor)
        assert isinstance(scores, torch.Tensor)
        assert isinstance(pending, dict)
        self._pending.restore(pending)
        self._cursor, self._now, self._answered = (int(state[name]) for name in ("cursor", "now", "answered"))  # type: ignore[arg-type]
        self._waiting = Shown(**dict(zip(Shown.__slots__, waiting.numpy().copy(), strict=True)))
        self._waiting_scores = scores.numpy().copy()


def _places(values: npt.NDArray[np.generic]) -> Ints:
    """Return the rank of each value in its row, from 0, (R, K)."""
    return np.argsort(np.argsort(values, axis=1, kind="stable"), axis=1, kind="stable").astype(np.int64)


def _ranked(requests: Ints, scores: Floats) -> tuple[Ints, Floats]:
    """Return the rows sorted by request and falling score, and their positions from 1. Shapes: (N,), (N,)."""
    order: Ints = np.lexsort((np.arange(len(scores)), -scores, requests)).astype(np.int64)
    _, starts, counts = np.unique(requests[order], return_index=True, return_counts=True)
    positions: Floats = np.arange(1, len(scores) + 1, dtype=np.float64) - np.repeat(starts, counts)
    return order, positions
