"""The result object of the benchmark of training steps, with work so small that its numbers mean nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
GOALS = {
    "step_vs_bound/DLRM": ("<=", 1.25), "samples_vs_fuxictr/DLRM": (">=", 4.0), "samples_vs_deepctr/DLRM": (">=", 4.0),
    "samples_vs_torchrec/DLRM": (">=", 4.0), "samples_vs_fuxictr_small/DLRM": (">=", 1.5),
    "samples_vs_deepctr_small/DLRM": (">=", 1.5), "samples_vs_torchrec_small/DLRM": (">=", 1.5),
    "packing/8": (">=", 1.0), "interleaving": (">=", 1.0), "larger_than_memory_vs_in_memory": (">=", 0.4),
}  # fmt: skip


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "benchmarks" / "pipeline.py"), "--tiny", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert run.returncode in {0, 3}, run.stderr[-3000:]
    answer: dict[str, Any] = json.loads(run.stdout)  # one object and nothing else
    missed = any(figure["holds"] is False for figure in answer["figures"].values())
    assert run.returncode == (3 if missed else 0)
    return answer


def test_the_object_has_its_parts(result: dict[str, Any]) -> None:
    assert set(result) == {"figures", "commit", "machine", "settings", "tables"}
    assert result["settings"]["command"] == "python benchmarks/pipeline.py --tiny"


def test_every_figure_with_its_goal(result: dict[str, Any]) -> None:
    figures = result["figures"]
    for name, (op, bound) in GOALS.items():
        assert figures[name]["goal"] == {"op": op, "bound": bound}, name
    for name, figure in figures.items():
        if figure["value"] is None:  # then a note says why
            assert figure["holds"] is None
            assert any(note.startswith(f"{name}:") for note in result["settings"]["notes"]), name


def test_ours_and_the_bound_are_the_same_network(result: dict[str, Any]) -> None:
    assert result["figures"]["step_vs_bound/DLRM"]["value"] > 0
    rows = {row[0]: row[1] for row in result["tables"][0]["rows"]}
    assert rows["ours"] == rows["bound"]


def test_made_data_follow_the_law_and_histories_are_padded() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from pipeline_contenders.work import LENGTH, PAST, Made

    made = Made(ids=2600, batches=40, settings={"batch": 64})
    case = made.case("DIN")
    columns = made.columns(case)
    counts = np.sort(np.bincount(columns["f3"], minlength=101))[::-1]
    assert columns["f3"].min() >= 1
    assert columns["f3"].max() <= case.sizes["f3"]
    assert counts[0] > 10 * counts[40] > 0
    assert ((columns[PAST] > 0).sum(1) == columns[LENGTH]).all()


@pytest.mark.parametrize("model", ["DLRM", "DeepFM", "DCNv2", "DIN"])
def test_every_network_trains_from_its_files(model: str, tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from pipeline_contenders.bound import Bound
    from pipeline_contenders.ours import Ours
    from pipeline_contenders.work import Made, put

    made = Made(ids=260, batches=2, settings={"batch": 32, "hidden": (8,), "bottom": (8,)})
    case = made.case(model)
    put(tmp_path, case, made.columns(case))
    ours, bound = Ours(case, tmp_path, {"threads": 1}), Bound(case, tmp_path, {"threads": 1})
    try:
        assert ours.train(3) > 0
        assert bound.train(2) > 0
        assert ours.weights == bound.weights
    finally:
        ours.close()
