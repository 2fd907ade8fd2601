"""Answers of a crowd in columns: who said what about which item, what groups the annotators belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.errors import DataError, nearest
from headrace.feedback.randomness import Floats, Ints

Name: TypeAlias = str | int | bool
Column: TypeAlias = "Sequence[object] | npt.NDArray[np.generic] | pa.Array | pa.ChunkedArray"

MOST_CLASSES = 64
"""Confusions have a cell per pair of classes; more classes than this are numbers, not classes."""

UNKNOWN = -1
"""Code of an annotator whose level of an attribute is not known: the attribute then says nothing about them."""


@dataclass(frozen=True, slots=True, eq=False)
class Attribute:
    """Which group of one attribute (`age`, `gender`) each annotator belongs to.

    Shapes: codes (R,) int64, an index of `levels`, or `UNKNOWN`.
    """

    levels: tuple[Name, ...]
    codes: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """N answers of R annotators to I items, in K classes, as codes.

    Items, annotators and classes are sorted by name, so the order of the rows changes nothing. An annotator may have no
    answer, and an item neither. Two answers of one annotator to one item count as two.

    Shapes: items, annotators, answers (N,) int64 codes; features (I, D) float64 or None.

    Example:
        >>> answers = Answers.encode(["a", "a", "b"], ["ann", "bo", "bo"], ["yes", "no", "no"])
        >>> answers.classes, answers.votes().tolist()
        (('no', 'yes'), [[1.0, 1.0], [1.0, 0.0]])
    """

    items: Ints
    annotators: Ints
    answers: Ints
    item_names: tuple[Name, ...]
    annotator_names: tuple[Name, ...]
    classes: tuple[Name, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    features: Floats | None = None

    def __len__(self) -> int:
        return len(self.items)

    @staticmethod
    def encode(
        items: Column, annotators: Column, answers: Column, *, classes: Sequence[Name] | None = None,
        groups: Mapping[str, Column] | None = None, features: tuple[Column, Floats] | None = None,
    ) -> Answers:  # fmt: skip
        """Build from equally long columns of names.

        Args:
            items: What each answer is about.
            annotators: Who gave it.
            answers: What was answered.
            classes: All classes, where some may not have been answered; None: those answered.
            groups: Attribute to a column of levels, one per answer; null where it is not known.
            features: Names of items and their features (F, D); items without an answer may be among them.

        Raises:
            DataError: If columns differ in length or have nulls, an answer is of no class, an annotator has two levels
                of one attribute, or an answered item has no features.
        """
        columns = {"items": items, "annotators": annotators, "answers": answers}
        arrays = {name: _arrow(f"Answers, {name}", column) for name, column in columns.items()}
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) != 1 or not len(arrays["items"]):
            raise DataError("Answers", got=str(lengths), expected="three equally long columns with at least one row")
        for name, array in arrays.items():
            if array.null_count:
                row = int(np.flatnonzero(np.asarray(pc.is_null(array)))[0])
                raise DataError(f"Answers, {name}, row {row}", got="null", expected="a name in every row",
                                do="Leave rows without an answer out.")  # fmt: skip
        named = features[0] if features is not None else None
        people, annotator_names = _coded(arrays["annotators"])
        things, item_names, matrix = _with_features(arrays["items"], named, features[1] if features else None)
        said, class_names = _classes(arrays["answers"], classes)
        attributes = {
            name: _attribute(name, _arrow(f"Attribute '{name}'", column), people, annotator_names)
            for name, column in (groups or {}).items()
        }
        return Answers(things, people, said, item_names, annotator_names, class_names, attributes, matrix)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Items, annotators, classes."""
        return len(self.item_names), len(self.annotator_names), len(self.classes)

    def votes(self) -> Floats:
        """Return how often each item was said to be of each class, (I, K)."""
        items, _, classes = self.shape
        cells = np.bincount(self.items * classes + self.answers, minlength=items * classes)
        return cells.reshape(items, classes).astype(np.float64)

    def select(self, rows: npt.NDArray[np.bool_] | Ints) -> Answers:
        """Return some of the answers, about the same items, annotators and classes."""
        return replace(self, items=self.items[rows], annotators=self.annotators[rows], answers=self.answers[rows])

    def only_groups(self, names: Sequence[str]) -> Answers:
        """Return the same answers with these attributes alone.

        Raises:
            DataError: If there is no such attribute.
        """
        for name in names:
            if name not in self.attributes:
                raise DataError(f"Attribute '{name}'", got="no such attribute", expected=nearest(name, self.attributes))
        return replace(self, attributes={name: self.attributes[name] for name in names})

    def permuted_groups(self, seed: int) -> Answers:
        """Return the same answers with the groups dealt out anew among the annotators, whole rows at a time."""
        order = np.random.default_rng(seed).permutation(len(self.annotator_names))
        mixed = {name: Attribute(each.levels, each.codes[order]) for name, each in self.attributes.items()}
        return replace(self, attributes=mixed)

    def without_features(self) -> Answers:
        """Return the same answers, nothing being known of the items."""
        return replace(self, features=None)


def _arrow(what: str, column: Column) -> pa.Array:
    try:
        array = column if isinstance(column, (pa.Array, pa.ChunkedArray)) else pa.array(column)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(what, got=str(error), expected="a column of one type") from error
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_floating(array.type):
        found = array.to_numpy(zero_copy_only=False)
        broken = found[~np.isnan(found) & (found != np.floor(found))]
        if len(broken):
            raise DataError(what, got=f"the number {broken[0]:g}", expected="names or integers",
                            do="Put numbers into bins first.")  # fmt: skip
        array = pa.array(found, from_pandas=True).cast(pa.int64())
    return array


def _coded(array: pa.Array) -> tuple[Ints, tuple[Name, ...]]:
    """Return codes (-1 for null) in the order of sorted names, and the names."""
    encoded = array.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    order = sorted(range(len(names)), key=names.__getitem__)
    rank = np.empty(len(names) + 1, dtype=np.int64)
    rank[order], rank[-1] = np.arange(len(names)), UNKNOWN
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return rank[codes], tuple(names[place] for place in order)


def _classes(array: pa.Array, classes: Sequence[Name] | None) -> tuple[Ints, tuple[Name, ...]]:
    codes, found = _coded(array)
    names = found if classes is None else tuple(classes)
    if not 2 <= len(names) <= MOST_CLASSES or len(set(names)) != len(names):
        shown = ", ".join(map(repr, names[:5]))
        raise DataError("Classes", got=f"{len(names)} ({shown})", expected=f"2 to {MOST_CLASSES} different ones",
                        do="Give classes= where one was never answered; put numbers into bins.")  # fmt: skip
    if classes is None:
        return codes, names
    place = {name: number for number, name in enumerate(names)}
    for name in found:
        if name not in place:
            raise DataError("Answers", got=repr(name), expected=f"one of the classes {list(names)}")
    return np.array([place[name] for name in found], dtype=np.int64)[codes], names


def _attribute(name: str, array: pa.Array, people: Ints, names: Sequence[Name]) -> Attribute:
    if len(array) != len(people):
        raise DataError(f"Attribute '{name}'", got=f"{len(array)} rows", expected=f"{len(people)}, one per answer")
    codes, levels = _coded(array)
    known = codes != UNKNOWN
    own = np.full(len(names), UNKNOWN, dtype=np.int64)
    own[people[known]] = codes[known]
    wrong = known & (codes != own[people])
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        person = people[row]
        raise DataError(
            f"Attribute '{name}' of annotator {names[person]!r}",
            got=f"both {levels[codes[row]]!r} and {levels[own[person]]!r}", expected="one level for each annotator",
            do="Groups are of annotators, not of answers.",
        )  # fmt: skip
    return Attribute(levels, own)


def _with_features(
    array: pa.Array, named: Column | None, matrix: Floats | None
) -> tuple[Ints, tuple[Name, ...], Floats | None]:
    if named is None or matrix is None:
        codes, names = _coded(array)
        return codes, names, None
    keys, rows = _coded(_arrow("Features, names of items", named))
    values = np.asarray(matrix, dtype=np.float64)
    if values.ndim != 2 or len(values) != len(keys) or len(rows) != len(keys) or (keys == UNKNOWN).any():
        raise DataError("Features", got=f"shape {values.shape} for {len(rows)} different items in {len(keys)} rows",
                        expected="(items, columns), one row for each item")  # fmt: skip
    if not np.isfinite(values).all():
        raise DataError("Features", got="values that are not finite", expected="finite numbers",
                        do="Fill gaps first, and add a column that says where they were.")  # fmt: skip
    codes, names = _coded(array)
    place = {name: number for number, name in enumerate(rows)}
    lacking = [name for name in names if name not in place]
    if lacking:
        raise DataError(f"Features of item {lacking[0]!r}", got=f"none ({len(lacking)} such items)",
                        expected="a row for every item that was answered")  # fmt: skip
    sorted_values = np.empty_like(values)
    sorted_values[keys] = values
    return np.array([place[name] for name in names], dtype=np.int64)[codes], rows, sorted_values
