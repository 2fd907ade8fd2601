"""A simulated world as the player of a run: it asks, sees the ranking, and clicks; or its written log is played."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from headrace.data import DenseFeature, IdFeature, Scenario, Schema
from headrace.data.feature_kinds import Transform
from headrace.data.source import MemorySource
from headrace.errors import SourceEnded
from headrace.feedback import FEATURES, REFERENCE_POSITION, World, WorldConfig
from headrace.protocols import Joiner
from headrace.serve.service import places_of
from headrace.types import Batch, Events, Position, State

POSITION = "position"


def world_schema(config: WorldConfig, dim: int) -> Schema:
    """Return the schema of a world's impressions; every embedding has `dim` columns."""
    features: list[IdFeature | DenseFeature] = []
    scenario = None
    for described in FEATURES:
        if described.kind == "id":
            features.append(IdFeature(described.name, dim))
        elif described.kind == "dense":
            transform: Transform = "log1p" if described.transform == "log1p" else "identity"
            features.append(DenseFeature(described.name, transform=transform, serve_as=described.serve_as))
        else:
            features.append(IdFeature(described.name, dim))
            scenario = Scenario(described.name, tuple(place.name for place in config.places))
    return Schema(features=tuple(features), scenario=scenario)


@dataclass(frozen=True)
class BestAuc:
    """The AUC that the true click probabilities of a world's examples have; no model beats it but by luck."""

    config: WorldConfig

    def __call__(self, examples: Events, at_reference: bool) -> float:
        """Return it with positions as shown, or with every example judged at the reference position."""
        labels = examples.column("label").to_numpy(zero_copy_only=False)
        return World(self.config).bayes_auc(examples, labels, position=REFERENCE_POSITION if at_reference else None)


class WorldPlayer:
    """Closed loop: requests without a position, clicks on what the ranking showed, the last clicks at the end.

    Args:
        config: The world.
    """

    def __init__(self, config: WorldConfig) -> None:
        self.world = World(config)
        self._drained = False
        first = World(config).read(1)
        assert first is not None  # a world has at least one request
        self._no_rows = _without_position(first.slice(0, 0))

    def read(self, limit: int) -> Events | None:
        """Return at most `limit` request rows; after the last ones no rows once, so that late clicks can be collected.

        Raises:
            SourceEnded: After that.
        """
        try:
            rows = self.world.read(limit)
        except SourceEnded:
            if self._drained:
                raise
            self._drained = True
            return self._no_rows
        return None if rows is None else _without_position(rows)

    def collect(self, requests: Events, predictions: Events) -> Events | None:
        """Return the clicks that have arrived; with no request rows, all that are still on their way."""
        return self.world.collect(requests, predictions) if len(requests) else self.world.drain()

    def position(self) -> Position:
        """Return where `read` resumes."""
        return {**self.world.position(), "drained": int(self._drained)}

    def seek(self, position: Position) -> None:
        """Resume reading."""
        rest = dict(position)
        self._drained = bool(rest.pop("drained", 0))
        self.world.seek(rest)

    def state(self) -> State:
        """Return the world's state: what is asked and which clicks are on their way."""
        return {"world": self.world.state(), "drained": self._drained}

    def restore(self, state: State) -> None:
        """Continue exactly."""
        world = state["world"]
        assert isinstance(world, dict)
        self.world.restore(world)
        self._drained = bool(state["drained"])


def _without_position(rows: Events) -> Events:
    return Events(rows.batch.drop_columns([POSITION])) if POSITION in rows.names else rows


def world_log(config: WorldConfig, entry_requests: int = 100) -> MemorySource:
    """Return the world's open-loop log (its own logging policy, positions known) as a source."""

    def entries() -> Iterator[Events]:
        yield from World(config).stream(entry_requests)

    return MemorySource(list(entries()))


class Placed:
    """A joiner to whose requests the place is added that their predictions give them, as a server does.

    Args:
        inner: The joiner.
        column: Name of the position column.
    """

    def __init__(self, inner: Joiner, column: str) -> None:
        self.inner, self.column = inner, column

    def add(self, requests: Events, predictions: Events | None, answers: Events | None) -> Batch | None:
        """Add the place where it is unknown, then pass on."""
        if len(requests) and predictions is not None and self.column not in requests.names:
            requests = requests.with_columns({self.column: pa.array((places_of(predictions) + 1).astype("float32"))})
        return self.inner.add(requests, predictions, answers)

    def flush(self) -> Batch | None:
        """Pass on."""
        return self.inner.flush()

    def state(self) -> State:
        """Return the inner state."""
        return self.inner.state()

    def restore(self, state: State) -> None:
        """Continue."""
        self.inner.restore(state)
