"""Online learning rehearsed in one process on a recorded log, for experiments: no servers, no waiting, same parts.

A log is streamed in order through a learner. Before each block of rows is learned, every *arm* scores it with the
version that it serves; after it, the learner publishes, and each arm moves on when its own cadence says so. Arms differ
in nothing but how often they are synchronised: "frozen" never moves, "every minute" moves every minute.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from headrace.config import require
from headrace.data import Schema, collate
from headrace.evaluate import auc
from headrace.online.build import embedding, open_learner, open_tables, seeded_model
from headrace.online.config import OnlineConfig
from headrace.protocols import Cadence
from headrace.publish import Replica
from headrace.publish.change import encode, merge
from headrace.store.hashing import mix64
from headrace.types import NO_VERSION, Batch, Change, Events, RowChange, State, Version

SCORE_ROWS = 8192
"""Rows scored at a time; the scores depend on it by rounding only."""

MERGE_AT = 64
"""Changes that an arm keeps apart; more are merged, so that an arm that never moves holds each row once."""

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ExampleLog:
    """Examples in the order of the log, collated once.

    Attributes:
        learned: The rows as they are learned from.
        served: The rows as they are scored: features that only the log knows stand at their reference value.
        starts: (rows,) the first row of the request that each row belongs to.
    """

    learned: Batch
    served: Batch
    starts: Integers

    @staticmethod
    def from_events(events: Events, schema: Schema) -> ExampleLog:
        """Collate labelled rows, as they stand."""
        learned, served = collate(events, schema), collate(events, schema, serving=True)
        keys = events.column("key").dictionary_encode().indices.to_numpy(zero_copy_only=False)
        first = np.concatenate([np.ones(1, np.bool_), keys[1:] != keys[:-1]])
        starts = np.maximum.accumulate(np.where(first, np.arange(len(keys)), 0))
        return ExampleLog(learned, served, starts.astype(np.int64))

    def __len__(self) -> int:
        return len(self.learned)

    @property
    def labels(self) -> Floats:
        """Labels (rows,)."""
        return np.asarray(self.learned.labels.numpy(), dtype=np.float32)

    @property
    def times(self) -> Integers:
        """Event times (rows,) µs."""
        return np.asarray(self.learned.event_times.numpy(), dtype=np.int64)

    def edges(self, start: int, stop: int, parts: int) -> list[int]:
        """Return `parts + 1` rows that cut `start..stop` into parts of about equal size and never inside a request.

        Raises:
            ConfigError: If there are fewer requests than parts.
        """
        cuts = [start, *(int(self.starts[start + (stop - start) * part // parts]) for part in range(1, parts)), stop]
        rising = all(before < after for before, after in itertools.pairwise(cuts))
        require(rising, "ExampleLog.edges, parts", got=parts, expected="at most one part per request",
                do="Use fewer parts, or more of the log.")  # fmt: skip
        return cuts


class Arm:
    """A replica, the model that reads it, and when it takes over what was published.

    Args:
        config: The run.
        cadence: When to synchronise; see `headrace.loop`.
        logged: Score rows with every logged value, not with the reference values that serving would use.
        weigh: Record the encoded size of every synchronisation.

    Attributes:
        bytes: Encoded size of each synchronisation, if weighed.
        rows: Table rows put or removed by each synchronisation.
        served_until: Newest event time (µs) that the version served has learned.
    """

    def __init__(self, config: OnlineConfig, cadence: Cadence, *, logged: bool = False, weigh: bool = False) -> None:
        self.tables = open_tables(config, serving=True)
        self.model = seeded_model(config, embedding(config.schema, self.tables)).eval()
        self.replica = Replica(self.tables, self.model)
        self.cadence, self.logged, self.weigh = cadence, logged, weigh
        self.bytes: list[int] = []
        self.rows: list[int] = []
        self.served_until = 0
        self._waiting: list[Change] = []

    def score(self, batch: Batch) -> Floats:
        """Return probabilities (B,) of the version served."""
        with self.replica.reading():
            return score(self.model, batch)

    def take(self, change: Change, learned: Batch) -> None:
        """Notice a published change; move to it, together with those before it, when it is time."""
        self._waiting.append(change)
        if len(self._waiting) >= MERGE_AT:
            self._waiting = [merge(self._waiting)]
        if not self.cadence.due(learned):
            return
        delta = merge(self._waiting)
        self._waiting, self.served_until = [], int(learned.event_times.max())
        self.rows.append(sum(len(rows) for rows in delta.tables.values()))
        if self.weigh:
            self.bytes.append(len(encode(delta)))
        self.replica.apply(delta)

    def snapshot(self) -> Change:
        """Return everything that is served, as a full change: what would be sent if there were no deltas."""
        nothing = torch.zeros(0, dtype=torch.int64)
        with self.replica.reading() as version:
            rows = {name: table.changes(0) for name, table in self.tables.items()}
            return Change(
                version=Version(version.number), full=True, spec=dict(self.replica.spec),
                tables={name: RowChange(held.ids, held.rows, nothing) for name, held in rows.items()},
                dense={name: tensor.detach().clone() for name, tensor in self.replica.dense.items()},
            )  # fmt: skip


class EveryBlocks:
    """A cadence that is due after every `blocks` blocks."""

    def __init__(self, blocks: int) -> None:
        require(blocks >= 1, "EveryBlocks, blocks", got=blocks, expected="a positive integer")
        self.blocks, self._seen = blocks, 0

    def due(self, batch: Batch | None) -> bool:
        """Return whether this block is the last of its group."""
        self._seen += 0 if batch is None else 1
        return self._seen > 0 and self._seen % self.blocks == 0


@dataclass(frozen=True, slots=True)
class Moment:
    """A model at one moment: the states of its tables and a copy of its dense part."""

    tables: Mapping[str, State]
    dense: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Stream:
    """What a rehearsal measured on the N rows that it streamed.

    Attributes:
        scores: Arm name to probabilities (N,), each made before the row was learned.
        ages_s: Arm name to seconds of event time (N,) between a row and the newest one that the version which scored
            it had learned.
    """

    scores: Mapping[str, Floats]
    ages_s: Mapping[str, Floats]


class Rehearsal:
    """A learner that reads a log in order, and arms that serve while it learns.

    Args:
        config: The run; its player and joiner are not used, the log holds joined examples.
    """

    def __init__(self, config: OnlineConfig) -> None:
        self.config, self.learner = config, open_learner(config)
        self._version = Version(NO_VERSION)

    def learn(self, log: ExampleLog, start: int, stop: int) -> None:
        """Learn rows `start..stop` in order, in steps of nearly equal size of at most `config.batch_rows`."""
        for first, last in steps(start, stop, self.config.batch_rows):
            self.learner.learn(log.learned.slice(first, last))

    def publish(self) -> Change:
        """Return what was learned since the last call, as the next version; the first one has everything."""
        change = self.learner.changes(self._version)
        self._version = change.version
        return change

    def score(self, batch: Batch) -> Floats:
        """Return probabilities (B,) of the learner's own newest weights."""
        return score(self.learner.model, batch)

    def moment(self) -> Moment:
        """Return a copy of the model as it is."""
        dense = {name: value.detach().clone() for name, value in self.learner.model.state_dict().items()}
        return Moment({name: table.state() for name, table in self.learner.collection.tables.items()}, dense)

    def set_to(self, tables: Mapping[str, State], dense: Mapping[str, Tensor]) -> None:
        """Put table states and dense weights into the model, from one moment or from several."""
        for name, table in self.learner.collection.tables.items():
            table.restore(tables[name])
        self.learner.model.load_state_dict(dict(dense))

    def stream(self, log: ExampleLog, edges: Sequence[int], arms: Mapping[str, Arm]) -> Stream:
        """Stream the blocks between consecutive edges: every arm scores a block, then it is learned and published.

        All arms begin with the version that the learner has now. Only to be called once, and before `publish`.

        Args:
            log: The rows.
            edges: Ascending rows; block i is `edges[i]..edges[i+1]`.
            arms: Who serves, by name; fresh ones.
        """
        begin, newest = self.publish(), int(log.times[: edges[0]].max(initial=0))
        for arm in arms.values():
            arm.replica.apply(begin)
            arm.served_until = newest
        parts: dict[str, list[Floats]] = {name: [] for name in arms}
        ages: dict[str, list[Floats]] = {name: [] for name in arms}
        for first, last in itertools.pairwise(edges):
            for name, arm in arms.items():
                parts[name].append(arm.score((log.learned if arm.logged else log.served).slice(first, last)))
                ages[name].append(((log.times[first:last] - arm.served_until) / 1e6).astype(np.float32))
            self.learn(log, first, last)
            change = self.publish()
            for arm in arms.values():
                arm.take(change, log.learned.slice(first, last))
        return Stream({name: np.concatenate(part) for name, part in parts.items()},
                      {name: np.concatenate(age) for name, age in ages.items()})  # fmt: skip


def steps(start: int, stop: int, rows: int) -> Iterator[tuple[int, int]]:
    """Yield ranges that cover `start..stop`, as few as possible of at most `rows`, sizes differing by one at most.

    Example:
        >>> list(steps(0, 10, 4))
        [(0, 3), (3, 6), (6, 10)]
    """
    count = max(1, math.ceil((stop - start) / rows))
    cuts = [start + (stop - start) * step // count for step in range(count + 1)]
    return ((first, last) for first, last in itertools.pairwise(cuts) if last > first)


def score(model: nn.Module, batch: Batch) -> Floats:
    """Return probabilities (B,) without keeping anything for learning; the model is left in its own mode."""
    training = model.training
    model.eval()
    with torch.no_grad():
        parts = [torch.sigmoid(model(piece)) for piece in batch.split(SCORE_ROWS)]
    model.train(training)
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)


def shuffled_requests(events: Events, *, seed: int) -> Events:
    """Return the requests of a log in a random order, the rows of each still together and in their order."""
    _, request = np.unique(events.column("key").dictionary_encode().indices.to_numpy(), return_inverse=True)
    place = np.random.default_rng(seed).permutation(int(request.max()) + 1)[request]
    return events.take(np.argsort(place, kind="stable"))


def block_gains(labels: Floats, one: Floats, other: Floats, cuts: Sequence[int]) -> list[float]:
    """Return the AUC of scores `one` minus that of `other` in each block of rows between two cuts."""
    return [auc(labels[a:b], one[a:b]) - auc(labels[a:b], other[a:b]) for a, b in itertools.pairwise(cuts)]


def shard_of(ids: Integers, shards: int) -> Integers:
    """Return the logical parameter server (N,) in `0..shards` that holds each id: its mixed bits modulo `shards`."""
    mixed = mix64(np.ascontiguousarray(ids).view(np.uint64))
    return np.asarray(mixed % np.uint64(shards), dtype=np.int64)


def with_lost_shards(now: State, snapshot: State, lost: Sequence[int], shards: int) -> State:
    """Return a table's state after the servers `lost` came back with what the snapshot had of them, slots included.

    Rows of other servers stay. Rows that a lost server got after the snapshot are gone, rows that it had removed
    since are back, and both count as changes of now, so that the next version tells replicas about them.

    Args:
        now: `Table.state()` at the moment of the loss.
        snapshot: `Table.state()` of the same table at the snapshot.
        lost: Numbers of the lost servers.
        shards: How many servers there are; `shard_of` says which id is where.
    """
    mark = cast(int, now["mark"]) + 1
    merged: State = {**now, "mark": mark}
    columns = ("ids", "rows", "slots", "times", "marks", "frequencies")
    for names in (columns, ("pending_ids", "pending_counts", "pending_times")):
        kept = _select(now, names, lost, shards, inside=False)
        back = _select(snapshot, names, lost, shards, inside=True)
        if "marks" in back:
            back["marks"] = torch.full_like(back["marks"], mark)
        merged |= _joined(kept, back)
    kept = _select(now, ("removed_ids", "removed_marks"), lost, shards, inside=False)
    held = [_select(now, (name,), lost, shards, inside=True)[name] for name in ("ids", "removed_ids")]
    gone = torch.cat(held)
    gone = gone[~torch.isin(gone, cast(Tensor, merged["ids"]))]
    return merged | _joined(kept, {"removed_ids": gone, "removed_marks": torch.full_like(gone, mark)})


def _select(state: State, names: Sequence[str], lost: Sequence[int], shards: int, *, inside: bool) -> dict[str, Tensor]:
    """Return the named columns, the first of which holds ids, cut to the ids that are (not) on lost servers."""
    columns = {name: cast(Tensor, state[name]) for name in names}
    keep = np.isin(shard_of(columns[names[0]].numpy(), shards), np.asarray(lost, dtype=np.int64)) == inside
    return {name: column[torch.from_numpy(keep)] for name, column in columns.items()}


def _joined(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return both sets of columns as one, ascending by the first column."""
    whole = {name: torch.cat([column, second[name]]) for name, column in first.items()}
    order = torch.argsort(next(iter(whole.values())))
    return {name: column[order] for name, column in whole.items()}
