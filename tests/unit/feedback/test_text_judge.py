"""The hidden judge: it tells good texts from bad ones, and nothing is gained by tricks."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.errors import ConfigError
from headrace.feedback import TextJudge, broken

KIND, UNKIND = ("lovely", "great", "warm"), ("awful", "dull", "cheap")


def texts(words, seed: int, count: int = 120) -> list[str]:
    draw = np.random.default_rng(seed)
    things = ("film", "story", "music")
    return [f"the {draw.choice(things)} is {draw.choice(words)} and the {draw.choice(things)} is {draw.choice(words)} ."
            for _ in range(count)]  # fmt: skip


@pytest.fixture(scope="module")
def judge() -> TextJudge:
    good, bad = texts(KIND, 0), texts(UNKIND, 1)
    return TextJudge.fitted(good, [*bad, *broken(good)], [*good, *bad], epochs=20)


def test_friendly_texts_are_told_from_others(judge) -> None:
    good, bad = judge(texts(KIND, 2)), judge(texts(UNKIND, 3))
    assert good.min() > bad.max()
    assert good.mean() > 0.6
    assert bad.mean() < 0.3


def test_a_good_word_again_and_again_is_not_a_good_text(judge) -> None:
    tricks = ["lovely lovely lovely lovely lovely lovely lovely lovely", "great warm lovely great warm lovely great",
              "zk qrx lovely vvv great ppq"]  # fmt: skip
    assert judge(tricks).max() < judge(texts(KIND, 2)).min()


def test_nothing_is_judged_as_well(judge) -> None:
    found = judge(["", "..."])
    assert found.shape == (2,)
    assert np.isfinite(found).all()


def test_it_is_the_same_every_time(judge) -> None:
    good, bad = texts(KIND, 0), texts(UNKIND, 1)
    again = TextJudge.fitted(good, [*bad, *broken(good)], [*good, *bad], epochs=20)
    np.testing.assert_array_equal(again.weights, judge.weights)


def test_broken_texts_have_the_words_of_real_ones() -> None:
    real = texts(KIND, 5, 30)
    made = broken(real, seed=1)
    known = {word for text in real for word in text.split()}
    assert all(set(text.split()) <= known for text in made)
    assert [len(text.split()) for text in made] == [len(text.split()) for text in real]
    assert sum(one == other for one, other in zip(real, made, strict=True)) <= 2


def test_one_kind_alone_is_refused() -> None:
    with pytest.raises(ConfigError, match="both kinds"):
        TextJudge.fitted(["a"], [], ["a"])
