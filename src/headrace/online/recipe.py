"""Recipes: Python functions that return a configuration; the command line may set exactly their parameters."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from headrace.errors import ConfigError, nearest
from headrace.online.typed import member, typed

CONFIGS = ("OnlineConfig", "FitConfig", "RewardedConfig", "LanguageConfig")
"""What a recipe may return, as its annotation says it."""

Config = TypeVar("Config")


def find_recipe(name: str) -> Callable[..., Any]:
    """Return the function that `package.module:function` names.

    Raises:
        ConfigError: If the module cannot be imported or has no such function (the nearest names are listed).
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise ConfigError("Recipe", got=repr(name), expected="package.module:function",
                          do="For example headrace.online.demo:trivago.")  # fmt: skip
    return member("Recipe", module_name, function_name, _is_recipe, "has these recipes.", said=name)


def _is_recipe(value: object) -> bool:
    if not inspect.isfunction(value) or value.__name__.startswith("_"):
        return False
    annotation = str(inspect.signature(value).return_annotation)
    return any(name in annotation for name in CONFIGS)


def parameters(recipe: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """Return the keyword parameters that the command line may set."""
    return {name: p for name, p in inspect.signature(recipe).parameters.items() if p.kind is p.KEYWORD_ONLY}


def build(recipe: Callable[..., Config], settings: Sequence[str] | Mapping[str, str]) -> Config:
    """Call a recipe with `name=value` settings typed by its annotations.

    A parameter annotated as a model family (`ModelFamily`, any callable) takes the name of a class of `headrace.nn`,
    or `package.module:Name`; a tuple takes its items separated by commas.

    Args:
        recipe: The function.
        settings: `["dim=16", "model=DCNv2", "hidden=128,64"]` or a mapping.

    Raises:
        ConfigError: For an unknown parameter, a text that is not of the annotated type, or what the recipe refuses.
    """
    known = parameters(recipe)
    hints = typing.get_type_hints(recipe)
    values: dict[str, object] = {}
    for name, text in _pairs(settings):
        if name not in known:
            raise ConfigError(f"Parameter '{name}'", got="unknown", expected=nearest(name, known),
                              do="Only a recipe's own parameters can be set; for more, write a recipe.")  # fmt: skip
        values[name] = typed(name, text, hints.get(name, str))
    return recipe(**values)


def _pairs(settings: Sequence[str] | Mapping[str, str]) -> list[tuple[str, str]]:
    if isinstance(settings, Mapping):
        return list(settings.items())
    pairs = []
    for item in settings:
        name, equals, text = item.partition("=")
        if not equals or not name:
            raise ConfigError("Setting", got=repr(item), expected="name=value")
        pairs.append((name.replace("-", "_"), text))
    return pairs
