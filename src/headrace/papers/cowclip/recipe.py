"""CowClip's experiments as configurations: a ranker for a data set, a network, a scaling rule and a batch size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from headrace.config import known_name, require
from headrace.data import IdFeature, Schema
from headrace.nn import DCN, DCNv2, DeepFM, WideDeep
from headrace.nn.dcn import CrossSettings
from headrace.online.config import TableSettings
from headrace.optim import CowClip, Rates, RowL2, RowNormClip, Warmup, scale
from headrace.optim.scaling import Rule
from headrace.papers.cowclip.clips import TableNormClip
from headrace.protocols import RowTransform
from headrace.ranking import DenseOptimizer, FitConfig, Network
from headrace.ranking.examples import ReadSplits
from headrace.store import Adam, Normal, Storage

HIDDEN = (32, 32)
NETWORKS = {
    "DeepFM": Network(family=DeepFM, hidden=HIDDEN),
    "DCNv2": Network(family=DCNv2, hidden=HIDDEN, settings={"cross": CrossSettings(layers=2)}),
    "WideDeep": Network(family=WideDeep, hidden=HIDDEN),
    "DCN": Network(family=DCN, hidden=HIDDEN),
}
FIRST_ORDER = ("DeepFM", "WideDeep")
"""Networks with a first-order weight in column 0 of a row, which the authors do not clip."""

Clip = Literal["auto", "off", "global", "field", "row", "cowclip"]
"""How fine gradients are clipped; `auto`: by CowClip under its own rule, else not at all."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A data set and how it is learned at the base batch.

    Attributes:
        name: Of the data set.
        data: Reads its splits.
        schema: Its features.
        train: Rows to learn from.
        prior: Rate of positives.
        batch_rows: The base batch, 1x.
        baseline, cowclip: Rates at the base batch, for all other rules and for CowClip's.
        row_rates: Other row rates by network, for the baseline and for CowClip.
        zeta: Lower bound of the clip, in the order of the authors' code.
        epochs: Passes over the training rows.
        patience: Validations without a better AUC before it ends.
    """

    name: str
    data: ReadSplits
    schema: Schema
    train: int
    prior: float
    batch_rows: int
    baseline: Rates
    cowclip: Rates
    row_rates: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    zeta: float = 1e-5
    epochs: int = 1
    patience: int | None = None

    def rates(self, network: str, rule: Rule) -> Rates:
        """Return the rates at the base batch."""
        found = self.cowclip if rule == "cowclip" else self.baseline
        own = self.row_rates.get(network)
        return found if own is None else replace(found, row_lr=own[rule == "cowclip"])


def id_schema(names: tuple[str, ...], dim: int = 8) -> Schema:
    """Return one id feature per field, each with a table of its own."""
    return Schema(features=tuple(IdFeature(name, dim, accepts="integer") for name in names))


def ranker(
    task: Task, network: str, rule: Rule, times: int, *, clip: Clip = "auto", bound: float = 1.0, seed: int = 0
) -> FitConfig:
    """Return the ranker of one cell of the tables.

    Args:
        task: Data set and base rates.
        network: One of `NETWORKS`.
        rule: What the batch size does to the rates.
        times: Batch size over the base batch.
        clip: How fine gradients are clipped. `global` wants a schema with one table for all features.
        bound: Ratio of CowClip, largest norm of the others.
        seed: Of weights and order.
    """
    known_name("network", network, NETWORKS)
    known_name("clip", clip, get_args(Clip))
    rates = scale(rule, task.rates(network, rule), task.batch_rows, batch_rows := task.batch_rows * times)
    steps = task.train * task.epochs // batch_rows
    # a tenth of the steps: one epoch of the authors' ten
    warm = Warmup(steps=max(1, steps // 10)) if rule == "cowclip" else None
    return FitConfig(
        name=f"cowclip-{task.name}-{network}".lower(), data=task.data, schema=task.schema, model=NETWORKS[network],
        tables=TableSettings(
            rule=Adam(lr=rates.row_lr, beta1=0.0, correction="none"), init=Normal(rates.init_std),
            transforms=(RowL2(weight=min(rates.l2, 0.5)), *_clips(task, network, rule, clip, bound)),
            storage=Storage(event_times=False),
        ),
        dense=DenseOptimizer(lr=rates.dense_lr, schedule=warm), batch_rows=batch_rows, epochs=task.epochs,
        patience=task.patience, seed=seed,
    )  # fmt: skip


def _clips(task: Task, network: str, rule: Rule, clip: Clip, bound: float) -> tuple[RowTransform, ...]:
    if clip == "off" or (clip == "auto" and rule != "cowclip"):
        return ()
    if clip in ("global", "field"):
        tables = len(set(task.schema.tables))
        require(clip == "field" or tables == 1, "clip 'global'", got=f"{tables} tables", expected="one for all")
        return (TableNormClip(max_norm=bound),)
    if clip == "row":
        return (RowNormClip(max_norm=bound),)
    return (CowClip(ratio=bound, lower_bound=task.zeta, order="code", skip=int(network in FIRST_ORDER)),)
