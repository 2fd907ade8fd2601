"""Settings of recommending: where candidates come from, what is left out, and what is left to chance."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from headrace.config import known_name, require
from headrace.serve.explore import EpsilonGreedy, Greedy, Thompson
from headrace.serve.seen import SEEN_RULES, SeenLimits, SeenRule

Vectors = Literal["auto", "towers", "rows", "none"]
VECTORS = ("auto", "towers", "rows", "none")


@dataclass(frozen=True, kw_only=True)
class RecommendConfig:
    """How `POST /v1/recommend` finds, ranks and chooses.

    Attributes:
        user: Column that names the user; what is seen is remembered by it, and a request without it has no memory.
        items: File with the catalogue, put when the server starts (once per content); None: items come by
            `PUT /v1/items`.
        vectors: `towers`: two towers in the model; `rows`: items near those that the user took to last; `none`:
            candidates are the popular and the new ones; `auto`: towers where the model has them, else none.
        candidates: How many are ranked. A catalogue with fewer allowed items is ranked whole.
        popular: Share of the candidates that are the most popular ones.
        fresh: Share of the candidates that were shown least, fewer than `fresh_shown` times ever.
        fresh_shown: Impressions after which an item is not new any more.
        most: Most items that one request may ask for.
        explore: The policy that chooses what is shown.
        seen: What is left out where a request does not say: items that the user acted on, was shown, or nothing.
        seen_s: Seconds after which an item may come again; None: never, as far as the memory goes.
        acted: Kinds of actions that count as having acted; empty: the kinds that make an example positive.
        half_life_s: Half-life of popularity.
        memory: Bounds of what is remembered of users.
        recent: How many of the user's newest items make their vector, with `vectors="rows"`.
        index: Library that searches large catalogues approximately; None: every search is exact.
        index_from: Items from which on it is used.
        seed: Makes exploration a function of the request's key, for tests and replays; None: nobody can foresee it.

    Raises:
        ConfigError: If a value cannot work.
    """

    user: str = "user"
    items: Path | None = None
    vectors: Vectors = "auto"
    candidates: int = 200
    popular: float = 0.2
    fresh: float = 0.1
    fresh_shown: int = 50
    most: int = 100
    explore: Greedy | EpsilonGreedy | Thompson = field(default_factory=EpsilonGreedy)
    seen: SeenRule = "acted"
    seen_s: float | None = None
    acted: tuple[str, ...] = ()
    half_life_s: float = 7 * 86_400.0
    memory: SeenLimits = field(default_factory=SeenLimits)
    recent: int = 20
    index: Literal["faiss"] | None = None
    index_from: int = 200_000
    seed: int | None = None

    def __post_init__(self) -> None:
        require(bool(self.user), "RecommendConfig, user", got=self.user, expected="the name of a column")
        known_name("vectors", self.vectors, VECTORS)
        known_name("seen", self.seen, SEEN_RULES)
        for name in ("candidates", "most", "recent", "index_from"):
            require(getattr(self, name) >= 1, name, got=getattr(self, name), expected="a positive integer")
        require(self.most <= self.candidates, "most", got=self.most, expected=f"at most candidates={self.candidates}")
        for name in ("popular", "fresh"):
            require(0 <= getattr(self, name) <= 1, name, got=getattr(self, name), expected="a share from 0 to 1")
        require(self.popular + self.fresh <= 1, "popular and fresh", got=self.popular + self.fresh,
                expected="at most 1 together")  # fmt: skip
        require(self.fresh_shown >= 0, "fresh_shown", got=self.fresh_shown, expected="0 or more impressions")
        require(self.seen_s is None or self.seen_s > 0, "seen_s", got=self.seen_s, expected="seconds, or None")
        require(not math.isnan(self.half_life_s) and self.half_life_s > 0, "half_life_s", got=self.half_life_s,
                expected="a positive number of seconds")  # fmt: skip
        require(self.index in (None, "faiss"), "index", got=self.index, expected="'faiss' or None")
