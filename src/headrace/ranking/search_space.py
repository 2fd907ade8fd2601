"""What may be tried: ranges and choices of a recipe's own parameters, written as text."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from headrace.config import require
from headrace.errors import ConfigError, nearest
from headrace.online.recipe import parameters
from headrace.online.typed import typed

HOW = "name=low..high, name=low..high:log, name=low..high:step, or name=a,b,c"


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers between two bounds, both included.

    Attributes:
        name: The parameter.
        low, high: The bounds.
        whole: Integers only.
        log: Drawn evenly on a logarithmic scale.
        step: Distance of the numbers that may be drawn; None: any.
    """

    name: str
    low: float
    high: float
    whole: bool = False
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        require(self.low < self.high, f"Search '{self.name}'", got=f"{self.low}..{self.high}",
                expected="a lower bound below the upper one")  # fmt: skip
        require(not self.log or self.low > 0, f"Search '{self.name}'", got=self.low,
                expected="a positive lower bound, on a logarithmic scale")  # fmt: skip
        require(self.step is None or self.step > 0, f"Search '{self.name}'", got=self.step,
                expected="a positive step")  # fmt: skip

    def draw(self, trial: Any) -> str:
        """Return a value that a trial suggests, as `build` takes it."""
        if self.whole:
            step = 1 if self.step is None else int(self.step)
            return str(trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log, step=step))
        return repr(float(trial.suggest_float(self.name, self.low, self.high, log=self.log, step=self.step)))


@dataclass(frozen=True, slots=True)
class Choice:
    """Some values, each as text."""

    name: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        require(len(self.values) > 0, f"Search '{self.name}'", got="no value", expected=HOW)
        require(len(set(self.values)) == len(self.values), f"Search '{self.name}'", got=self.values,
                expected="values that are not repeated")  # fmt: skip

    def draw(self, trial: Any) -> str:
        """Return a value that a trial suggests."""
        return str(trial.suggest_categorical(self.name, list(self.values)))


Space: TypeAlias = "tuple[Range | Choice, ...]"


def search_space(recipe: Callable[..., object], texts: Sequence[str]) -> Space:
    """Return the space that texts describe, typed by the recipe's annotations.

    A range is `name=low..high`, with `:log` for a logarithmic scale or `:0.1` for a step. Choices are separated by
    commas; by `|` where a value has commas itself, as in `hidden=64,32|128,64`.

    Args:
        recipe: The function whose keyword parameters are searched.
        texts: One or several parameters each, separated by spaces.

    Raises:
        ConfigError: For an unknown parameter, a range of something that is no number, or a value of another type.

    Example:
        >>> from headrace.online.demo import world
        >>> for part in search_space(world, ["lr=1e-3..0.1:log dim=5,9"]):
        ...     print(part)
        Range(name='lr', low=0.001, high=0.1, whole=False, log=True, step=None)
        Choice(name='dim', values=('5', '9'))
    """
    known, hints = parameters(recipe), typing.get_type_hints(recipe)
    parts: dict[str, Range | Choice] = {}
    for text in (word for line in texts for word in line.split()):
        name, equals, values = text.partition("=")
        name = name.replace("-", "_")
        require(bool(equals and name and values), "Search", got=text, expected=HOW)
        if name not in known:
            raise ConfigError(f"Search, parameter '{name}'", got="unknown", expected=nearest(name, known),
                              do="Only a recipe's own parameters can be searched.")  # fmt: skip
        require(name not in parts, f"Search, parameter '{name}'", got="given twice", expected="once")
        parts[name] = _part(name, values, hints.get(name, str))
    require(len(parts) > 0, "Search", got="nothing", expected=HOW)
    return tuple(parts.values())


def _plain(hint: object) -> object:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(option for option in typing.get_args(hint) if option is not type(None))
    return hint


def _part(name: str, values: str, annotation: object) -> Range | Choice:
    hint = _plain(annotation)
    low, dots, rest = values.partition("..")
    if dots:
        require(hint in (int, float), f"Search '{name}'", got=values, expected="choices: it is no number")
        high, _, scale = rest.partition(":")
        log = scale == "log"
        step = None if log or not scale else _number(name, scale, hint)
        return Range(name, _number(name, low, hint), _number(name, high, hint), hint is int, log, step)
    texts = tuple(part.strip() for part in values.split("|" if "|" in values or _tuple(hint) else ",") if part.strip())
    for text in texts:
        typed(name, text, annotation)  # refuses what is of another type
    return Choice(name, texts)


def _tuple(hint: object) -> bool:
    return typing.get_origin(hint) is tuple


def _number(name: str, text: str, hint: object) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    right = abs(value) < float("inf") and (hint is float or value == int(value))
    require(right, f"Search '{name}'", got=text, expected="a whole number" if hint is int else "a number")
    return value
