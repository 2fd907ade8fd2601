"""The recipes on small files of the data sets' own layouts: fitted, published, and served from raw rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from headrace.cli.main import main
from headrace.nn import DCNv2, ffm_width
from headrace.online import RunFolder, build, find_recipe, newest_predictor
from headrace.optim import CowClip
from headrace.ranking import FitConfig, fit_ranker
from headrace.ranking.history_recipes import histories
from headrace.types import Events

ROWS = 400
RECIPES = "headrace.ranking.recipes"
HISTORIES = "headrace.ranking.history_recipes"


def criteo_file(folder: Path) -> None:
    draw = np.random.default_rng(0)
    lines = []
    for _ in range(ROWS):
        kinds = draw.integers(0, 5, 26)
        numbers = [str(number) if number < 40 else "" for number in draw.integers(0, 50, 13)]
        lines.append("\t".join([str(int(kinds[0] > 2)), *numbers, *(f"{kind:08x}" for kind in kinds)]))
    (folder / "criteo").mkdir()
    (folder / "criteo" / "train.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def ratings_file(folder: Path) -> None:
    draw = np.random.default_rng(1)
    lines = ["userId,movieId,rating,timestamp"]
    for row in range(ROWS):
        movie = int(draw.integers(0, 10))
        lines.append(f"{draw.integers(0, 8)},{movie},{5 if movie < 5 else 1},{1000 + row}")
    (folder / "ml-latest-small").mkdir()
    (folder / "ml-latest-small" / "ratings.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder, and beside it nothing in the cache."""
    folder = tmp_path / "data"
    folder.mkdir()
    criteo_file(folder)
    ratings_file(folder)
    monkeypatch.setenv("HEADRACE_DATA", str(folder))
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def made(recipe: str, folder: Path, *settings: str) -> FitConfig:
    """Build a recipe with batches and networks small enough for small files."""
    found = build(find_recipe(recipe), [f"folder={folder / 'prepared'}", "batch_rows=32", "hidden=8", *settings])
    assert isinstance(found, FitConfig)
    return found


def test_a_recipe_takes_any_family_by_name_and_finds_what_is_planted(data: Path) -> None:
    config = made(f"{RECIPES}:criteo", data, "model=DCNv2", "dim=4", "lr=0.01", "epochs=3")
    assert config.model.family is DCNv2
    assert len(config.schema.id_features) == 39
    report = fit_ranker(config)
    assert report.figures["test_auc"].value > 0.95
    assert "320" in report.notes[1] or "examples to learn from" in report.notes[1]


def test_what_is_served_reads_raw_rows_as_training_did(data: Path) -> None:
    config = made(f"{RECIPES}:criteo", data, "dim=5", "lr=0.01")
    fit_ranker(config, data / "run")
    rows = {f"C{number}": ["00000000", "00000004", None] for number in range(2, 27)}
    rows |= {f"I{number}": [1.0, None, 7.0] for number in range(1, 14)} | {"C1": ["00000000", "00000004", "unseen"]}
    numbers = {name: pa.array(values, pa.float64()) for name, values in rows.items() if name.startswith("I")}
    head = {"key": ["a", "b", "c"], "kind": ["impression"] * 3, "event_time": [1, 2, 3], "item": ["ad"] * 3}
    predictor = newest_predictor(config.served(), RunFolder(data / "run"))
    scores = predictor.predict(Events.from_columns({**head, **rows, **numbers})).column("score").to_pylist()
    assert scores[0] < 0.5 < scores[1]


def test_ffm_gets_rows_with_a_factor_for_every_field(data: Path) -> None:
    config = made(f"{RECIPES}:criteo", data, "model=FFM", "dim=2")
    assert set(config.schema.tables.values()) == {ffm_width(39, 2)}


def test_cowclip_changes_rates_and_clips(data: Path) -> None:
    plain = made(f"{RECIPES}:criteo", data, "l2=1e-5")
    large = made(f"{RECIPES}:criteo", data, "l2=1e-5", "scaling=cowclip", "batch_rows=4096")
    assert [type(one).__name__ for one in large.tables.transforms] == ["RowL2", "CowClip"]
    assert any(isinstance(one, CowClip) for one in large.tables.transforms)
    assert not any(isinstance(one, CowClip) for one in plain.tables.transforms)
    assert large.dense.lr == pytest.approx(2 * plain.dense.lr)
    assert large.tables.rule.lr == plain.tables.rule.lr
    assert large.tables.transforms[0].weight == pytest.approx(4 * plain.tables.transforms[0].weight)


@pytest.mark.parametrize("family", ["DIN", "BST", "SASRec"])
def test_history_families_learn_from_what_was_liked_before(data: Path, family: str) -> None:
    config = made(f"{HISTORIES}:movielens", data, f"model={family}", "dim=4", "variant=latest-small", "epochs=1")
    batch = next(config.data().train.batches(400))
    lengths = batch.ids["history"].offsets.diff()
    assert lengths[0] == 0
    assert 10 < lengths.max() <= 20
    assert fit_ranker(config).figures["steps"].value == 10


def test_two_towers_have_a_recipe(data: Path) -> None:
    config = made(f"{HISTORIES}:movielens_towers", data, "dim=4", "variant=latest-small", "epochs=1")
    assert 0.0 <= fit_ranker(config).figures["test_auc"].value <= 1.0


def test_histories_end_before_their_row_and_keep_the_newest() -> None:
    users = np.array([3, 1, 3, 3, 1, 3, 3])
    liked = np.array([True, True, False, True, True, True, False])
    found = histories(users, pa.chunked_array([list("abcdefg")]), liked, 2).to_pylist()
    assert found == [[], [], ["a"], ["a"], ["b"], ["a", "d"], ["d", "f"]]


def test_the_command_line_fits_and_evaluates_a_ranker(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [f"{RECIPES}:criteo", f"folder={data / 'prepared'}", "model=LogisticRegression", "dim=1", "batch_rows=32"]
    folder = ["--folder", str(data / "run")]
    assert main(["run", *asked, *folder]) == 0
    assert "test_auc" in capsys.readouterr().out
    assert main(["evaluate", *asked, *folder]) == 0
    assert "auc" in capsys.readouterr().out.lower()
    assert main(["run", *asked, *folder, "--role", "learner"]) != 0
    assert "no roles" in capsys.readouterr().err
