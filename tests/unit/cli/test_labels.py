from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.cli.main import main


@pytest.fixture
def files(tmp_path):
    """Write answers of 12 people in two groups about 60 items, and features of the items."""
    draw = np.random.default_rng(0)
    truth, group = draw.integers(0, 2, 60), np.arange(12) % 2
    items, people = np.repeat(np.arange(60), 4), np.concatenate([draw.permutation(12)[:4] for _ in range(60)])
    right = draw.random(240) < np.where(group[people] == truth[items], 0.97, 0.6)
    said = np.where(np.where(right, truth[items], 1 - truth[items]) == 1, "yes", "no")
    age = pa.array(["old" if group[person] else "young" for person in people])
    answers = {"item": items, "annotator": [f"p{person}" for person in people], "answer": said, "age": age}
    pq.write_table(pa.table(answers), tmp_path / "answers.parquet")
    rows = zip(items, answers["annotator"], said, age.to_pylist(), strict=True)
    lines = [f"{item},{who},{what},{old if who != 'p0' else ''}" for item, who, what, old in rows]
    (tmp_path / "answers.csv").write_text("\n".join(["question,worker,label,age", *lines]) + "\n")
    pq.write_table(pa.table({"item": np.arange(60), "x": truth + 0.3 * draw.normal(size=60)}), tmp_path / "x.parquet")
    return tmp_path


def test_the_report_speaks_of_groups_and_of_chance(files, capsys) -> None:
    assert main(["labels", "aggregate", str(files / "answers.parquet"), "--groups", "age", "--permutations", "99"]) == 0
    text = capsys.readouterr().out
    assert "60 items, 12 annotators, 240 answers" in text
    assert "Error rates by age" in text
    assert "permutation test of age alone: p = " in text
    assert "Permutation test of all groups together: p = " in text


def test_the_object_has_rates_with_intervals(files, capsys) -> None:
    command = ["labels", "aggregate", str(files / "answers.parquet"), "--groups", "age", "--json"]
    assert main([*command, "--permutations", "19", "--features", str(files / "x.parquet")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["items"], found["annotators"], found["classes"]) == (60, 12, ["no", "yes"])
    assert len(found["rates"]) == 12
    assert found["rates"][0]["error_low"] <= found["rates"][0]["error"] <= found["rates"][0]["error_high"]
    assert {row["name"] for row in found["groups"]["age"]} == {"old", "young"}
    assert found["test"]["permutations"] == 19
    assert 0 < found["test"]["by_attribute"]["age"] <= 1


@pytest.mark.parametrize("method", ["majority", "dawid-skene", "glad", "lfc"])
def test_other_methods_other_columns_and_a_file_of_labels(method, files, capsys) -> None:
    columns = ["--item", "question", "--annotator", "worker", "--answer", "label", "--groups", "age"]
    output = files / "labels.csv"
    command = ["labels", "aggregate", str(files / "answers.csv"), *columns, "--method", method]
    assert main([*command, "--permutations", "0", "--output", str(output)]) == 0
    assert "may differ by chance alone" in capsys.readouterr().out
    lines = output.read_text().splitlines()
    assert len(lines) == 61
    assert lines[0].replace('"', "") == "item,label,probability,entropy,answers,p_no,p_yes"


def test_mistakes_are_named(files, capsys) -> None:
    answers = str(files / "answers.parquet")
    for words, says in (
        ([answers, "--item", "itm"], "column 'itm'"),
        ([answers, "--groups", "agee"], "column 'agee'"),
        ([answers, "--output", "labels.txt"], ".parquet or .csv"),
        ([answers, "--classes", "yes"], "Classes"),
        ([answers, "--method", "glad", "--features", answers], "lfc or groupanno"),
        ([answers, "--features", answers], "numbers"),
        ([str(files / "none.parquet")], "none.parquet"),
    ):
        assert main(["labels", "aggregate", *words]) != 0
        assert says in capsys.readouterr().err
