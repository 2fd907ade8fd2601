"""`run`, `predict`, `evaluate` and `inspect` on one small run, through the command line's own entry point."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from headrace.cli.main import main

RECIPE = ["headrace.online.demo:world", "requests=300", "log=true", "publish_every=512"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main(["run", *RECIPE, "--folder", str(folder), "--json"]) == 0
    return folder


def write_requests(path: Path, *, labelled: bool = False) -> Path:
    label = [",kind,label,position", ",example,1,1", ",example,0,2"] if labelled else ["", "", ""]
    path.write_text(f"key,item,user,category,scenario,age_h{label[0]}\nq1,i5,u3,c5,home,2.0{label[1]}\n"
                    f"q1,i7,u3,c7,home,1.5{label[2]}\n")  # fmt: skip
    return path


def test_run_reports_and_records_what_it_was_made_of(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *RECIPE, "--folder", str(run_folder), "--json"]) == 0  # a finished run resumes at its end
    report = json.loads(capsys.readouterr().out)
    assert report["figures"]["examples"]["value"] == 3000
    record = json.loads((run_folder / "run.json").read_text())
    assert record["seed"] == 0
    assert record["config"]["join"]["window_s"] == 900.0


def test_predict_scores_a_csv_of_requests(run_folder: Path, tmp_path: Path) -> None:
    requests, scores = write_requests(tmp_path / "requests.csv"), tmp_path / "scores.parquet"
    common = ["--folder", str(run_folder), "--input", str(requests), "--output", str(scores), "--json"]
    assert main(["predict", *RECIPE, *common]) == 0
    table = pq.read_table(scores)
    assert table.column("item").to_pylist() == ["i5", "i7"]
    assert all(0 < score < 1 for score in table.column("score").to_pylist())


def test_predict_leaves_nothing_when_a_row_is_bad(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests, scores = write_requests(tmp_path / "requests.csv"), tmp_path / "scores.parquet"
    requests.write_text(requests.read_text().replace("1.5", "old"))
    common = ["--folder", str(run_folder), "--input", str(requests), "--output", str(scores)]
    assert main(["predict", *RECIPE, *common]) == 2
    assert "line 3" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["requests.csv"]


def test_evaluate_judges_labelled_rows(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_requests(tmp_path / "rows.csv", labelled=True)
    assert main(["evaluate", *RECIPE, "--folder", str(run_folder), "--input", str(rows), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["figures"]["rows"]["value"] == 2
    assert report["figures"]["auc"]["value"] in (0.0, 1.0)


def test_a_run_without_versions_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requests = write_requests(tmp_path / "requests.csv")
    common = ["--folder", str(tmp_path / "empty"), "--input", str(requests), "--output", str(tmp_path / "x.parquet")]
    assert main(["predict", *RECIPE, *common]) == 2
    assert "no published version" in capsys.readouterr().err
    assert not (tmp_path / "empty").exists()


def test_inspect_reads_the_run_folder(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(run_folder)]) == 0
    assert "changes.db" in capsys.readouterr().out


def test_a_misspelt_parameter_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "headrace.online.demo:world", "reqests=3"]) == 2
    assert "'requests'" in capsys.readouterr().err


def test_the_simulated_log_is_written_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.cli import demo
    from headrace.data import FileSource, Layout

    monkeypatch.setattr(demo, "choose", lambda data: ("headrace.online.demo:world", ["requests=200"], ""))
    path = tmp_path / "world.parquet"
    assert main(["demo", "--data", "world", "--write", str(path), "--json"]) == 0
    rows = FileSource(path, Layout(time="event_time", time_unit="us", key=("key",)), order="file").read(10_000)
    assert rows is not None
    assert len(rows.of_kind("impression")) == 2000
    assert len(rows.of_kind("click")) > 20
    assert "propensity" in rows.names
