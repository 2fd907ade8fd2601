"""Search spaces from text: typed by the recipe, and refused where they cannot be."""

from __future__ import annotations

from typing import Literal

import pytest

from headrace.errors import ConfigError
from headrace.ranking.search_space import Choice, Range, search_space


def recipe(
    *,
    lr: float = 0.1,
    dim: int = 8,
    hidden: tuple[int, ...] = (8,),
    kind: Literal["a", "b"] = "a",
    rate: float | None = None,
    on: bool = False,
) -> None: ...


def only(text: str) -> Range | Choice:
    (part,) = search_space(recipe, [text])
    return part


class Suggested:
    """Answers like a trial of Optuna, with the upper bound or the last choice."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        assert isinstance(low, int)
        return high

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        return high

    def suggest_categorical(self, name: str, choices: list[str]) -> str:
        return choices[-1]


@pytest.mark.parametrize(("text", "expected", "drawn"), [
    ("lr=1e-4..1e-2:log", Range("lr", 1e-4, 1e-2, log=True), "0.01"),
    ("lr=0..0.5:0.1", Range("lr", 0.0, 0.5, step=0.1), "0.5"),
    ("dim=4..32", Range("dim", 4, 32, whole=True), "32"),
    ("dim=4..32:4", Range("dim", 4, 32, whole=True, step=4), "32"),
    ("rate=0.1..1", Range("rate", 0.1, 1.0), "1.0"),
    ("dim=8,16", Choice("dim", ("8", "16")), "16"),
    ("kind=a,b", Choice("kind", ("a", "b")), "b"),
    ("rate=none,0.5", Choice("rate", ("none", "0.5")), "0.5"),
    ("on=true,false", Choice("on", ("true", "false")), "false"),
    ("hidden=64,32|128", Choice("hidden", ("64,32", "128")), "128"),
    ("hidden=64,32", Choice("hidden", ("64,32",)), "64,32"),
])  # fmt: skip
def test_texts_and_what_is_drawn_from_them(text: str, expected: Range | Choice, drawn: str) -> None:
    assert only(text) == expected
    assert only(text).draw(Suggested()) == drawn


def test_parameters_may_come_in_one_text_or_several() -> None:
    assert search_space(recipe, ["lr=0.1..1 dim=4,8"]) == search_space(recipe, ["lr=0.1..1", "dim=4,8"])


@pytest.mark.parametrize(("text", "said"), [
    ("size=4,8", "unknown"), ("lr", "name=low..high"), ("lr=1..0.1", "lower bound"), ("lr=0..1:log", "positive"),
    ("dim=4..8:0.5", "whole number"), ("dim=4.5,8", "type int"), ("kind=a,c", "one of"), ("kind=a..b", "no number"),
    ("lr=x..1", "a number"), ("lr=1..inf", "a number"), ("dim=8,8", "repeated"), ("lr=0..1:-1", "positive step"),
    ("dim=4,8 dim=1..2", "twice"), ("", "nothing"), ("on=perhaps", "true or false"),
])  # fmt: skip
def test_what_cannot_be_searched_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        search_space(recipe, [text])
