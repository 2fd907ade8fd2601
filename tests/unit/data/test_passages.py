"""Passages of one length from the beginnings of sentences, and rows made of them."""

from __future__ import annotations

import pytest
import torch

from headrace.data import completion_batch, demonstrations, passages, preference_batch, preferences, prompts
from headrace.data.passages import rows_of_tokens
from headrace.errors import ConfigError, DataError

pytest.importorskip("tokenizers", reason="the extra 'language' is not installed")

TEXTS = ["The cat sat. The dog ran! Did it? A bird flew away over the town.",
         "One long story. Two long stories. Three stories are more than two of them."]  # fmt: skip


@pytest.fixture(scope="module")
def codec():
    from headrace.data import TextCodec

    return TextCodec.trained(TEXTS * 20, 320)


def test_passages_begin_where_sentences_begin(codec) -> None:
    found, owners = passages(TEXTS, codec, 5, per_text=3, seed=0)
    assert found.shape == (len(owners), 6)
    assert bool((found[:, 0] == codec.begin).all())
    for text, owner in zip(codec.decode(rows_of_tokens(found)), owners, strict=True):
        at = TEXTS[owner].index(text)
        assert at == 0 or TEXTS[owner][at - 2] in ".!?"


def test_the_same_seed_draws_the_same(codec) -> None:
    one, other = (passages(TEXTS, codec, 4, per_text=2, seed=seed)[0] for seed in (1, 1))
    assert torch.equal(one, other)


def test_short_texts_give_none(codec) -> None:
    with pytest.raises(DataError, match="none long enough"):
        passages(["Hi."], codec, 30)


def test_demonstrations_are_completions() -> None:
    rows = torch.arange(12).view(2, 6)
    batch = completion_batch(demonstrations(rows, 2))
    assert batch.ids["prompt"].values.tolist() == [0, 1, 6, 7]
    assert batch.ids["completion"].values.tolist() == [2, 3, 4, 5, 8, 9, 10, 11]
    with pytest.raises(ConfigError, match="prompt"):
        demonstrations(rows, 6)


def test_preferences_share_their_prompt() -> None:
    better, worse = torch.tensor([[1, 2, 3]]), torch.tensor([[1, 5, 6]])
    batch = preference_batch(preferences(better, worse))
    assert batch.ids["prompt"].values.tolist() == [1]
    assert batch.ids["chosen"].values.tolist() == [2, 3]
    assert batch.ids["rejected"].values.tolist() == [5, 6]
    with pytest.raises(ConfigError, match="begin differently"):
        preferences(better, worse, prompt=2)


def test_prompts_are_requests_of_their_own_keys() -> None:
    rows = prompts(torch.tensor([[1, 2], [1, 3]]), domains=["reviews", "books"])
    assert rows.column("domain").to_pylist() == ["reviews", "books"]
    assert len(set(rows.column("key").to_pylist())) == 2
    assert rows.times.tolist() == [0, 1_000_000]
