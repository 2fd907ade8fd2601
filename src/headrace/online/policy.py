"""What a run's newest version would have earned as a ranking policy, judged off a log that another policy wrote."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.config import require
from headrace.data.collate import collate
from headrace.errors import DataError
from headrace.evaluate import OffPolicy, PolicyValue, RankingTarget, evaluate_policy, ranking_target
from headrace.online.config import OnlineConfig
from headrace.online.layout import RunFolder
from headrace.online.offline import batches, newest_predictor, without
from headrace.protocols import Source
from headrace.serve import RankPredictor
from headrace.types import Events

Floats = npt.NDArray[np.float64]
PROPENSITY, POLICY, POSITION = "propensity", "policy", "position"
SERVED = ("score", "version", "score_logged")
LEARNED = "the version has learned from these rows, so it looks better on them than it is"
PARTS = ("the rows hold what /v1/recommend showed and not all that it could have shown: a ranking of the rest is "
         "not known")  # fmt: skip


def judge_ranking(
    config: OnlineConfig, folder: RunFolder, source: Source, *, explore: float = 0.0, groups: str = "key",
    learned: bool = False, how: OffPolicy | None = None,
) -> PolicyValue:  # fmt: skip
    """Return what ranking by the newest version would have earned per shown item.

    The rows are whole lists: all candidates of every request, each with its place (`position`, or what the run calls
    it), the probability with which it came there (`propensity`) and its label. What is clicked at a place may depend on
    the item and the place, not on the other items of the list. The version's own predictions make the estimate doubly
    robust, where the policy does not explore.

    Args:
        config: The run's configuration.
        folder: The run.
        source: Labelled rows that the version has not learned from.
        explore: Share of lists that the judged policy shuffles evenly.
        groups: Column of users, or `key`: requests; intervals hold for rows that depend on each other within one.
        learned: Say that the version has learned from these rows; there is no verdict then.
        how: Settings of the estimates.

    Raises:
        DataError: If there are no rows, no propensities or no places, or negatives were sampled.
        VersionError: If the run has published no version.

    Cost: memory for all rows; scores every row twice.
    """
    predictor, place = newest_predictor(config, folder), config.position or POSITION
    rows = _rows(source, place, groups)
    asked, places = without(rows, SERVED), _numbers(rows, place)
    labels = collate(predictor.prepared(asked), config.schema).labels.numpy().astype(np.float64)
    scores, predicted = _scores(predictor, asked)
    target = ranking_target(scores, rows.column("key"), places, explore=explore)
    if not target.complete:
        raise DataError("Lists", got="places that are not 1, 2, ..., n in every list", expected="lists logged whole",
                        do="A ranking can be judged only where all its candidates were logged.")  # fmt: skip
    expected = None if explore else _expected(predictor, asked, place, target, places)
    found = evaluate_policy(
        labels, _numbers(rows, PROPENSITY), target.probabilities, predicted=None if expected is None else predicted,
        expected=expected, groups=rows.column(groups), how=how,
    )  # fmt: skip
    reasons = [*found.reasons, *([LEARNED] if learned else []), *([PARTS] if _has(rows, POLICY) else [])]
    return replace(found, reasons=tuple(reasons))


def _expected(
    predictor: RankPredictor, asked: Events, place: str, target: RankingTarget, places: Floats
) -> Floats:  # fmt: skip
    """Return for every row what the model predicts for the item that the judged policy would have put at its place."""
    moved = asked.with_columns({place: pa.array(target.places).cast(asked.column(place).type)})
    there = _scores(predictor, moved)[1]
    codes = np.asarray(asked.column("key").dictionary_encode().indices.to_numpy(zero_copy_only=False))
    wanted, shown = np.lexsort((target.places, codes)), np.lexsort((places, codes))
    expected = np.empty(len(there))
    expected[shown] = there[wanted]  # both go through every list from its first place to its last
    return expected


def _scores(predictor: RankPredictor, asked: Events) -> tuple[Floats, Floats]:
    """Return scores as served, and with the rows' own places where the model reads them."""
    served, real = [], []
    for start, stop in pairwise([*range(0, len(asked), 4096), len(asked)]):
        found = predictor.predict(asked.slice(start, stop - start))
        score = found.column("score").to_numpy(zero_copy_only=False).astype(np.float64)
        served.append(score)
        logged = found.column("score_logged") if "score_logged" in found.names else None
        real.append(score if logged is None else np.asarray(
            pc.coalesce(logged, found.column("score")).to_numpy(zero_copy_only=False), dtype=np.float64))  # fmt: skip
    return np.concatenate(served), np.concatenate(real)


def _rows(source: Source, place: str, groups: str) -> Events:
    parts = list(_checked(batches(source), place, groups))
    require(bool(parts), "Rows to judge on", got=0, expected="labelled rows with propensities")
    return Events.concat(parts)


def _checked(parts: Iterator[Events], place: str, groups: str) -> Iterator[Events]:
    for rows in parts:
        for name in (PROPENSITY, place, groups):
            if name not in rows.names or rows.column(name).null_count:
                raise DataError(f"Column '{name}'", got="not there, or not in every row", expected="a value everywhere",
                                do="Log it with the impressions; without it a policy cannot be judged.")  # fmt: skip
        if "sample_rate" in rows.names and (_numbers(rows, "sample_rate") < 1).any():
            raise DataError("Column 'sample_rate'", got="below 1", expected="all rows of every list",
                            do="Judge on a log of which no negatives were left out.")  # fmt: skip
        yield rows


def _numbers(rows: Events, name: str) -> Floats:
    return np.asarray(rows.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def _has(rows: Events, name: str) -> bool:
    return name in rows.names and rows.column(name).null_count < len(rows)
