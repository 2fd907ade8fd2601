"""Small, whole stand-ins for every role, for tests of one part without the others. Each keeps its role's contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch

from headrace.errors import ConfigError, DataError, GapError, LeaseLost, SourceEnded, nearest
from headrace.protocols import Lease
from headrace.testing.plain import copied_state
from headrace.types import NO_VERSION, Batch, Change, Events, Jagged, Position, State, Version


class ListSource:
    """Source over events in memory; ends after the last row.

    Args:
        events: Entries, read one behind another.
        pause_every: Every so many reads say "nothing yet" once, as a live log does; 0: never.
    """

    def __init__(self, events: Sequence[Events], *, pause_every: int = 0) -> None:
        self._events, self._row, self._reads, self._pause_every = list(events), 0, 0, pause_every

    def read(self, limit: int) -> Events | None:
        """Return at most `limit` next rows, of one entry at a time."""
        self._reads += 1
        if self._pause_every and self._reads % self._pause_every == 0:
            return None
        start = 0
        for entry in self._events:
            if self._row < start + len(entry):
                rows = entry.slice(self._row - start, min(limit, start + len(entry) - self._row))
                self._row += len(rows)
                return rows
            start += len(entry)
        raise SourceEnded("ListSource: all rows were read")

    def position(self) -> Position:
        """Return the number of rows read."""
        return {"list": self._row}

    def seek(self, position: Position) -> None:
        """Read on from there."""
        self._row = position.get("list", 0)


class AnswerEverything:
    """Feedback that clicks every item at once, at the time of its request.

    Args:
        kind: Kind of the answers.
    """

    def __init__(self, kind: str = "click") -> None:
        self.kind = kind
        self._answered: set[tuple[str, str]] = set()

    def collect(self, requests: Events, predictions: Events) -> Events | None:
        """Return one answer per request row that was not answered before."""
        pairs = list(zip(requests.column("key").to_pylist(), requests.column("item").to_pylist(), strict=True))
        rows = [row for row, pair in enumerate(pairs) if pair not in self._answered]
        self._answered.update(pairs)
        if not rows:
            return None
        chosen = requests.take(np.array(rows))
        return Events.from_columns({
            "key": chosen.column("key"), "kind": pa.repeat(pa.scalar(self.kind), len(rows)),
            "event_time": chosen.column("event_time"), "item": chosen.column("item"),
        })  # fmt: skip


class ListJoiner:
    """Joiner that waits for `flush`: an example per request row, positive where an answer came; no window, no features.

    Example ids are counted in the order of the rows; `ids` holds one feature `item` with the item's row number.
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], list[float]] = {}
        self._positive: dict[tuple[str, str], bool] = {}
        self._flushed = 0

    def add(self, requests: Events, predictions: Events | None, answers: Events | None) -> Batch | None:
        """Remember the rows; returns None, always."""
        count = len(requests)
        scores = predictions.column("score").to_pylist() if predictions is not None else [float("nan")] * count
        versions = predictions.column("version").to_pylist() if predictions is not None else [NO_VERSION] * count
        pairs = zip(requests.column("key").to_pylist(), requests.column("item").to_pylist(), strict=True)
        for pair, time, score, version in zip(pairs, requests.times.tolist(), scores, versions, strict=True):
            self._rows.setdefault(pair, [time, score, version])
        if answers is not None:
            found = zip(answers.column("key").to_pylist(), answers.column("item").to_pylist(), strict=True)
            self._positive.update(dict.fromkeys(found, True))
        return None

    def flush(self) -> Batch | None:
        """Return an example per row added since the last flush."""
        pairs = list(self._rows)[self._flushed :]
        if not pairs:
            return None
        start, count = self._flushed, len(pairs)
        self._flushed += count
        times = torch.tensor([int(self._rows[pair][0]) for pair in pairs])
        return Batch(
            ids={"item": Jagged(torch.arange(start, start + count), torch.arange(count + 1))},
            dense=torch.zeros(count, 0), labels=torch.tensor([float(pair in self._positive) for pair in pairs]),
            weights=torch.ones(count), event_times=times, accepted_times=torch.zeros(count, dtype=torch.int64),
            example_ids=torch.arange(start, start + count),
            predictions=torch.tensor([float(self._rows[pair][1]) for pair in pairs]),
            versions=torch.tensor([int(self._rows[pair][2]) for pair in pairs]), sample_rates=torch.ones(count),
        )  # fmt: skip

    def state(self) -> State:
        """Return all rows."""
        rows = [[key, item, *values] for (key, item), values in self._rows.items()]
        return {"rows": rows, "positive": [list(pair) for pair in self._positive], "flushed": self._flushed}  # type: ignore[dict-item]

    def restore(self, state: State) -> None:
        """Continue."""
        rows, positive = copied_state(state)["rows"], state["positive"]
        assert isinstance(rows, list)
        assert isinstance(positive, list)
        self._rows = {(row[0], row[1]): row[2:] for row in rows}  # type: ignore[index,misc]
        self._positive = {(pair[0], pair[1]): True for pair in positive}  # type: ignore[index,misc]
        self._flushed = int(state["flushed"])  # type: ignore[arg-type]


class DictPublisher:
    """Publisher that keeps changes in a dict.

    Args:
        kept: Where changes are kept, number to change; give the same dict to another publisher to "open it again".
    """

    def __init__(self, kept: dict[int, Change] | None = None) -> None:
        self.kept = {} if kept is None else kept

    def publish(self, change: Change) -> Change:
        """Keep the next change; recognise a repeated one."""
        number = change.version.number
        if number in self.kept and self.kept[number].checksum() == change.checksum():
            return self.kept[number]
        if number != len(self.kept):
            raise GapError("DictPublisher", got=f"version {number}", expected=f"version {len(self.kept)}")
        self.kept[number] = change
        return change

    def last(self) -> Version:
        """Return the last version."""
        return self.kept[len(self.kept) - 1].version if self.kept else Version(NO_VERSION)


class ConstantPredictor:
    """Predictor that gives every row the same score, and keeps to the order of versions like a real one.

    Args:
        score: The score.
    """

    def __init__(self, score: float = 0.5) -> None:
        self.score, self.version = score, NO_VERSION

    def predict(self, requests: Events) -> Events:
        """Return one row per request row."""
        count = len(requests)
        return Events.from_columns({
            "key": requests.column("key"), "kind": pa.repeat(pa.scalar("prediction"), count),
            "event_time": requests.column("event_time"), "item": requests.column("item"),
            "score": np.full(count, self.score, dtype=np.float32), "version": np.full(count, self.version),
        })  # fmt: skip

    def apply(self, change: Change) -> None:
        """Move to the change's version."""
        if change.version.number <= self.version:
            return
        if change.version.parent != self.version and not change.full:
            raise GapError(
                "ConstantPredictor", got=f"a change of version {change.version.parent}",
                expected=f"one of version {self.version}", do="Apply the changes in between.",
            )  # fmt: skip
        self.version = change.version.number


class FunctionFeedback:
    """Feedback that is a function of (requests, predictions).

    Args:
        answer: The function.
    """

    def __init__(self, answer: Callable[[Events, Events], Events | None]) -> None:
        self._answer = answer

    def collect(self, requests: Events, predictions: Events) -> Events | None:
        """Return what the function returns."""
        return self._answer(requests, predictions)


class MemoryCheckpoint:
    """Checkpoint in memory."""

    def __init__(self) -> None:
        self._state: State | None = None
        self.saves = 0

    def save(self, state: State) -> None:
        """Keep a copy."""
        self._state, self.saves = copied_state(state), self.saves + 1

    def load(self) -> State | None:
        """Return a copy of the last state saved."""
        return None if self._state is None else copied_state(self._state)


class MemoryQueue:
    """Work queue in memory, with a clock that the test moves.

    Args:
        shards: Shards of work.
        lease_s: How long a lease lasts.
    """

    def __init__(self, shards: Sequence[str], *, lease_s: float = 10.0) -> None:
        self._free, self._leases, self._done = list(shards), dict[str, Lease](), set[str]()
        self._fence, self._lease_s, self.now = 0, lease_s, 0.0

    def lease(self, worker: str) -> Lease | None:
        """Lease the first free shard."""
        if not self._free:
            return None
        self._fence += 1
        lease = Lease(self._free.pop(0), worker, self._fence, self.now + self._lease_s)
        self._leases[lease.shard] = lease
        return lease

    def done(self, lease: Lease) -> None:
        """Finish a shard, if it still is the lease's."""
        known = [*self._leases, *self._free, *self._done]
        if lease.shard not in known:
            raise DataError("MemoryQueue.done", got=f"shard '{lease.shard}'", expected=nearest(lease.shard, known))
        if self._leases.get(lease.shard) != lease:
            raise LeaseLost(f"Shard '{lease.shard}'", got=f"fence {lease.fence}", expected="the newest lease")
        del self._leases[lease.shard]
        self._done.add(lease.shard)

    def expire(self, now: float) -> int:
        """Free what ended before `now`."""
        ended = [lease for lease in self._leases.values() if lease.expires < now]
        for lease in ended:
            del self._leases[lease.shard]
            self._free.append(lease.shard)
        return len(ended)


class CountingMetric:
    """Metric that counts rows, positives and the mean prediction."""

    def __init__(self) -> None:
        self._rows, self._positives, self._predicted, self._predictions = 0, 0.0, 0, 0.0

    def update(self, batch: Batch) -> None:
        """Count."""
        made = ~batch.predictions.isnan()
        self._rows += len(batch)
        self._positives += float(batch.labels.double().sum())
        self._predicted += int(made.sum())
        self._predictions += float(batch.predictions[made].double().sum())

    def compute(self) -> dict[str, float]:
        """Return rows, share of positives and mean prediction."""
        nan = float("nan")
        return {
            "rows": float(self._rows), "positives": self._positives / self._rows if self._rows else nan,
            "prediction": self._predictions / self._predicted if self._predicted else nan,
        }  # fmt: skip

    def state(self) -> State:
        """Return the counts."""
        return {"rows": self._rows, "positives": self._positives, "predicted": self._predicted,
                "predictions": self._predictions}  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue counting."""
        if set(state) != {"rows", "positives", "predicted", "predictions"}:
            raise ConfigError("CountingMetric.restore", got=sorted(state), expected="the state of a CountingMetric")
        self._rows, self._predicted = int(state["rows"]), int(state["predicted"])  # type: ignore[arg-type]
        self._positives, self._predictions = float(state["positives"]), float(state["predictions"])  # type: ignore[arg-type]


def with_predictions(batch: Batch, scores: Mapping[int, float] | float, version: int = 0) -> Batch:
    """Return the batch with predictions as if they had been served: one score, or one per example id."""
    ids = batch.example_ids.tolist()
    made = [scores if isinstance(scores, float) else scores.get(number, float("nan")) for number in ids]
    predictions = torch.tensor(made, dtype=torch.float32)
    return replace(batch, predictions=predictions, versions=torch.full((len(ids),), version))
