"""Values from the text of a command line, typed by the annotation of the parameter they are for."""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace.errors import ConfigError, nearest

FAMILIES = "headrace.nn"
"""Where a model family is looked for that is named without a module."""

TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def typed(name: str, text: str, hint: object) -> object:
    """Return the value that a text means for a parameter.

    Args:
        name: Name of the parameter, for errors.
        text: What was typed.
        hint: Annotation of the parameter: int, float, bool, str, Path, Literal, an optional one of these, a tuple of
            one of these (items separated by commas), or a callable (a model family, see `named_family`).

    Raises:
        ConfigError: If the text is not of that type, or the type cannot be written as text.

    Example:
        >>> typed("hidden", "64,32", tuple[int, ...])
        (64, 32)
    """
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if text.lower() == "none" else typed(name, text, options[0])
    if origin is typing.Literal:
        if text in typing.get_args(hint):
            return text
        raise ConfigError(f"Parameter '{name}'", got=repr(text), expected=f"one of {typing.get_args(hint)}")
    if origin is tuple:
        item = typing.get_args(hint)[0]
        return tuple(typed(name, part.strip(), item) for part in text.split(",") if part.strip())
    if origin is Callable:
        return named_family(text)
    if hint is bool:
        if text.lower() in TRUTH:
            return TRUTH[text.lower()]
        raise ConfigError(f"Parameter '{name}'", got=repr(text), expected="true or false")
    for kind in (int, float, Path, str):
        if hint is kind:
            try:
                return kind(text)
            except ValueError as error:
                wanted = f"a value of type {kind.__name__}"
                raise ConfigError(f"Parameter '{name}'", got=repr(text), expected=wanted) from error
    raise ConfigError(f"Parameter '{name}'", got=f"type {hint}",
                      expected="int, float, bool, str, Path, Literal, tuple or a model family",
                      do="Write a recipe that fixes this value.")  # fmt: skip


def named_family(text: str) -> Callable[..., Any]:
    """Return the model family that `Name` (of `headrace.nn`) or `package.module:Name` names.

    Raises:
        ConfigError: If there is no such module or class; names the nearest.

    Example:
        >>> named_family("DeepFM").__name__
        'DeepFM'
    """
    module_name, _, name = text.rpartition(":")
    module_name = module_name or FAMILIES
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError("Model", got=f"module {module_name!r} ({error})", expected="a module that can be imported",
                          do="Check the spelling and PYTHONPATH.") from error  # fmt: skip
    families = {key: value for key, value in vars(module).items() if _is_family(value)}
    if name not in families:
        raise ConfigError("Model", got=repr(name), expected=nearest(name, families),
                          do=f"{module_name} has these; another one is module:Name.")  # fmt: skip
    found: Callable[..., Any] = families[name]
    return found


def _is_family(value: object) -> bool:
    """Return whether something builds a model over embedded features: its first argument is `embed`."""
    if not callable(value) or getattr(value, "_is_protocol", False):
        return False
    try:
        return next(iter(inspect.signature(value).parameters), "") == "embed"
    except (TypeError, ValueError):
        return False
