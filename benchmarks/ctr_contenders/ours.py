"""Our side: a family of `headrace.nn` over native tables, fitted by `headrace.ranking`.

The cell's `own`: `family` (default: the cell's model), `settings` of the family, `first_order` (whether a row has a
weight before its factor), `width` (of a row; default from `dim`), `correction` and `beta1` of Adam.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ctr_contenders.cell import LABEL, PARTS, Cell, Columns, answer
from headrace.data import IdFeature, Schema
from headrace.nn import ffm_width
from headrace.online.config import TableSettings
from headrace.online.typed import named_family
from headrace.ranking import DenseOptimizer, FitConfig, FitProgress, InMemory, Network, RankerFit, Splits, judge
from headrace.store import Adam, Normal
from headrace.types import NO_VERSION, Batch, Jagged

INITIAL_STD = 1e-4
"""FuxiCTR's, of every row."""


@dataclass(frozen=True)
class CellData:
    """The prepared columns of a cell as splits."""

    cell: Cell

    def __call__(self) -> Splits:
        """Read them."""
        train, valid, test = (InMemory(examples(self.cell.columns(part))) for part in PARTS)
        return Splits(train, valid, test)


def examples(columns: Columns) -> Batch:
    """Return all examples of a part: one id per feature, no dense column."""
    labels = torch.from_numpy(columns[LABEL])
    rows = len(labels)
    nothing, ends = torch.zeros(rows, dtype=torch.int64), torch.arange(rows + 1)
    ids = {name: Jagged(torch.from_numpy(column), ends) for name, column in columns.items() if name != LABEL}
    return Batch(
        ids=ids, dense=torch.zeros(rows, 0), labels=labels, weights=torch.ones(rows), event_times=nothing,
        accepted_times=nothing, example_ids=torch.arange(rows), predictions=torch.full((rows,), float("nan")),
        versions=nothing + NO_VERSION, sample_rates=torch.ones(rows),
    )  # fmt: skip


def config(cell: Cell) -> FitConfig:
    """Return the cell as a configuration."""
    width = cell.own.get("width", cell.dim + int(cell.own.get("first_order", False)))
    if cell.own.get("factor_per_field"):
        width = ffm_width(len(cell.sizes()), cell.dim)
    family = named_family(cell.own.get("family", cell.model))
    return FitConfig(
        name=cell.model, data=CellData(cell), seed=cell.seed, batch_rows=cell.batch, epochs=cell.epochs, patience=None,
        schema=Schema(features=tuple(IdFeature(name, width, accepts="integer") for name in cell.sizes())),
        model=Network(family=family, hidden=cell.hidden, settings=settings(cell.own.get("settings", {}))),
        tables=TableSettings(rule=adam(cell), init=Normal(INITIAL_STD)),
        dense=DenseOptimizer(lr=cell.lr),
    )  # fmt: skip


def adam(cell: Cell) -> Adam:
    """Return the rule of the tables.

    FuxiCTR's Adam is dense: means fall, and momentum goes on, in the steps that do not touch a row. `table` keeps
    that time, and without momentum of its own a step is as long as all those that a dense momentum would add.
    """
    return Adam(lr=cell.lr, correction=cell.own.get("correction", "table"), beta1=cell.own.get("beta1", 0.0))


def settings(told: dict[str, Any]) -> dict[str, object]:
    """Return a family's settings; `{"type": name, ...}` is a dataclass of `headrace.nn`."""
    import headrace.nn as rooms

    found: dict[str, object] = {}
    for name, value in told.items():
        value = tuple(value) if isinstance(value, list) else value
        if isinstance(value, dict) and "type" in value:
            fields = {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}
            value = getattr(rooms, fields.pop("type"))(**fields)
        found[name] = value
    return found


def train(cell: Cell) -> dict[str, Any]:
    """Train a cell."""
    torch.set_num_threads(1)
    result: dict[str, Any] = {"valid": [], "test": [], "test_log_loss": []}
    fit = RankerFit(config(cell))

    def on_step(done: FitProgress) -> None:
        if len(done.evaluations) > len(result["valid"]):
            result["valid"].append(done.evaluations[-1].auc)
            found = judge(fit.learner.model, fit.splits.test)
            result["test"].append(found.auc)
            result["test_log_loss"].append(found.log_loss)

    fit.on_step = on_step
    report = fit.run()
    rows = sum(table.stats().rows * table.config.dim for table in fit.learner.collection.tables.values())  # type: ignore[attr-defined]
    dense = sum(p.numel() for p in fit.learner.model.parameters())
    return {
        **result, "parameters": rows + dense, "dense_parameters": dense, "fit_s": report.figures["fit_s"].value,
        "score_s": report.figures["evaluate_s"].value,
    }  # fmt: skip


if __name__ == "__main__":
    answer(train)
