"""The comparison with FuxiCTR without FuxiCTR: our side of a cell, and what answers of both sides become."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
ROWS = {"train": 256, "valid": 64, "test": 64}


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A prepared data set whose label is in the product of two fields."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    draw = np.random.default_rng(0)
    for part, rows in ROWS.items():
        user, item = draw.integers(1, 5, rows), draw.integers(1, 5, rows)
        labels = ((user % 2) == (item % 2)).astype(np.float32)
        np.savez(tmp_path / f"{part}.npz", user=user, item=item, label=labels)
    (tmp_path / "sizes.json").write_text(json.dumps({"user": 5, "item": 5}), encoding="utf-8")
    return tmp_path


def test_our_side_answers_a_cell(cells: Path) -> None:
    own = {"family": "FFM", "factor_per_field": True}
    told = {"model": "DeepFM", "data": str(cells), "dim": 2, "hidden": [8], "batch": 32, "epochs": 2, "own": own}
    path = os.pathsep.join([str(BENCHMARKS), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "ctr_contenders.ours", json.dumps(told)]
    run = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
    answer = json.loads(run.stdout)
    assert len(answer["valid"]) == len(answer["test"]) == len(answer["test_log_loss"]) == 2
    assert all(0.0 <= auc <= 1.0 for auc in answer["test"])
    assert answer["fit_s"] > 0


def test_answers_become_gaps_at_the_best_validation(cells: Path) -> None:
    from ctr_accuracy import add_figures
    from ctr_contenders.cases import Plan
    from ctr_contenders.results import compare, tables
    from ctr_contenders.runs import Run

    from headrace.evaluate import ClaimRecord

    def answer(valid: list[float], test: list[float]) -> dict[str, object]:
        return {"valid": valid, "test": test, "test_log_loss": [0.5, 0.6], "fit_s": 2.0}

    plan, folders = Plan(("DeepFM", "FM"), ("toy",), seeds=(0, 1)), {"toy": str(cells)}
    answers = {
        ("ours", "DeepFM", 0): answer([0.7, 0.8], [0.70, 0.78]), ("zoo", "DeepFM", 0): answer([0.8, 0.7], [0.76, 0.71]),
        ("ours", "DeepFM", 1): answer([0.8, 0.7], [0.74, 0.70]), ("zoo", "DeepFM", 1): answer([0.8, 0.7], [0.75, 0.71]),
        ("ours", "FM", 0): answer([0.7, 0.6], [0.70, 0.78]), ("zoo", "FM", 0): None,
        ("ours", "FM", 1): answer([0.7, 0.6], [0.70, 0.78]), ("zoo", "FM", 1): answer([0.7, 0.6], [0.70, 0.78]),
    }  # fmt: skip
    runs = [(Run(side, plan.cell(side, family, str(cells), seed), "x"), told)
            for (side, family, seed), told in answers.items()]  # fmt: skip
    found, record = compare(runs, plan, folders), ClaimRecord()
    for one in found:
        add_figures(record, one)
    figure = record.figures["auc_gap/DeepFM/toy"]
    assert figure["value"] == pytest.approx(((0.78 - 0.76) + (0.74 - 0.75)) / 2)
    assert figure["goal"] == {"op": ">=", "bound": pytest.approx(-0.04)}  # ours differ by 0.04 between seeds
    assert figure["holds"] is True
    assert record.figures["auc_gap_one_pass/DeepFM/toy"]["value"] == pytest.approx((0.70 - 0.76 + 0.74 - 0.75) / 2)
    assert record.figures["auc_gap/FM/toy"]["value"] is None  # a cell failed
    assert [row[0] for row in tables(found, folders)[0].rows] == ["DeepFM", "FM"]
