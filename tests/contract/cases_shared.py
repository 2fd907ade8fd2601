"""The predictor over a shared space, in the process that writes it and in one that only reads, as contract cases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import torch

from headrace.data.features import IdFeature, Schema
from headrace.nn import DeepFM
from headrace.publish.shared_replica import SharedReplica, SharedView, space_tables
from headrace.serve import RankPredictor
from headrace.store import EmbeddingCollection, FeatureLookup, TableConfig
from headrace.store.shared_memory import SharedReader, SharedSpace
from headrace.testing import Toy, ToyConfig, Verdict, check_predictor
from headrace.types import Change, Events, RowChange, Version

TOY = Toy(ToyConfig(seed=3, users=32, items=64))
NAMES = ("user", "item")
SCHEMA = Schema(features=tuple(IdFeature(name, 4) for name in NAMES))


def model(tables: object) -> DeepFM:
    lookups = [FeatureLookup(feature=name, table=name) for name in NAMES]
    embed = EmbeddingCollection(tables, lookups)  # type: ignore[arg-type]
    return DeepFM(embed, NAMES, 0, (8,), dim=4, seed=5)


def owner(folder: Path) -> RankPredictor:
    """Return the predictor of the process that applies versions."""
    configs = {name: TableConfig(name=name, dim=4) for name in NAMES}
    dense = DeepFM(torch.nn.Identity(), NAMES, 0, (8,), dim=4).state_dict()
    space = SharedSpace(configs, dense, parent=folder)
    tables = space_tables(space)
    net = model(tables)
    return RankPredictor(net, SharedReplica(space, tables, net), SCHEMA)


class ThroughWorker:
    """Applies in the owner and predicts in a worker."""

    def __init__(self, folder: Path) -> None:
        self.owner = owner(folder)
        readers = [SharedReader(self.owner.replica.space.folder, place=place) for place in (1, 2)]  # type: ignore[attr-defined]
        net = model(readers[0].tables)
        self.worker = RankPredictor(net, SharedView(*readers, net), SCHEMA)  # type: ignore[arg-type]

    @property
    def version(self) -> Version:
        return self.worker.version

    def apply(self, change: Change) -> None:
        self.owner.apply(change)

    def predict(self, requests: Events) -> Events:
        return self.worker.predict(requests)


def changes() -> tuple[list[Change], Change]:
    """Return versions that put and remove, and the last one whole."""
    made, rows = [], {name: dict[int, torch.Tensor]() for name in NAMES}
    names = DeepFM(torch.nn.Identity(), NAMES, 0, (8,), dim=4).state_dict()
    for number in range(4):
        draw = torch.Generator().manual_seed(number)
        tables = {}
        for name in NAMES:
            ids, gone = (
                torch.arange(number, number + 12),
                torch.tensor([number - 1] if number else [], dtype=torch.int64),
            )
            tables[name] = RowChange(ids, torch.randn(12, 4, generator=draw), gone)
            rows[name] |= dict(zip(ids.tolist(), tables[name].rows, strict=True))
            for one in gone.tolist():
                rows[name].pop(one, None)
        dense = {name: torch.randn(value.shape, generator=draw) * 0.3 for name, value in names.items()}
        made.append(Change(version=Version(number, number - 1), tables=tables, dense=dense, full=number == 0))
    none = torch.zeros(0, dtype=torch.int64)
    whole = {name: RowChange(torch.tensor(sorted(held)), torch.stack([held[one] for one in sorted(held)]), none)
             for name, held in rows.items()}  # fmt: skip
    return made, Change(version=Version(3), tables=whole, dense=made[-1].dense, full=True)


def predictors() -> Iterator[tuple]:
    for label, make in (("shared, owner", owner), ("shared, worker", ThroughWorker)):

        def run(folder: Path, make=make) -> Verdict:
            rows = TOY.events(0, 100)
            asked = Events(rows.batch.select(["key", "kind", "event_time", "item", "user"]))
            asked = asked.with_columns({"kind": pa.array(["impression"] * 100)})
            made, full = changes()
            folder.mkdir(parents=True, exist_ok=True)
            return check_predictor(lambda: make(folder), asked, made, full=full, absolute=0.0)

        yield "Predictor", RankPredictor, run, (), label


CASES = [predictors]
