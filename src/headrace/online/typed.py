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
    return member("Model", module_name or FAMILIES, name, _is_family, "has these; another one is module:Name.")


def member(
    what: str, module_name: str, name: str, fits: Callable[[object], bool], others: str, *, said: str = ""
) -> Callable[..., Any]:  # fmt: skip
    """Import a module and return what it has under a name.

    Args:
        what: What is looked for, for errors.
        module_name: The module.
        name: The name in it.
        fits: Whether something may be meant at all; the nearest names are taken from what fits.
        others: What an error says of those names, after the module's own.
        said: What was typed, where that is not just the name.

    Raises:
        ConfigError: If the module cannot be imported, or has nothing that fits under this name.
    """
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(what, got=f"module {module_name!r} ({error})", expected="a module that can be imported",
                          do="Check the spelling and PYTHONPATH.") from error  # fmt: skip
    known = {key: value for key, value in vars(module).items() if fits(value)}
    if name not in known:
        raise ConfigError(what, got=repr(said or name), expected=nearest(name, known), do=f"{module_name} {others}")
    found: Callable[..., Any] = known[name]
    return found


def _is_family(value: object) -> bool:
    """Return whether something builds a model over embedded features: its first argument is `embed`."""
    if not callable(value) or getattr(value, "_is_protocol", False):
        return False
    try:
        return next(iter(inspect.signature(value).parameters), "") == "embed"
    except (TypeError, ValueError):
        return False
