"""The work that every contender gets: a network, a data set in one folder, and how it is trained.

Ids of a feature are 1..size, 0 is the padding that some peers need. Nothing here needs more than NumPy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Columns = dict[str, npt.NDArray[Any]]

LABEL, PAST, TARGET, LENGTH = "label", "past", "f0", "past_length"
PARQUET, ARRAYS, CASE = "train.parquet", "train.npz", "case.json"
EPS = 1e-10
"""Of Adagrad, on all sides."""
STEPS_KEPT = 48
"""Batches of made data."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network on one data set.

    Attributes:
        model: `DLRM`, `DeepFM`, `DCNv2` or `DIN`.
        sizes: Ids of every feature; the feature `past` has those of the target.
        dense: Names of dense columns.
        target: What a history (the feature `past`) is compared with; empty: there is none.
        longest: Entries of the longest history; peers pad to it.
        dim: Width of an embedding.
        hidden: Of the deep part; of DLRM's top.
        bottom: Of DLRM's bottom, before the output of width `dim`.
        attention: Of DIN's attention unit.
        cross: Cross layers of DCNv2.
        batch: Examples per step.
        lr: Of Adagrad, for tables and network.
        rows: Examples on disk.
    """

    model: str
    sizes: Mapping[str, int]
    dense: tuple[str, ...] = ()
    target: str = ""
    longest: int = 0
    dim: int = 16
    hidden: tuple[int, ...] = (400, 400, 400)
    bottom: tuple[int, ...] = (512, 256, 64)
    attention: tuple[int, ...] = (64,)
    cross: int = 3
    batch: int = 4096
    lr: float = 0.01
    rows: int = 0

    @staticmethod
    def read(folder: Path) -> Case:
        """Read what `write` left."""
        content = json.loads((folder / CASE).read_text(encoding="utf-8"))
        return Case(**{name: tuple(value) if isinstance(value, list) else value for name, value in content.items()})

    def write(self, folder: Path) -> None:
        """Leave the case where contenders look for it."""
        (folder / CASE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @property
    def lookups(self) -> list[str]:
        """All features that are looked up, the history last."""
        return [*self.sizes, *([PAST] if self.target else [])]

    def columns(self, folder: Path) -> Columns:
        """Return the columns as peers take them.

        Shapes:
            Ids (rows,), the history (rows, longest) with zeros at its end and its length (rows,), int64; dense columns
            and the label (rows,) float32.
        """
        with np.load(folder / ARRAYS) as content:
            return {name: content[name] for name in content.files}


@dataclass(frozen=True, kw_only=True)
class Made:
    """Made data: ids by a Zipf law.

    Attributes:
        ids: In all tables together.
        fields: Features.
        numbers: Dense columns, for networks that have them.
        skew: Exponent of the law.
        batches: Batches on disk.
        seed: Of everything.
    """

    ids: int = 10_000_000
    fields: int = 26
    numbers: int = 13
    skew: float = 1.05
    batches: int = STEPS_KEPT
    seed: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)

    def case(self, model: str) -> Case:
        """Return the case of a network."""
        sizes = {f"f{place}": self.ids // self.fields for place in range(self.fields)}
        own: dict[str, Any] = {}
        if model == "DLRM":
            own = {"dense": tuple(f"d{place}" for place in range(self.numbers)), "hidden": (512, 256)}
        if model == "DIN":
            own = {"target": TARGET, "longest": 20}
        case = Case(model=model, sizes=sizes, **{**own, **self.settings})
        return Case(**{**asdict(case), "rows": self.batches * case.batch})

    def columns(self, case: Case) -> Columns:
        """Draw the columns."""
        random = np.random.default_rng(self.seed)
        size = self.ids // self.fields
        shares = np.cumsum(np.arange(1, size + 1, dtype=np.float64) ** -self.skew)
        factor = next(number for number in range(int(size * 0.618) | 1, 2 * size, 2) if np.gcd(number, size) == 1)

        def draw(shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
            draws = random.random(shape) * shares[-1]
            ranks = np.minimum(np.searchsorted(shares, draws, side="right"), size - 1)
            return (ranks * factor + size // 3) % size + 1  # popular ids do not lie side by side

        columns: Columns = {name: draw((case.rows,)) for name in case.sizes}
        columns |= {name: random.random(case.rows, np.float32) for name in case.dense}
        if case.target:
            lengths = random.integers(0, case.longest + 1, case.rows)
            past = draw((case.rows, case.longest)) * (np.arange(case.longest) < lengths[:, None])
            columns |= {PAST: past, LENGTH: lengths}
        return columns | {LABEL: (random.random(case.rows) < 0.25).astype(np.float32)}


def put(folder: Path, case: Case, columns: Columns) -> None:
    """Write a case: Parquet for us, arrays for peers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {name: pa.array(column) for name, column in columns.items() if column.ndim == 1 and name != LENGTH}
    if case.target:
        lengths = columns[LENGTH]
        values = columns[PAST][np.arange(case.longest) < lengths[:, None]]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        arrays[PAST] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(arrays), folder / PARQUET, row_group_size=16_384)
    np.savez(folder / ARRAYS, **columns)  # type: ignore[arg-type]
    case.write(folder)
