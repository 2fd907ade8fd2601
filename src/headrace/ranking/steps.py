"""What the recipes share: how they learn, and the configuration that follows.

Adam everywhere; rows take steps as long as those of a dense Adam over the whole table, and start near zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headrace.data.examples import Examples
from headrace.data.prepare_columns import Preparation
from headrace.data.prepare_split import Split
from headrace.data.prepared_files import PreparedData
from headrace.nn import FFM, FM, DeepFM, LogisticRegression, WideDeep, XDeepFM, ffm_width
from headrace.online.config import TableSettings
from headrace.optim import CowClip, Rates, RowL2, scale
from headrace.optim.scaling import Rule
from headrace.ranking.config import DenseOptimizer, FitConfig
from headrace.ranking.network import Network
from headrace.ranking.prepared import PreparedSplits, prepared
from headrace.store import Adam, Normal

HIDDEN = (128, 128)
BASE_ROWS = 1024
"""The batch size that the recipes' rates are right for."""

WEIGHT_FIRST = (LogisticRegression, FM, FFM, WideDeep, DeepFM, XDeepFM)
"""Families whose rows begin with a first-order weight, which CowClip's authors do not clip."""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """How the recipes learn.

    Attributes:
        lr: Adam's rate of the dense part, right for batches of `BASE_ROWS`.
        table_lr: Adam's rate of the tables; None: the same.
        l2: Weight of the squared rows in the loss of every batch.
        batch_rows: Examples per step.
        scaling: What becomes of the rates when `batch_rows` is not `BASE_ROWS`; see `headrace.optim.scale`. `cowclip`
            clips row gradients too.
        epochs: Passes over the training examples.
        seed: Of weights and order.
    """

    lr: float = 1e-3
    table_lr: float | None = None
    l2: float = 0.0
    batch_rows: int = BASE_ROWS
    scaling: Rule = "none"
    epochs: int = 2
    seed: int = 0

    def rates(self, examples: int) -> Rates:
        """Return the rates for this batch size, with so many examples in an epoch."""
        base = Rates(dense_lr=self.lr, row_lr=self.table_lr or self.lr, l2=self.l2)
        return scale(self.scaling, base, BASE_ROWS, self.batch_rows, examples=examples)


def ranker(
    name: str, rows: Examples, plan: Preparation, split: Split, network: Network, steps: Steps, *, dim: int,
    folder: Path | None = None,
) -> FitConfig:  # fmt: skip
    """Prepare a data set, or find it prepared, and return the ranker on it; for recipes of your own.

    Args:
        name: Of the data set.
        rows: Where its rows are.
        plan: How they are prepared.
        split: Which of them are `train`, `valid` and `test`.
        network: Builds the network.
        steps: How it learns.
        dim: Width of a table row; for `FFM`, of one of its factors.
        folder: Where the prepared data are kept; None: in the cache.
    """
    return ranker_of(name, prepared(name, rows, plan, split, folder=folder), network, steps, dim=dim)


def ranker_of(
    name: str, data: PreparedData, network: Network, steps: Steps, *, dim: int, notes: tuple[str, ...] = ()
) -> FitConfig:
    """Return the ranker on prepared data with the parts `train`, `valid` and `test`."""
    rates, fields = steps.rates(data.rows("train")), len(data.schema(1).features)
    l2 = (RowL2(weight=rates.l2),) if rates.l2 else ()
    width = ffm_width(fields, dim) if network.family is FFM else dim
    first = int(network.family in WEIGHT_FIRST)
    clip = (CowClip(skip=first),) if steps.scaling == "cowclip" and width > first else ()
    return FitConfig(
        name=f"{name}-{network.name}".lower(), data=PreparedSplits(data.folder, data.fingerprint, notes),
        model=network, schema=data.schema(width),
        preparation=data.statistics, seed=steps.seed, batch_rows=steps.batch_rows, epochs=steps.epochs,
        tables=TableSettings(rule=Adam(lr=rates.row_lr, beta1=0.0, correction="table"), transforms=(*l2, *clip),
                             init=Normal(rates.init_std)),
        dense=DenseOptimizer(lr=rates.dense_lr, schedule=rates.dense_schedule),
    )  # fmt: skip
