"""What is to be made of raw columns: categories with a minimum count, bins, dense numbers, lists; as plain data.

Ids are small integers: 0 is never used (peers pad with it), 1 stands for every rare or unseen value, 2 for a missing
one (null or empty); the values that occur often enough follow from 3 on, by falling count, ties by their bytes.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Literal, TypeAlias, get_args

from headrace.config import fingerprint, require
from headrace.errors import DataError, nearest

RARE, MISSING, FIRST = 1, 2, 3
"""Ids of rare or unseen values, of missing values, and of the most frequent one."""

MAX_BUCKETS = 2**31 - 8
Scale = Literal["none", "standard", "min_max"]


@dataclass(frozen=True, slots=True)
class Category:
    """One id per row from text or whole numbers; `"7"` and `7` are the same value here.

    Attributes:
        name: Of the prepared column.
        column: Raw column that is read. Empty: the name.
        min_count: Values that occur less often in the training rows share the rare id.
        vocabulary: Columns that name the same vocabulary share ids and counts (a history of items and the item).
            Empty: the name.
        buckets: Hash values into so many ids instead of keeping a vocabulary: memory stays bounded, values collide.
            `min_count` then counts buckets.
        optional: A request (or file) without the column is read as one full of nulls.
        serve_as: Raw value that replaces the real one when serving (a reference position), see `IdFeature`.
    """

    name: str
    _: KW_ONLY
    column: str = ""
    min_count: int = 1
    vocabulary: str = ""
    buckets: int | None = None
    optional: bool = False
    serve_as: str | int | None = None

    def __post_init__(self) -> None:
        _settle_ids(self)


@dataclass(frozen=True, slots=True)
class LogBins:
    """A number as a category, as the Criteo_x4 protocol has it: above 2 floor(ln(x)²), else x cut to a whole number.

    Source: FuxiCTR's Criteo preprocessing (`convert_to_bucket`); the winners of the Criteo challenge used it first.

    Attributes:
        name, column, min_count, optional, serve_as: As in `Category`.
    """

    name: str
    _: KW_ONLY
    column: str = ""
    min_count: int = 1
    optional: bool = False
    serve_as: float | None = None

    def __post_init__(self) -> None:
        _settle(self)
        require(self.min_count >= 1, f"Column '{self.name}', min_count", got=self.min_count, expected="1 or more")

    @property
    def vocabulary(self) -> str:
        """Its own."""
        return self.name


@dataclass(frozen=True, slots=True)
class QuantileBins:
    """A number as one of about equally full bins; a value equal to a cut belongs to the lower bin.

    Cuts are read off a histogram whose bars are 2^-16 of a value wide, so they are exact for whole numbers up to
    65,536 and need bounded memory.

    Attributes:
        name, column, optional, serve_as: As in `Category`.
        bins: At most so many; fewer where many rows have the same value.
    """

    name: str
    _: KW_ONLY
    column: str = ""
    bins: int = 10
    optional: bool = False
    serve_as: float | None = None

    def __post_init__(self) -> None:
        _settle(self)
        require(2 <= self.bins <= 65_536, f"Column '{self.name}', bins", got=self.bins, expected="2 to 65536")


@dataclass(frozen=True, slots=True)
class Number:
    """A dense number: missing values are filled, then it is clipped, put on a log scale and scaled, in this order.

    Attributes:
        name, column, optional, serve_as: As in `Category`.
        fill: Stands for a missing value, in the column's unit.
        clip: Least and largest value; None leaves a side open.
        log1p: sign(x) ln(1 + |x|).
        scale: `standard`: (x - mean) / standard deviation; `min_max`: to 0..1 of the training rows (values beyond
            their range are cut to it). Statistics are those of the training rows after the steps before.
        indicator: Add a column `<name>_missing` that is 1 where the value was missing.
    """

    name: str
    _: KW_ONLY
    column: str = ""
    fill: float = 0.0
    clip: tuple[float | None, float | None] = (None, None)
    log1p: bool = False
    scale: Scale = "none"
    indicator: bool = False
    optional: bool = False
    serve_as: float | None = None

    def __post_init__(self) -> None:
        _settle(self)
        object.__setattr__(self, "clip", tuple(self.clip))
        what = f"Column '{self.name}'"
        require(self.scale in get_args(Scale), f"{what}, scale", got=self.scale, expected=f"one of {get_args(Scale)}")
        require(math.isfinite(self.fill), f"{what}, fill", got=self.fill, expected="a finite number")
        low, high = self.clip
        require(low is None or high is None or low <= high, f"{what}, clip", got=self.clip, expected="least, largest")


@dataclass(frozen=True, slots=True)
class Categories:
    """Any number of ids per row, order without meaning: genres, tags. Missing and empty values are left out.

    Attributes:
        name, column, min_count, vocabulary, buckets, optional: As in `Category`.
        separator: Between the values of a text column; lists are taken as they are.
        max_length: Only the first so many of a row are kept.
    """

    name: str
    _: KW_ONLY
    column: str = ""
    min_count: int = 1
    vocabulary: str = ""
    buckets: int | None = None
    optional: bool = False
    separator: str = "|"
    max_length: int = 64

    def __post_init__(self) -> None:
        _settle_ids(self)
        _check_list(self.name, self.separator, self.max_length)


@dataclass(frozen=True, slots=True)
class History:
    """Ids per row in the order in which they happened, oldest first.

    Attributes:
        name, column, min_count, vocabulary, buckets, optional, separator: As in `Categories`.
        max_length: Only the last (newest) so many of a row are kept.
        pooling: What becomes of the rows; see `SequenceFeature`.
    """

    name: str
    _: KW_ONLY
    column: str = ""
    min_count: int = 1
    vocabulary: str = ""
    buckets: int | None = None
    optional: bool = False
    separator: str = "|"
    max_length: int = 50
    pooling: Literal["sum", "mean", "none"] = "mean"

    def __post_init__(self) -> None:
        _settle_ids(self)
        _check_list(self.name, self.separator, self.max_length)


Hashable: TypeAlias = "Category | Categories | History"
Counted: TypeAlias = "Category | Categories | History | LogBins"
Column: TypeAlias = "Category | Categories | History | LogBins | QuantileBins | Number"
KINDS: dict[str, type] = {
    kind.__name__: kind for kind in (Category, Categories, History, LogBins, QuantileBins, Number)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """Which columns are prepared, and how.

    Attributes:
        columns: In the order in which models see them.
        label: Column of training rows with the label.
        extra_labels: Further labels, carried beside it.
        keep: Raw columns that are carried as they are (a group for grouped metrics, a time, a key).
        item: Column that names the candidate in requests.
        max_distinct: Largest number of distinct values that a vocabulary may count. Beyond it fitting ends with an
            error that says what to do, instead of taking all memory: about 130 bytes for each.

    Raises:
        ConfigError: If names are not unique, or columns of one vocabulary disagree.

    Example:
        >>> plan = Preparation(columns=(Category("city", min_count=2), Number("price", log1p=True)))
        >>> Preparation.from_json(plan.to_json()) == plan
        True
    """

    columns: tuple[Column, ...]
    label: str = "label"
    extra_labels: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    item: str = "item"
    max_distinct: int = 50_000_000

    def __post_init__(self) -> None:
        for name in ("columns", "extra_labels", "keep"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        require(bool(self.columns), "Preparation, columns", got=self.columns, expected="at least one")
        names = self.names
        twice = sorted({name for name in names if names.count(name) > 1})
        require(not twice, "Preparation, columns", got=f"{twice} more than once", expected="unique names")
        labels = {self.label, *self.extra_labels}
        leaked = sorted(labels & {column.column for column in self.columns})
        require(not leaked, "Preparation, columns", got=f"label columns {leaked} among the inputs",
                expected="columns that are known before the label")  # fmt: skip
        clash = sorted({*self.keep, *labels} & set(names))
        require(not clash, "Preparation, keep", got=f"{clash}, as prepared columns are called", expected="other names",
                do="Name prepared columns otherwise; `column` says what they read.")  # fmt: skip
        require(self.max_distinct >= 1, "Preparation, max_distinct", got=self.max_distinct, expected="1 or more")
        self._check_vocabularies()

    def _check_vocabularies(self) -> None:
        for name, columns in self.vocabularies.items():
            settings = {(column.min_count, getattr(column, "buckets", None)) for column in columns}
            require(len(settings) == 1, f"Vocabulary '{name}'", got=f"(min_count, buckets) {sorted(settings, key=str)}",
                    expected="the same in all columns that share it")  # fmt: skip
            kinds = {isinstance(column, LogBins) for column in columns}
            require(kinds != {True, False}, f"Vocabulary '{name}'", got="bins of a number and categories in one",
                    expected="columns of one kind", do="Name another vocabulary.")  # fmt: skip

    @property
    def vocabularies(self) -> dict[str, list[Counted]]:
        """Vocabulary to the columns that share it, in order of first use."""
        found: dict[str, list[Counted]] = {}
        for column in self.columns:
            if isinstance(column, (Category, Categories, History, LogBins)):
                found.setdefault(column.vocabulary, []).append(column)
        return found

    @property
    def names(self) -> list[str]:
        """Names of the prepared columns, indicators included, in order."""
        names: list[str] = []
        for column in self.columns:
            names.append(column.name)
            if isinstance(column, Number) and column.indicator:
                names.append(f"{column.name}_missing")
        return names

    @property
    def raw_columns(self) -> tuple[str, ...]:
        """Raw columns that are read, each once."""
        return tuple(dict.fromkeys(column.column for column in self.columns))

    def column(self, name: str) -> Column:
        """Return a column by name; DataError lists the nearest names when there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise DataError("Prepared column", got=repr(name), expected=nearest(name, self.names))

    def fingerprint(self) -> str:
        """Return 16 hex digits that are equal exactly when the preparations are."""
        return fingerprint(self)

    def to_json(self) -> str:
        """Return the preparation as JSON text."""
        content = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        content["columns"] = [{"type": type(column).__name__, **dataclasses.asdict(column)} for column in self.columns]
        return json.dumps(content, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Preparation:
        """Read what `to_json` wrote.

        Raises:
            DataError: If it is something else, or was written by a newer version.
        """
        try:
            content = json.loads(text)
            columns = tuple(_column(entry) for entry in content.pop("columns"))
            return Preparation(columns=columns, **content)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise DataError("Preparation", got=str(error), expected="what `to_json` wrote",
                            do="It was written by another version, or damaged.") from error  # fmt: skip


def _column(entry: Mapping[str, object]) -> Column:
    fields = dict(entry)
    name = str(fields.pop("type"))
    if name not in KINDS:
        raise DataError("Preparation, column type", got=repr(name), expected=nearest(name, KINDS))
    column: Column = KINDS[name](**fields)
    return column


def _settle(column: Column) -> None:
    require(bool(column.name), "Column name", got=column.name, expected="a name")
    object.__setattr__(column, "column", column.column or column.name)


def _settle_ids(column: Hashable) -> None:
    _settle(column)
    what = f"Column '{column.name}'"
    object.__setattr__(column, "vocabulary", column.vocabulary or column.name)
    require(column.min_count >= 1, f"{what}, min_count", got=column.min_count, expected="1 or more")
    require(column.buckets is None or 1 <= column.buckets <= MAX_BUCKETS, f"{what}, buckets", got=column.buckets,
            expected=f"None, or 1 to {MAX_BUCKETS}")  # fmt: skip


def _check_list(name: str, separator: str, max_length: int) -> None:
    require(bool(separator), f"Column '{name}', separator", got=separator, expected="a string, not empty")
    require(max_length >= 1, f"Column '{name}', max_length", got=max_length, expected="1 or more")
