"""Fitting language and reward models offline, and keeping what was fitted."""

from __future__ import annotations

import pytest
import torch

from headrace.data import preference_batch, preferences, text_batch, token_column
from headrace.data.passages import rows_of_tokens
from headrace.errors import ConfigError, StoreError
from headrace.learn import LanguageFit, fit_language, likelihood_of
from headrace.learn.language_fit import kept
from headrace.nn import CausalSettings, CausalTransformer, ScoreModel
from headrace.objectives import BradleyTerry, NextToken
from headrace.types import Events

SIZES = CausalSettings(vocabulary=12, width=16, layers=1, heads=2, max_length=16)
FIT = LanguageFit(lr=1e-2, batch_rows=16, epochs=6)


def counting(rows: int = 96, seed: int = 0) -> torch.Tensor:
    starts = torch.randint(0, 12, (rows, 1), generator=torch.Generator().manual_seed(seed))
    return (starts + torch.arange(6)) % 12


def as_texts(rows: torch.Tensor) -> Events:
    count = len(rows)
    return Events.from_columns({"key": [f"{row}" for row in range(count)], "kind": ["example"] * count,
                                "event_time": [0] * count, "tokens": token_column(rows_of_tokens(rows))})  # fmt: skip


def fitted() -> CausalTransformer:
    torch.set_num_threads(1)
    model = CausalTransformer(SIZES)
    fit_language(model, as_texts(counting()), text_batch, NextToken(), FIT)
    return model


def test_a_model_learns_to_count() -> None:
    model, rows = fitted(), counting(seed=1)
    likelihood = likelihood_of(model)
    right = likelihood(rows_of_tokens(rows[:, :3]), rows_of_tokens(rows[:, 3:]))
    wrong = likelihood(rows_of_tokens(rows[:, :3]), rows_of_tokens(rows.flip(1)[:, 3:]))
    assert bool((right > wrong).all())
    assert not model.training


def test_a_fit_is_the_same_every_time_and_another_seed_is_another_order() -> None:
    one, other = fitted(), fitted()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_reward_model_learns_from_pairs() -> None:
    torch.set_num_threads(1)
    rows = counting()
    worse = torch.cat((rows[:, :1], rows[:, 1:].flip(1)), 1)
    model, pairs = ScoreModel(CausalTransformer(SIZES)), preferences(rows, worse)
    report = fit_language(model, pairs, preference_batch, BradleyTerry(at="every"), FIT)
    assert report.figures["loss"].value < 0.5
    assert BradleyTerry()(model, preference_batch(pairs)).parts["accuracy"] > 0.95


def test_what_was_fitted_once_is_kept(tmp_path) -> None:
    calls = []

    def build(model) -> None:
        calls.append(1)
        with torch.no_grad():
            next(model.parameters()).fill_(3.0)

    models = [CausalTransformer(SIZES, seed=seed) for seed in (1, 2)]
    assert [kept(tmp_path / "one", model, lambda model=model: build(model)) for model in models] == [False, True]
    assert len(calls) == 1
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_of_two_who_fit_at_once_both_have_what_the_first_one_kept(tmp_path) -> None:
    first, second = (CausalTransformer(SIZES, seed=seed) for seed in (1, 2))

    def slow() -> None:  # meanwhile another process fits the same, and is done before
        assert not kept(tmp_path / "one", first, lambda: None)

    assert kept(tmp_path / "one", second, slow)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("somebody's")
    with pytest.raises(StoreError, match="Remove what lies there"):
        kept(tmp_path / "other", second, lambda: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]


@pytest.mark.parametrize("settings", [{"lr": 0.0}, {"batch_rows": 0}, {"epochs": 0}, {"rise": 1.0}, {"decay": -1.0}])
def test_bad_settings_are_refused(settings) -> None:
    with pytest.raises(ConfigError, match=f"LanguageFit.{next(iter(settings))}"):
        LanguageFit(**settings)
