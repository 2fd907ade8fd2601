"""Recipes are found by import path and take exactly their own keyword parameters."""

from __future__ import annotations

import inspect
from typing import Literal

import pytest

from headrace.errors import ConfigError
from headrace.online import OnlineConfig, build, find_recipe

SEEN: dict[str, object] = {}


def sample(
    *, dim: int = 8, rate: float = 0.5, audit: bool = False, data: Literal["a", "b"] = "a", limit: int | None = None
) -> OnlineConfig:
    SEEN.update(dim=dim, rate=rate, audit=audit, data=data, limit=limit)
    return None  # type: ignore[return-value]


def test_settings_are_typed_by_the_annotations() -> None:
    build(sample, ["dim=16", "rate=0.25", "audit=true", "data=b", "limit=none"])
    assert SEEN == {"dim": 16, "rate": 0.25, "audit": True, "data": "b", "limit": None}


def test_an_optional_parameter_takes_its_type() -> None:
    build(sample, {"limit": "7"})
    assert SEEN["limit"] == 7


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("dmi=3", "'dim'"),
        ("dim=x", "int"),
        ("audit=maybe", "true or false"),
        ("data=c", "one of"),
        ("dim", "name=value"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_was_expected(setting: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(sample, [setting])
    assert expected in caught.value.expected


@pytest.mark.parametrize("name", ["headrace", "no.such.module:x", "headrace.online.demo:wrold"])
def test_an_unknown_recipe_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        find_recipe(name)


def test_the_nearest_recipe_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        find_recipe("headrace.online.demo:wrold")
    assert "'world'" in caught.value.expected


def test_every_demo_recipe_is_found_and_has_only_keyword_parameters() -> None:
    for name in ("trivago", "movielens", "world"):
        recipe = find_recipe(f"headrace.online.demo:{name}")
        kinds = {p.kind for p in inspect.signature(recipe).parameters.values()}
        assert kinds <= {inspect.Parameter.KEYWORD_ONLY}
