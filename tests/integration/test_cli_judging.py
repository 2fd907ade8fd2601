"""`evaluate` with groups, slices and a second run, and `run --search`, through the command line's own entry point."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from headrace.cli.main import main

RECIPE = ["headrace.online.demo:world", "requests=200", "log=true", "publish_every=512"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made = []
    for lr in ("0.05", "0.2"):
        folder = tmp_path_factory.mktemp("judging") / f"lr-{lr}"
        assert main(["run", *RECIPE, f"lr={lr}", "--folder", str(folder), "--json"]) == 0
        made.append(folder)
    return made


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path, draw = tmp_path_factory.mktemp("rows") / "rows.csv", random.Random(0)
    lines = ["key,item,user,category,scenario,age_h,kind,label,position"]
    for row in range(400):
        item = draw.randrange(40)
        lines.append(f"q{row // 5},i{item},u{draw.randrange(30)},c{item % 4},home,{draw.random():.3f},example,"
                     f"{int(draw.random() < 0.3)},{row % 5 + 1}")  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    return ["--input", str(path)]


def evaluation(folder: Path, *words: str, lr: str = "0.05") -> list[str]:
    return ["evaluate", *RECIPE, f"lr={lr}", "--folder", str(folder), *words]


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main([*words]) == 0
    return capsys.readouterr().out


def test_evaluate_says_intervals_groups_and_slices(
    folders: list[Path], rows: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = evaluation(folders[0], *rows, "--groups", "key", "--slices", "category,scenario")
    text = said(capsys, *words)
    assert "95% interval" in text
    assert "GAUC" in text
    assert "by category" in text
    figures = json.loads(said(capsys, *words, "--k", "3", "--json"))["figures"]
    assert figures["rows"]["value"] == 400
    assert figures["auc"]["low"] < figures["auc"]["value"] < figures["auc"]["high"]
    assert 0 < figures["ndcg@3"]["value"] < 1
    assert sum(name.startswith("slice/category=") for name in figures) == 12


def test_a_column_that_is_not_there_is_named(
    folders: list[Path], rows: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(evaluation(folders[0], *rows, "--groups", "usr")) == 2
    assert "user" in capsys.readouterr().err
    assert main(evaluation(folders[0], *rows, "--slices", "categry")) == 2
    assert "category" in capsys.readouterr().err


def test_two_runs_are_compared_on_the_same_rows(
    folders: list[Path], rows: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = evaluation(folders[0], *rows, "--groups", "user", "--against", str(folders[1]))
    words += ["--against-settings", "lr=0.2"]
    assert "A - B" in said(capsys, *words)
    auc = json.loads(said(capsys, *words, "--json"))["figures"]["auc"]
    assert auc["value"] == pytest.approx(auc["first"] - auc["second"])
    assert auc["low"] < auc["value"] < auc["high"]
    same = json.loads(said(capsys, *evaluation(folders[0], *rows, "--against", str(folders[0]), "--json")))
    assert same["figures"]["auc"]["p"] == 1.0
    assert main([*words, "--slices", "category"]) == 2


def test_run_searches_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", *RECIPE, "--search", "lr=0.01..0.1:log dim=5,9", "--trials", "2", "--folder", str(tmp_path / "s")]
    text = said(capsys, *words)
    assert "headrace run headrace.online.demo:world requests=200" in text
    record = json.loads(said(capsys, *words, "--json"))
    assert len(record["trials"]) == 2
    assert set(record["best"]["settings"]) == {"lr", "dim"}


def test_a_search_has_no_role(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *RECIPE, "--search", "lr=0.01..0.1", "--role", "learner"]) == 2
    assert "--role" in capsys.readouterr().err
