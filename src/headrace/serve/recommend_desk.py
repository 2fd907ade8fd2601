"""Answers wishes as a server does: with the arm that is due, the version that is asked for, and a line in the log."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from headrace.errors import ConfigError
from headrace.serve.arms import ARM, ARM_PROPENSITY, Chosen, check_min_version
from headrace.serve.event_writer import Written
from headrace.serve.experiment import KEY
from headrace.serve.recommend import PLACE, Recommended, Recommender
from headrace.serve.service import RankService
from headrace.serve.wishes import Wish, WishReader
from headrace.types import Events

UNLOGGED = ("score/",)


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer to a wish, who gave it, and what has to be waited for before it may be given."""

    wish: Wish
    found: Recommended
    arm: str
    durable: Future[Written] | None = None


class RecommendDesk:
    """What `POST /v1/recommend` does, without a web framework.

    Args:
        service: The arms, the event log and what readers of requests know.
        recommender: Finds, ranks and chooses.

    Raises:
        ConfigError: If an arm has no stage, or no column of the schema names the user.
    """

    def __init__(self, service: RankService, recommender: Recommender) -> None:
        self.service, self.recommender = service, recommender
        columns = service.reader.columns
        recommender.columns = columns
        self.reader = WishReader(service.reader, recommender.config)
        for name in service.arms.names:
            if name not in recommender.stages:
                raise ConfigError(f"Arm '{name}'", got="no stage that finds candidates", expected="one for every arm",
                                  do="Give its recipe a RecommendConfig too.")  # fmt: skip

    def answer(self, wish: Wish) -> Answered:
        """Recommend, and hand what is shown to the log.

        Raises:
            SchemaError: If the wish does not fit; nothing is logged.
            VersionError: If there is no version yet.
            Refusal: 409 if the version that answers is older than the one asked for; nothing is logged.
            CapacityError: If the disk or the learner is too far behind.
        """
        service = self.service
        wanted = service.config.log_impressions if wish.log_impressions is None else wish.log_impressions
        if wanted:
            service.pressure.check()
        chosen = service.arms.choose(self._unit(wish))
        name = chosen.arm.name
        found = self.recommender.recommend(wish, name)
        check_min_version(found.version, wish.min_version, name)
        service.metrics.rows.inc(found.candidates)
        if found.rows is None:
            return Answered(wish, found, name)
        rows = self._logged(found.rows, chosen)
        service.arms.count(rows)
        if not wanted:
            return Answered(wish, found, name)
        service.reader.columns.pin(rows)
        return Answered(wish, found, name, service.writer.submit(rows))

    def _unit(self, wish: Wish) -> str:
        """Return what the split of traffic goes by."""
        by = self.service.arms.split_by
        column = None if by == KEY else wish.about.get(by)
        value = None if column is None else column[0].as_py()
        return wish.key if value is None else str(value)

    def _logged(self, rows: Events, chosen: Chosen) -> Events:
        """Return the rows as they are logged: with the arm, and with the place where the schema has a position."""
        n = len(rows)
        kept = [name for name in rows.names if not name.startswith(UNLOGGED)]
        more = {ARM: pa.array([chosen.arm.name] * n, pa.string()),
                ARM_PROPENSITY: pa.array(np.full(n, chosen.propensity, np.float32))}  # fmt: skip
        position, columns = self.service.config.position, self.service.reader.columns
        if position is not None:
            places = rows.column(PLACE)
            text = list(columns.choices(position)) == [pa.string()]
            more[position] = columns.cast(position, places.cast(pa.string()) if text else places)
        return Events(rows.batch.select(kept)).with_columns(more)
