"""The kinds of features, as typed dataclasses: what a column is, which table its ids live in, how it is served."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Literal, TypeAlias, get_args

from headrace.config import require

Pooling = Literal["sum", "mean", "none"]
Accepts = Literal["any", "string", "integer"]
Transform = Literal["identity", "log1p", "standard"]
IdValue: TypeAlias = "str | int"


@dataclass(frozen=True, slots=True)
class IdFeature:
    """One id per row; strings are hashed (`hash_strings`), integers are used as they are.

    Attributes:
        name: Name of the feature, unique in the schema.
        dim: Width of a table row. `nn.ctr` takes column 0 as first-order weight and the rest as factor.
        table: Table that holds the rows; features that name the same table share it. Empty: the feature's own name.
        column: Column that is read. Empty: the feature's name.
        accepts: Refuse integers (`"string"`) or strings (`"integer"`). `"7"` and `7` are different ids, so say which
            one it is wherever requests and logs come from different programs.
        default: Id of a row whose value is null. None: such a row has no id and embeds as zeros.
        serve_as: Value that replaces the real one when serving, for features that only the log knows (a position).
        optional: The column may be absent; all its rows count as null then.
    """

    name: str
    dim: int
    table: str = ""
    _: KW_ONLY
    column: str = ""
    accepts: Accepts = "any"
    default: IdValue | None = None
    serve_as: IdValue | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        _settle(self)
        for what, value in (("default", self.default), ("serve_as", self.serve_as)):
            fits = (isinstance(value, str) and self.accepts != "integer") or (
                isinstance(value, int) and not isinstance(value, bool) and self.accepts != "string"
            )
            require(
                value is None or fits,
                f"Feature '{self.name}', {what}", got=value, expected="a string or an integer, as `accepts` says",
            )  # fmt: skip

    @property
    def pooling(self) -> Pooling:
        """How rows of one example become one vector; a single id needs no choice."""
        return "sum"

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read."""
        return (self.column,)


@dataclass(frozen=True, slots=True)
class MultiIdFeature:
    """Any number of ids per row, order without meaning: genres, tags.

    Attributes:
        name, dim, table, column, accepts, optional: As in `IdFeature`.
        pooling: How the rows become one vector.
        separator: For text columns: the string between two ids (`"|"` in MovieLens). None: the column is a list.
    """

    name: str
    dim: int
    table: str = ""
    _: KW_ONLY
    column: str = ""
    accepts: Accepts = "any"
    pooling: Pooling = "mean"
    separator: str | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        _settle(self)
        require(self.separator != "", f"Feature '{self.name}', separator", got="", expected="a string or None")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read."""
        return (self.column,)


@dataclass(frozen=True, slots=True)
class SequenceFeature:
    """Ids per row in the order they happened, oldest first: a user's last items.

    Attributes:
        name, dim, table, column, accepts, separator, optional: As in `MultiIdFeature`.
        max_length: Only the newest (last) so many are kept.
        pooling: `"none"` leaves the rows apart for models that read the order.
    """

    name: str
    dim: int
    table: str = ""
    _: KW_ONLY
    column: str = ""
    accepts: Accepts = "any"
    max_length: int = 50
    pooling: Pooling = "mean"
    separator: str | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        _settle(self)
        require(
            _is_count(self.max_length), f"Feature '{self.name}', max_length", got=self.max_length, expected="1 or more"
        )
        require(self.separator != "", f"Feature '{self.name}', separator", got="", expected="a string or None")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read."""
        return (self.column,)


@dataclass(frozen=True, slots=True)
class TextFeature:
    """Free text as a bag of words: lower-cased runs of letters and digits, each hashed to an id.

    Attributes:
        name, dim, table, column, optional: As in `IdFeature`.
        max_tokens: Only the first so many words are kept.
        pooling: How the words' rows become one vector.
    """

    name: str
    dim: int
    table: str = ""
    _: KW_ONLY
    column: str = ""
    max_tokens: int = 32
    pooling: Pooling = "mean"
    optional: bool = False

    def __post_init__(self) -> None:
        _settle(self)
        require(
            _is_count(self.max_tokens), f"Feature '{self.name}', max_tokens", got=self.max_tokens, expected="1 or more"
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read."""
        return (self.column,)


@dataclass(frozen=True, slots=True)
class CrossFeature:
    """The combination of several id features as one id: (platform, device), (city, item).

    Made when rows are collated, so clients never send it, and a part with `serve_as` enters with its served value.

    Attributes:
        name, dim, table: As in `IdFeature`.
        of: Names of two or more `IdFeature`s. A row in which one of them has no id has none here either.
    """

    name: str
    dim: int
    of: tuple[str, ...] = ()
    _: KW_ONLY
    table: str = ""

    def __post_init__(self) -> None:
        _settle(self)
        require(
            _are_names(self.of) and len(self.of) >= 2,
            f"Feature '{self.name}', of",
            got=self.of,
            expected="names of two or more id features",
        )

    @property
    def pooling(self) -> Pooling:
        """How rows of one example become one vector; a single id needs no choice."""
        return "sum"

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read: none of its own."""
        return ()

    @property
    def optional(self) -> bool:
        """Whether it may be absent; its parts say so."""
        return True


@dataclass(frozen=True, slots=True)
class DenseFeature:
    """One number per row.

    Attributes:
        name, column, optional: As in `IdFeature`.
        transform: `identity`; `log1p`: sign(x) ln(1 + |x|); `standard`: (x - mean) / std.
        mean, std: Of the `standard` transform, in the column's unit.
        default: Value of a null, before the transform.
        serve_as: Value that replaces the real one when serving, before the transform.
    """

    name: str
    _: KW_ONLY
    column: str = ""
    transform: Transform = "identity"
    mean: float = 0.0
    std: float = 1.0
    default: float = 0.0
    serve_as: float | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        require(_is_name(self.name), "Feature name", got=self.name, expected="a name")
        object.__setattr__(self, "column", self.column or self.name)
        what = f"Feature '{self.name}'"
        require(self.transform in get_args(Transform), f"{what}, transform", got=self.transform,
                expected=f"one of {get_args(Transform)}")  # fmt: skip
        require(_finite(self.mean), f"{what}, mean", got=self.mean, expected="a finite number")
        require(_finite(self.std) and self.std > 0, f"{what}, std", got=self.std, expected="a positive number")
        require(_finite(self.default), f"{what}, default", got=self.default, expected="a finite number")
        require(self.serve_as is None or _finite(self.serve_as), f"{what}, serve_as", got=self.serve_as,
                expected="a finite number")  # fmt: skip

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read."""
        return (self.column,)


@dataclass(frozen=True, slots=True)
class Label:
    """What is predicted.

    Attributes:
        name: Column of examples that holds it (float, 1 = it happened).
        positive: Kinds of actions that make it 1.
    """

    name: str = "label"
    positive: tuple[str, ...] = ("click",)

    def __post_init__(self) -> None:
        require(bool(self.name), "Label, name", got=self.name, expected="a column name")
        require(_are_names(self.positive), "Label, positive", got=self.positive, expected="a tuple of action kinds")


@dataclass(frozen=True, slots=True)
class Scenario:
    """Which of a few known situations (domains, surfaces) a row belongs to, for models that treat them apart.

    Attributes:
        column: String column that names the scenario.
        values: The known scenarios; `Batch.extra["scenario"]` holds the index into it.
        default: Scenario of rows with a null or unknown value. None: such rows are refused.
    """

    column: str
    values: tuple[str, ...]
    default: str | None = None

    def __post_init__(self) -> None:
        require(bool(self.column), "Scenario, column", got=self.column, expected="a column name")
        distinct = _are_names(self.values) and len(set(self.values)) == len(self.values)
        require(distinct, "Scenario, values", got=self.values, expected="a tuple of distinct names")
        require(self.default is None or self.default in self.values, "Scenario, default", got=self.default,
                expected="one of the values")  # fmt: skip


EmbeddedFeature: TypeAlias = IdFeature | MultiIdFeature | SequenceFeature | TextFeature | CrossFeature
Feature: TypeAlias = EmbeddedFeature | DenseFeature


def _settle(feature: EmbeddedFeature) -> None:
    """Fill in the names that default to the feature's own and check what all embedded features have."""
    require(_is_name(feature.name), "Feature name", got=feature.name, expected="a name")
    what = f"Feature '{feature.name}'"
    require(_is_count(feature.dim), f"{what}, dim", got=feature.dim, expected="a positive integer")
    object.__setattr__(feature, "table", feature.table or feature.name)
    if not isinstance(feature, CrossFeature):
        object.__setattr__(feature, "column", feature.column or feature.name)
    for name, choices in (("accepts", Accepts), ("pooling", Pooling)):
        value = getattr(feature, name, None)
        require(value is None or value in get_args(choices), f"{what}, {name}", got=value,
                expected=f"one of {get_args(choices)}")  # fmt: skip


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _are_names(value: object) -> bool:
    return isinstance(value, tuple) and bool(value) and all(_is_name(item) for item in value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
