"""The model of a run in shared memory: for the one process that applies versions, and for those that answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from headrace.learn.ledger import LEDGER, ledger_config
from headrace.online.build import embedding, open_tables, seeded_model, table_configs
from headrace.online.config import OnlineConfig
from headrace.publish import Replica
from headrace.publish.shared_replica import SharedReplica, SharedView, space_tables
from headrace.serve import RankPredictor
from headrace.store.shared_memory import PLACES, SharedReader, SharedSpace
from headrace.store.table_config import TableConfig

OWNER_PLACE, PER_WORKER = 0, 2
MOST_WORKERS = (PLACES - 1) // PER_WORKER


@dataclass(frozen=True, slots=True)
class SharedServing:
    """A shared space, the replica that moves it, and a predictor in the same process."""

    space: SharedSpace
    replica: SharedReplica
    predictor: RankPredictor

    def release(self, worker: int) -> None:
        """Forget the readers of a worker that is gone."""
        self.space.release(places_of_worker(worker))


def places_of_worker(worker: int) -> tuple[int, int]:
    """Return the places of a worker's readers: the one that scores, and the one that looks at the version."""
    first = 1 + PER_WORKER * worker
    return first, first + 1


def open_shared_serving(config: OnlineConfig) -> SharedServing:
    """Return an empty space with its replica; it answers after the first version was applied."""
    configs = _configs(config)
    pattern = seeded_model(config, embedding(config.schema, open_tables(config, serving=True)))
    space = SharedSpace(configs, pattern.state_dict())
    tables = space_tables(space, place=OWNER_PLACE)
    served = {name: table for name, table in tables.items() if name != LEDGER}
    model = seeded_model(config, embedding(config.schema, served)).eval()  # type: ignore[arg-type]
    replica = SharedReplica(space, tables, model)
    return SharedServing(space, replica, _predictor(config, model, replica))


def open_shared_view(config: OnlineConfig, folder: Path, worker: int) -> tuple[RankPredictor, SharedReader]:
    """Return a worker's predictor, and the reader that it reads with."""
    reader, watcher = (SharedReader(folder, place=place) for place in places_of_worker(worker))
    served = {name: table for name, table in reader.tables.items() if name != LEDGER}
    model = seeded_model(config, embedding(config.schema, served)).eval()  # type: ignore[arg-type]
    return _predictor(config, model, SharedView(reader, watcher, model)), reader


def _configs(config: OnlineConfig) -> dict[str, TableConfig]:
    configs = table_configs(config)
    return configs | {LEDGER: ledger_config()} if config.audit else configs


def _predictor(config: OnlineConfig, model: nn.Module, replica: Replica | SharedView) -> RankPredictor:
    rate = config.join.negative_rate if config.correction == "serving" else 1.0
    return RankPredictor(model, replica, config.schema, negative_rate=rate,  # type: ignore[arg-type]
                         preparation=config.preparation)  # fmt: skip
