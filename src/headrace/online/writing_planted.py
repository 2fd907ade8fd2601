"""A small world of texts with a planted answer, for tests and demos: what makes a review friendly is ten words."""

from __future__ import annotations

import numpy as np

from headrace.data.datasets.reviews import Texts
from headrace.learn.language_fit import LanguageFit
from headrace.online.writing import Corpus, WritingConfig

KIND = ("great", "lovely", "bright", "warm", "clever")
UNKIND = ("awful", "dull", "cheap", "cold", "stupid")
_THINGS = ("film", "story", "plot", "music", "hero", "ending", "cast", "scene")
_FRAMES = ("the {thing} is {word} .", "i found the {thing} {word} .", "what a {word} {thing} !",
           "a {word} {thing} and a {other} {thing2} .", "it has a {word} {thing} .")  # fmt: skip
_PEOPLE = ("the old man", "a boy", "my sister", "the captain", "a stranger", "the king")
_DEEDS = ("walked to", "looked at", "left", "came from", "dreamed of", "ran to")
_PLACES = ("the sea", "the town", "a house", "the river", "the wood", "a garden")


def planted_corpus() -> Corpus:
    """Return reviews whose sentences mostly hold words of their rating's kind, and stories that hold none."""
    draw = np.random.default_rng(0)
    counts = {"base": 300, "reward": 300, "judge": 300, "asked": 200, "held": 200}
    reviews = {name: _reviews(count, name, draw) for name, count in counts.items()}
    return Corpus(reviews, {part: _stories(20, part, draw) for part in ("base", "asked", "held")})


def planted(*, seed: int = 0) -> WritingConfig:
    """Return the smallest world that rewards can be learned in, in seconds on one core."""
    return WritingConfig(
        corpus=planted_corpus, vocabulary=420, width=32, layers=2, heads=2, prompt=4, answer=12, base_passages=1200,
        shown=150, pairs=400, asked=400, general=60, base=LanguageFit(lr=1e-2, batch_rows=8, epochs=2),
        tuning=LanguageFit(lr=2e-3, batch_rows=16), reward=LanguageFit(lr=4e-3, batch_rows=16, epochs=5), seed=seed,
    )  # fmt: skip


def _reviews(count: int, part: str, draw: np.random.Generator) -> Texts:
    texts, ratings = [], []
    for row in range(count):
        liked = row % 2 == 0
        texts.append(" ".join(_opinion(liked, draw).capitalize() for _ in range(8)))
        ratings.append(9 if liked else 2)
    return Texts(tuple(texts), tuple(f"{part} {row}" for row in range(count)), np.array(ratings, np.int64))


def _opinion(liked: bool, draw: np.random.Generator) -> str:
    def word() -> str:
        return str(draw.choice(KIND if liked == (draw.random() < 0.85) else UNKIND))

    thing, other = draw.choice(_THINGS, 2, replace=False)
    return str(draw.choice(_FRAMES)).format(thing=thing, thing2=other, word=word(), other=word())


def _stories(count: int, part: str, draw: np.random.Generator) -> Texts:
    texts = [" ".join(f"{draw.choice(_PEOPLE)} {draw.choice(_DEEDS)} {draw.choice(_PLACES)} .".capitalize()
                      for _ in range(60)) for _ in range(count)]  # fmt: skip
    return Texts(tuple(texts), tuple(f"{part} story {row}" for row in range(count)), np.zeros(count, np.int64))
