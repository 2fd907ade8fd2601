"""Recipes: Python functions that return a configuration; the command line may set exactly their parameters."""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from headrace.errors import ConfigError, nearest
from headrace.online.config import OnlineConfig


def find_recipe(name: str) -> Callable[..., OnlineConfig]:
    """Return the function that `package.module:function` names.

    Raises:
        ConfigError: If the module cannot be imported or has no such function (the nearest names are listed).
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise ConfigError("Recipe", got=repr(name), expected="package.module:function",
                          do="For example headrace.online.demo:trivago.")  # fmt: skip
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError("Recipe", got=f"module {module_name!r} ({error})", expected="a module that can be imported",
                          do="Check the spelling and PYTHONPATH.") from error  # fmt: skip
    recipes = {key: value for key, value in vars(module).items() if _is_recipe(value)}
    if function_name not in recipes:
        raise ConfigError("Recipe", got=repr(function_name), expected=nearest(function_name, recipes),
                          do=f"{module_name} has these recipes.")  # fmt: skip
    recipe: Callable[..., OnlineConfig] = recipes[function_name]
    return recipe


def _is_recipe(value: object) -> bool:
    if not inspect.isfunction(value):
        return False
    return "OnlineConfig" in str(inspect.signature(value).return_annotation)


def parameters(recipe: Callable[..., OnlineConfig]) -> dict[str, inspect.Parameter]:
    """Return the keyword parameters that the command line may set."""
    return {name: p for name, p in inspect.signature(recipe).parameters.items() if p.kind is p.KEYWORD_ONLY}


def build(recipe: Callable[..., OnlineConfig], settings: Sequence[str] | Mapping[str, str]) -> OnlineConfig:
    """Call a recipe with `name=value` settings typed by its annotations.

    Args:
        recipe: The function.
        settings: `["dim=16", "seed=1"]` or a mapping.

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
        values[name] = _typed(name, text, hints.get(name, str))
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


def _typed(name: str, text: str, hint: object) -> object:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if text.lower() == "none" else _typed(name, text, options[0])
    if origin is typing.Literal:
        if text in typing.get_args(hint):
            return text
        raise ConfigError(f"Parameter '{name}'", got=repr(text), expected=f"one of {typing.get_args(hint)}")
    if hint is bool:
        truth = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() in truth:
            return truth[text.lower()]
        raise ConfigError(f"Parameter '{name}'", got=repr(text), expected="true or false")
    for kind in (int, float, Path, str):
        if hint is kind:
            try:
                return kind(text)
            except ValueError as error:
                wanted = f"a value of type {kind.__name__}"
                raise ConfigError(f"Parameter '{name}'", got=repr(text), expected=wanted) from error
    raise ConfigError(f"Parameter '{name}'", got=f"type {hint}", expected="int, float, bool, str, Path or Literal",
                      do="Write a recipe that fixes this value.")  # fmt: skip
