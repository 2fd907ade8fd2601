"""A ranker is fitted from raw files as from memory, and what was fitted is served."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from headrace.data import IdFeature, Layout, Schema
from headrace.errors import ConfigError
from headrace.nn import DeepFM
from headrace.online import RunFolder, newest_predictor
from headrace.online.config import TableSettings
from headrace.ranking import FileSplits, FitConfig, InMemory, Network, RankerFit, Splits, judge
from headrace.store import Adam, Uniform
from headrace.testing.toy import Toy, ToyConfig

TOY = Toy(ToyConfig(users=16, items=16, signs=2, strength=3.0))
SCHEMA = Schema(features=(IdFeature("user", 5), IdFeature("item", 5)))
PARTS = {"train": (0, 2000), "valid": (2000, 500), "test": (2500, 500)}


@pytest.fixture(params=["parquet", "csv"])
def files(request, tmp_path) -> FileSplits:
    paths = {}
    for part, (first, count) in PARTS.items():
        rows = pa.Table.from_batches([TOY.events(first, count).batch])
        paths[part] = (tmp_path / f"{part}.{request.param}",)
        if request.param == "parquet":
            pq.write_table(rows, paths[part][0], row_group_size=300)
        else:
            pa_csv.write_csv(rows, paths[part][0])
    types = {} if request.param == "parquet" else {"label": "float32", "event_time": "int64"}
    return FileSplits(**paths, schema=SCHEMA, layout=Layout(types=types), notes=("a toy",))


@dataclass(frozen=True)
class Memory:
    def __call__(self) -> Splits:
        return Splits(*(InMemory.from_events(TOY.events(*part), SCHEMA) for part in PARTS.values()))


def config(data) -> FitConfig:
    return FitConfig(
        name="raw", data=data, schema=SCHEMA, model=Network(family=DeepFM, hidden=(8,)), batch_rows=64, epochs=3,
        tables=TableSettings(rule=Adam(lr=0.03), init=Uniform(0.1)), seed=1,
    )  # fmt: skip


def test_a_fit_from_files_finds_what_one_from_memory_finds(files: FileSplits, tmp_path: Path) -> None:
    run = RankerFit(config(files), tmp_path / "run")
    report = run.run()
    memory = RankerFit(config(Memory())).run()
    assert report.figures["test_auc"].value == pytest.approx(memory.figures["test_auc"].value, abs=0.05)
    assert report.figures["test_auc"].value > 0.7
    assert "a toy" in report.notes
    assert "2000 examples to learn from, 500 to choose by, 500 to judge" in report.notes
    assert "train" in (tmp_path / "run" / "run.json").read_text()
    requests = TOY.events(5000, 20)
    served = newest_predictor(config(files).served(), RunFolder(tmp_path / "run")).predict(requests)
    own = judge(run.learner.model, InMemory.from_events(requests, SCHEMA)).scores
    np.testing.assert_allclose(served.column("score").to_numpy(), own, rtol=1e-6)


def test_files_to_learn_from_are_not_judged_by() -> None:
    with pytest.raises(ConfigError, match="among the files to learn from"):
        FileSplits(train=(Path("a"),), valid=(Path("b"),), test=(Path("a"),), schema=SCHEMA)
    with pytest.raises(ConfigError, match="at least one"):
        FileSplits(train=(Path("a"),), valid=(), test=(Path("b"),), schema=SCHEMA)
