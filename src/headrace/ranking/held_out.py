"""Fitted rankers on their test split: every figure with its interval, by group and slice, and one against another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from headrace.config import require
from headrace.errors import DataError, nearest
from headrace.evaluate import Comparison, Evaluation, Judging, compare, evaluate
from headrace.online.layout import RunFolder
from headrace.online.offline import newest_predictor
from headrace.ranking.config import FitConfig
from headrace.ranking.examples import ExampleSet
from headrace.ranking.fit import judge_published
from headrace.ranking.judge import judge
from headrace.types import Batch, Report

SCAN_ROWS = 65_536
Column = npt.NDArray[np.int64]


@dataclass(slots=True)
class _Scan:
    """Columns of a split, in order, of the rows that have a label."""

    known: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    columns: dict[str, list[Column]] = field(default_factory=dict)


def evaluate_published(
    config: FitConfig, folder: RunFolder, *, groups: str | None = None, slices: Sequence[str] = (),
    how: Judging | None = None,
) -> tuple[Report, Evaluation]:  # fmt: skip
    """Judge the newest published version of a fitted ranker on its test split.

    Args:
        config: The ranker.
        folder: Its run.
        groups: A feature with one id per row (user, request), for metrics and intervals by group.
        slices: Features with one id per row, whose values are judged apart; values are shown as ids.
        how: Confidence, k, bins.

    Raises:
        DataError: If a feature is not there, or has not one id per row.
        VersionError: If nothing was published there.
    """
    report, test = judge_published(config, folder), config.data().test
    found = judge(newest_predictor(config.served(), folder).model, test)
    columns = _scanned(test, [*([groups] if groups else []), *slices])
    evaluation = evaluate(found.labels, found.scores.astype(np.float32), columns[groups] if groups else None, None,
                          {name: columns[name] for name in slices}, how=how)  # fmt: skip
    evaluation.add_to(report)
    return report, evaluation


def compare_published(
    first: tuple[FitConfig, RunFolder], second: tuple[FitConfig, RunFolder], *, groups: str | None = None,
    how: Judging | None = None,
) -> Comparison:  # fmt: skip
    """Judge two fitted rankers on the first one's test split, paired.

    Raises:
        DataError: If the feature is not there, or the second one reads other rows.
        VersionError: If nothing was published in a folder.
    """
    splits = [config.data().test for config, _ in (first, second)]
    one, two = (judge(newest_predictor(config.served(), folder).model, split)
                for (config, folder), split in zip((first, second), splits, strict=True))  # fmt: skip
    if not np.array_equal(one.labels, two.labels):
        raise DataError("Test splits to compare", got="other labels", expected="the same rows in the same order",
                        do="Give both the same data settings.")  # fmt: skip
    keys = _scanned(splits[0], [groups])[groups] if groups else None
    return compare(one.labels, one.scores.astype(np.float32), two.scores.astype(np.float32), keys, how=how)


def _scanned(examples: ExampleSet, names: Sequence[str]) -> dict[str, Column]:
    scan = _Scan(columns={name: [] for name in names})
    for batch in examples.batches(SCAN_ROWS) if names else ():
        scan.known.append((~torch.isnan(batch.labels)).numpy())
        for name, parts in scan.columns.items():
            parts.append(_one_id(batch, name))
    if not names:
        return {}
    known = np.concatenate(scan.known)
    return {name: np.concatenate(parts)[known] for name, parts in scan.columns.items()}


def _one_id(batch: Batch, name: str) -> Column:
    if name not in batch.ids:
        raise DataError(f"Feature '{name}'", got="not there", expected=nearest(name, list(batch.ids)))
    ids = batch.ids[name]
    alone = bool((torch.diff(ids.offsets) == 1).all())
    require(alone, f"Feature '{name}'", got="rows with no id or several", expected="one id per row")
    return ids.values.numpy().astype(np.int64)
