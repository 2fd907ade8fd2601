"""The recipe for latent recommenders: prepared, fitted, published, and asked with raw rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from headrace.nn import MultVAE
from headrace.online import RunFolder, build, find_recipe, newest_predictor, open_serving
from headrace.ranking import FitConfig, fit_ranker
from headrace.types import Events

RECIPE = "headrace.ranking.latent_recipes:movielens"
USERS, MOVIES = 30, 12


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ratings and users as RecBole's files have them: women like the first six movies, men the others."""
    draw, folder = np.random.default_rng(0), tmp_path / "data"
    folder.mkdir()
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    moment = 0
    for _ in range(8):
        for user in range(USERS):
            movie = int(draw.integers(0, MOVIES))
            moment += 1
            lines.append(f"u{user}\tm{movie}\t{5 if (movie < 6) == (user % 2 == 0) else 1}\t{1000 + moment}")
    (folder / "ml100k.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    people = ["user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"]
    people += [f"u{user}\t30\t{'MF'[user % 2 == 0]}\tother\t0" for user in range(USERS)]
    (folder / "ml100k.user").write_text("\n".join(people) + "\n", encoding="utf-8")
    movies = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    movies += [f"m{movie}\tA\t1990\tDrama" for movie in range(MOVIES)]
    (folder / "ml100k.item").write_text("\n".join(movies) + "\n", encoding="utf-8")
    monkeypatch.setenv("HEADRACE_DATA", str(folder))
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def made(folder: Path, *settings: str) -> FitConfig:
    found = build(
        find_recipe(RECIPE), [f"folder={folder / 'prepared'}", "batch_rows=32", "dim=8", "latent=4", *settings]
    )
    assert isinstance(found, FitConfig)
    return found


def asked(users: list[tuple[str, list[str] | None]], movie: str) -> Events:
    return Events.from_columns({
        "key": [f"r{row}" for row in range(len(users))], "kind": ["impression"] * len(users),
        "event_time": [1] * len(users), "item": [movie] * len(users), "gender": [gender for gender, _ in users],
        "age": ["30"] * len(users), "occupation": ["other"] * len(users),
        "history": pa.array([past for _, past in users], pa.list_(pa.string())),
    })  # fmt: skip


def test_it_is_fitted_published_and_ranks_for_cold_users(data: Path) -> None:
    config = made(data, "epochs=15", "lr=0.05")
    report = fit_ranker(config, data / "run")
    assert report.figures["test_auc"].value > 0.9
    predictor = newest_predictor(config.served(), RunFolder(data / "run"))
    assert isinstance(predictor.model, MultVAE)
    assert predictor.model.side == ("age", "gender", "occupation")
    women, men = predictor.predict(asked([("F", None), ("M", None)], "m2")).column("score").to_pylist()
    assert women > 2 * men
    shown = predictor.predict(asked([("M", ["m0", "m1"]), ("M", ["m8", "m9"])], "m3")).column("score").to_pylist()
    assert shown[0] > 2 * shown[1]
    (unknown,) = predictor.predict(asked([("F", None)], "never seen")).column("score").to_pylist()
    assert 0.0 < unknown < 1e-30


def test_the_catalogue_is_what_training_rows_had(data: Path) -> None:
    config = made(data)
    model = open_serving(config.served()).predictor.model
    assert isinstance(model, MultVAE)
    assert len(model.catalogue) == MOVIES
    assert int(model.catalogue[0]) == 3  # 1 and 2 stand for rare and missing items
