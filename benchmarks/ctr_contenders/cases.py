"""Which families are compared, and what makes them the same network on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ctr_contenders.cell import Cell

DATA = ("criteo", "movielens_tag", "trivago")


@dataclass(frozen=True)
class Family:
    """One row of the table.

    Attributes:
        ours: `own` of our side of the cell; see `ours.py`.
        zoo: `own` of FuxiCTR's side; see `zoo.py`.
        dim: Width of a factor, where it is not that of the plan.
        epochs: Passes, where those of the plan end before the AUC has settled: without a deep part it takes longer.
        note: What is not the same.
    """

    ours: Mapping[str, Any] = field(default_factory=dict)
    zoo: Mapping[str, Any] = field(default_factory=dict)
    dim: int | None = None
    epochs: int | None = None
    note: str = ""


WIDE: dict[str, Any] = {"first_order": True}


def settings(**told: object) -> dict[str, Any]:
    """Return FuxiCTR's settings of a family."""
    return {"settings": told}


FAMILIES: dict[str, Family] = {
    "LR": Family({"family": "LogisticRegression", "width": 1}, epochs=10),
    "FM": Family(WIDE, epochs=8),
    "FFM": Family({"factor_per_field": True}, dim=2),
    "FwFM": Family(epochs=5, note="pair weights begin at 1, FuxiCTR's near 0"),
    "WideDeep": Family(WIDE),
    "DeepFM": Family(WIDE),
    "xDeepFM": Family(WIDE | {"family": "XDeepFM", "settings": {"cin": [16, 16]}}, settings(cin_hidden_units=[16, 16])),
    "DCN": Family(),
    "DCNv2": Family(),
    "AutoInt": Family(
        {"settings": {"attention": {"type": "FieldAttention", "layers": 2, "heads": 2, "width": 16}}},
        settings(attention_layers=2, num_heads=2, attention_dim=16),
    ),
    "DLRM": Family(),
    "MaskNet": Family(),
    "FinalMLP": Family(),
    "GDCN": Family({"settings": {"cross": {"type": "GatedCross", "parallel": True}}}, {"class": "GDCNP"}),
}  # fmt: skip
"""Both sides have three cross layers (DCN, DCN-V2, GDCN), serial masks, gates of 64, no dropout, no normalisation but
MaskNet's own: the defaults of FuxiCTR's classes."""


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Attributes:
        families, data: Rows and tables.
        seeds: Of each cell.
        rows: The first so many rows of a data set; None: all.
        epochs: Passes over the training examples.
        hidden: Widths of deep parts.
        dim: Width of a factor.
        lr: Rate of Adam.
        batch: Examples per step.
    """

    families: tuple[str, ...]
    data: tuple[str, ...] = DATA
    seeds: tuple[int, ...] = (0, 1, 2)
    rows: int | None = None
    epochs: int = 3
    hidden: tuple[int, ...] = (64, 64)
    dim: int = 10
    lr: float = 1e-3
    batch: int = 1024

    def cell(self, contender: str, family: str, folder: str, seed: int) -> Cell:
        """Return one cell of a contender."""
        known = FAMILIES[family]
        own = known.ours if contender == "ours" else known.zoo
        epochs = known.epochs or self.epochs
        return Cell(family, folder, seed, known.dim or self.dim, self.hidden, self.lr, self.batch, epochs, own)


PLANS = {
    "standard": Plan(tuple(FAMILIES), rows=60_000, epochs=2),
    "full": Plan(tuple(FAMILIES)),
    "quick": Plan(("DeepFM",), ("movielens_tag",), seeds=(0, 1), epochs=2, rows=60_000),
}
