"""The claim of user-dependent priors: the toy size in full, what was recorded at the small size, and the protocol."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import torch

from headrace.errors import ConfigError, DataError
from headrace.papers.vae_priors import arms, protocol, recipe
from headrace.papers.vae_priors.claim import FOLDED, GOALS, render, run

FIGURES = {
    *(f"L7_recall20_over_standard/genres_k{shown}" for shown in FOLDED),
    *(f"L7_recall20_over_permuted/genres_k{shown}" for shown in FOLDED),
    "L7_recall20_over_encoder_side/genres_k0", "L7_recall20_over_ridge/genres_k0",
    "L7_recall20_over_popularity/genres_k0", "L7_recall20_over_both/genres_k1",
    "L7_recall20_over_standard/people_k0", "L7_ndcg100_over_standard/genres_k0",
}  # fmt: skip


@pytest.fixture(scope="module")
def toy() -> dict:
    return run("toy")


def test_a_cold_user_is_ranked_for_by_what_is_known_of_them(toy) -> None:
    figures = toy["figures"]
    for arm, least in (("standard", 1.15), ("permuted", 1.15), ("popularity", 1.1)):
        assert figures[f"L7_recall10_over_{arm}/people_k0"]["value"] > least


def test_one_like_makes_a_plain_encoder_forget_what_was_known(toy) -> None:
    figures = toy["figures"]
    assert figures["L7_recall10_over_both/people_k1"]["value"] < 0.8
    assert figures["L7_recall10_over_both/people_k0"]["value"] < 1.0


def test_with_ten_likes_nothing_is_lost(toy) -> None:
    assert toy["figures"]["L7_recall10_over_standard/people_k10"]["value"] > 0.95


def test_all_goals_of_the_toy_hold(toy) -> None:
    assert [name for name, each in toy["figures"].items() if each["holds"] is False] == []


def test_the_result_is_the_agreed_object(toy) -> None:
    assert {"figures", "commit", "machine", "settings", "tables", "plots"} == set(toy)
    assert json.loads(json.dumps(toy, allow_nan=False)) == json.loads(json.dumps(toy))
    assert render(toy).splitlines()[0].startswith("L7. Side information: people")


def test_unknown_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"one of .*'toy'"):
        run("tiny")


def test_missing_data_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path))
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"none of ml100k\.inter.*grouplens"):
        recipe.movielens()


@pytest.fixture(scope="module")
def dealt() -> protocol.Cut:
    return protocol.cut(recipe.planted(seed=5), valid=20, test=40, seed=5)


def test_users_and_likes_stand_on_one_side_each(dealt) -> None:
    train, valid, test = (set(part.tolist()) for part in (dealt.train, dealt.valid, dealt.test))
    assert (len(valid), len(test)) == (20, 40)
    assert not train & (valid | test)
    assert not valid & test
    for user in range(dealt.likes.users):
        told, rest = set(dealt.told[user].tolist()), set(dealt.rest[user].tolist())
        assert not told & rest
        assert told | rest == set(dealt.likes.of(user).tolist())


def test_side_information_does_not_know_what_is_looked_for(dealt) -> None:
    before = dealt.genres()
    others = replace(dealt, rest=[np.zeros_like(items) for items in dealt.rest])
    assert np.array_equal(others.genres(), before)
    anew = protocol.dealt_anew(before, 3)
    assert sorted(map(tuple, anew)) == sorted(map(tuple, before))
    assert (anew != before).any(axis=1).mean() > 0.5


@pytest.mark.parametrize("rows", [1, 7])
def test_what_is_measured_does_not_depend_on_the_batch(dealt, rows: int) -> None:
    score = arms.popularity(dealt)
    settings = {"folded": 3, "k": 10, "name": "ndcg"}
    whole = protocol.judge(dealt, dealt.test, score, **settings)
    assert protocol.judge(dealt, dealt.test, score, **settings, rows=rows) == whole
    assert 0.1 < whole < 0.9


def test_nothing_that_was_shown_or_told_is_a_candidate(dealt) -> None:
    def shown_first(users, histories) -> torch.Tensor:
        scores = torch.rand(len(users), dealt.likes.catalogue, generator=torch.Generator().manual_seed(0))
        for row, user in enumerate(users):
            scores[row, np.concatenate([dealt.told[user], dealt.rest[user][:10]])] = 9.0
            scores[row, dealt.rest[user][10:]] = 5.0
        return scores

    for folded in FOLDED:
        assert protocol.judge(dealt, dealt.test, shown_first, folded=folded, k=10, name="recall") == 1.0


def test_regression_learns_what_is_planted(dealt) -> None:
    cold = {"folded": 0, "k": 10, "name": "recall"}
    told = protocol.judge(dealt, dealt.test, arms.ridge(dealt, dealt.people(), 1.0), **cold)
    assert told > 1.3 * protocol.judge(dealt, dealt.test, arms.popularity(dealt), **cold)


def test_ease_learns_from_histories_and_ranks_by_nothing_without() -> None:
    draw = np.random.default_rng(0)
    items = np.stack([draw.permutation(40)[:25] + 40 * (user % 2) for user in range(120)])  # two worlds apart
    likes = recipe.Likes(np.repeat(np.arange(120), 25), items.reshape(-1), np.ones((80, 1)), np.ones((120, 1)))
    apart = protocol.cut(likes, valid=10, test=30, seed=0)
    found = [protocol.judge(apart, apart.test, arms.ease(apart, 1000.0), folded=shown, k=30, name="recall")
             for shown in (0, 3)]  # fmt: skip
    assert found[1] > 0.95  # room for all of the right world that is left, 23 of 63
    assert found[0] < 0.6  # 30 of 63 at random
    assert float(arms.ease(apart, 1000.0)(apart.test, [apart.rest[user][:0] for user in apart.test]).abs().max()) == 0.0


def test_the_data_have_the_published_sizes(data_file) -> None:
    data_file("ml100k.inter.zst")
    likes = recipe.movielens()
    assert (likes.users, len(likes.items)) == (943, 55375)
    assert likes.kinds.shape == (1447, 19)
    assert likes.people.shape == (943, 23)


def recorded() -> dict:
    return json.loads((files("headrace.papers.vae_priors") / "expected.json").read_text(encoding="utf-8"))


def test_the_recorded_run_reached_its_goals() -> None:
    figures = recorded()["figures"]
    assert set(figures) >= FIGURES
    assert [name for name, each in figures.items() if each["holds"] is False] == []
    assert sum(each["holds"] is True for each in figures.values()) == len(GOALS)


def test_the_recorded_run_says_how_it_was_made() -> None:
    settings = recorded()["settings"]
    assert settings["size"] == "small"
    assert len(settings["seeds"]) >= 3
    assert settings["cpu_seconds"] <= 1200


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.skipif(not os.environ.get("HEADRACE_DATA"), reason="missing data files: HEADRACE_DATA is not set")
def test_the_small_size_reaches_its_goals() -> None:
    result = run("small")
    assert set(result["figures"]) >= FIGURES
    assert [name for name, each in result["figures"].items() if each["holds"] is False] == []
