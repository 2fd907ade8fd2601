"""What becomes of a learned state when the schema changes: the plan for a new version made from the old one.

Rules. A feature that is added brings a fresh table; one that is dropped takes its table along, unless another feature
shares it. A feature may be re-typed where its rows keep their meaning: between one, several and a sequence of ids.
What would give learned rows another meaning or shape is refused with the whole difference: another width of a kept
table, words or crosses where ids were, integers where strings were, a feature that becomes a number or stops being
one, another item column, another meaning of the label.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from headrace.data.feature_kinds import (
    CrossFeature,
    DenseFeature,
    EmbeddedFeature,
    Feature,
    Label,
    Scenario,
    TextFeature,
)
from headrace.data.features import Schema
from headrace.errors import SchemaError

Kept = TypeVar("Kept")
FRESH = -1
"""In a map: there is nothing old; start fresh."""


@dataclass(frozen=True, slots=True)
class Block:
    """A run of inputs of a layer: `width` of them start at `new`, and came from `old` (-1: they are fresh)."""

    old: int
    new: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evolution:
    """The difference between two schemas and what it means for learned state; data only.

    Attributes:
        old, new: The schemas.
        changes: The difference in lines: `+` added, `-` dropped, `~` changed.
        problems: Why the old state cannot be used; empty when it can.
        kept_tables: Tables whose rows go on as they are, in the new order.
        added_tables: Tables that start empty.
        dropped_tables: Tables that are no longer read.
        feature_map: For every new embedded feature, the position among the old ones whose dense weights it goes on
            with, or -1.
        dense_map: The same for the columns of `Batch.dense`; a changed transform makes a column fresh.
        scenario_map: For every new scenario value, its old index or -1.
        label_map: For the new main and extra labels, the old position (0 = main) or -1.
    """

    old: Schema
    new: Schema
    changes: tuple[str, ...]
    problems: tuple[str, ...]
    kept_tables: tuple[str, ...]
    added_tables: tuple[str, ...]
    dropped_tables: tuple[str, ...]
    feature_map: tuple[int, ...]
    dense_map: tuple[int, ...]
    scenario_map: tuple[int, ...]
    label_map: tuple[int, ...]

    @property
    def compatible(self) -> bool:
        """Whether the old state can be used."""
        return not self.problems

    @property
    def unchanged(self) -> bool:
        """Whether the schemas say the same."""
        return not self.changes

    def diff(self) -> str:
        """Return the difference for people, one change a line, reasons for a refusal last."""
        head = f"schema version {self.old.version} -> {self.new.version}"
        return "\n".join([head, *self.changes, *(f"! {problem}" for problem in self.problems)])

    def check(self) -> Evolution:
        """Return self, or raise when the old state cannot be used.

        Raises:
            SchemaError: With the whole difference.
        """
        if self.problems:
            raise SchemaError(
                "Schema change", got=f"a change that the learned state does not survive:\n{self.diff()}\n",
                expected="added or dropped features, or re-typed ones whose rows keep their meaning",
                do="Give a changed feature a new name and table, or train a new model.",
            )  # fmt: skip
        return self

    def tables(self, states: Mapping[str, Kept]) -> dict[str, Kept]:
        """Return of a mapping by table name what is kept; the rest is left out.

        Raises:
            SchemaError: If the mapping lacks a table that should be kept.
        """
        for name in self.kept_tables:
            if name not in states:
                raise SchemaError(
                    f"Table '{name}'", got=f"state of {sorted(states)}", expected="the old schema's tables"
                )
        return {name: states[name] for name in self.kept_tables}

    def blocks(self, width: Callable[[EmbeddedFeature], int], *, dense: int = 1) -> list[Block]:
        """Return where the inputs of a layer come from that reads all embedded features, then the dense columns.

        Args:
            width: How many inputs the layer has per embedded feature, such as `lambda feature: feature.dim - 1`.
            dense: How many it has per dense column.
        """
        widths = [[width(feature) for feature in schema.id_features] for schema in (self.old, self.new)]
        for schema, row in zip((self.old, self.new), widths, strict=True):
            row.extend([dense] * len(schema.dense_names))
        shift = len(self.old.id_features)
        origins = [*self.feature_map, *(FRESH if at == FRESH else at + shift for at in self.dense_map)]
        starts, blocks, place = [sum(widths[0][:at]) for at in range(len(widths[0]))], [], 0
        for origin, size in zip(origins, widths[1], strict=True):
            same = origin != FRESH and widths[0][origin] == size
            blocks.append(Block(starts[origin] if same else FRESH, place, size))
            place += size
        return blocks


def plan(old: Schema, new: Schema) -> Evolution:
    """Return what the change from `old` to `new` means; `check()` refuses an incompatible one.

    Example:
        >>> from headrace.data.feature_kinds import IdFeature
        >>> old = Schema(features=(IdFeature("user", 8), IdFeature("city", 8)))
        >>> evolution = plan(old, old.evolved(drop=["city"], add=[IdFeature("device", 4)]))
        >>> evolution.kept_tables, evolution.added_tables, evolution.dropped_tables, evolution.feature_map
        (('user',), ('device',), ('city',), (0, -1))
    """
    changes, problems = _feature_changes(old, new)
    _table_problems(old, new, problems)
    _other_changes(old, new, changes, problems)
    if old.preparation != new.preparation:
        changes.append(f"~ preparation: {old.preparation or 'none'} -> {new.preparation or 'none'}")
        problems.append("other statistics give the ids of prepared columns another meaning")
    if changes and new.version <= old.version:
        problems.append(f"version {new.version} does not follow version {old.version}; a change needs a higher one")
    return Evolution(
        old=old, new=new, changes=tuple(changes), problems=tuple(problems),
        kept_tables=tuple(name for name in new.tables if name in old.tables),
        added_tables=tuple(name for name in new.tables if name not in old.tables),
        dropped_tables=tuple(name for name in old.tables if name not in new.tables),
        feature_map=_positions(old.id_features, new.id_features, _goes_on),
        dense_map=_positions(old.dense_features, new.dense_features, _same_number),
        scenario_map=_scenario_map(old.scenario, new.scenario),
        label_map=_label_map(old, new),
    )  # fmt: skip


def diff(old: Schema, new: Schema) -> str:
    """Return the difference between two schemas for people; see `plan`."""
    return plan(old, new).diff()


def moved(old: Tensor, fresh: Tensor, blocks: Sequence[Block], *, axis: int = -1) -> Tensor:
    """Return `fresh` with the blocks that have an origin copied from `old`; made for weights and optimiser slots.

    Shapes: old and fresh agree in every dimension but `axis`.

    Raises:
        SchemaError: If the blocks do not cover `fresh`, or the other dimensions differ.
    """
    covered = sum(block.width for block in blocks)
    rest = [[size for place, size in enumerate(t.shape) if place != axis % t.dim()] for t in (old, fresh)]
    if covered != fresh.shape[axis] or rest[0] != rest[1]:
        raise SchemaError("moved", got=f"old {tuple(old.shape)}, fresh {tuple(fresh.shape)}, {covered} inputs",
                          expected="blocks that cover the fresh tensor's axis, and other axes alike")  # fmt: skip
    result = fresh.detach().clone()
    for block in blocks:
        if block.old != FRESH:
            part = old.detach().narrow(axis, block.old, block.width)
            result.narrow(axis, block.new, block.width).copy_(part)
    return result


def _feature_changes(old: Schema, new: Schema) -> tuple[list[str], list[str]]:
    before = {feature.name: feature for feature in old.features}
    after = {feature.name: feature for feature in new.features}
    changes = [f"- {_told(feature)}" for name, feature in before.items() if name not in after]
    changes += [f"+ {_told(feature)}" for name, feature in after.items() if name not in before]
    problems = []
    for name, feature in after.items():
        was = before.get(name, feature)
        if was == feature:
            continue
        changes.append(f"~ {_changed(was, feature)}")
        if isinstance(was, DenseFeature) != isinstance(feature, DenseFeature):
            problems.append(f"feature '{name}': a {type(was).__name__} cannot become a {type(feature).__name__}")
    kept = [[name for name in side if name in before and name in after] for side in (before, after)]
    if kept[0] != kept[1]:
        changes.append(f"~ order of features: {kept[0]} -> {kept[1]}")
    return changes, problems


def _table_problems(old: Schema, new: Schema, problems: list[str]) -> None:
    for name, width in new.tables.items():
        if name not in old.tables:
            continue
        if old.tables[name] != width:
            problems.append(f"table '{name}': dim {old.tables[name]} cannot become {width}")
        meanings = [{_meaning(feature) for feature in _users(schema, name)} for schema in (old, new)]
        for alien in sorted(meanings[1] - meanings[0]):
            problems.append(f"table '{name}': holds {', '.join(sorted(meanings[0]))} and cannot hold {alien}")
        accepts = [{getattr(feature, "accepts", "any") for feature in _users(schema, name)} for schema in (old, new)]
        if (accepts[0], accepts[1]) in (({"string"}, {"integer"}), ({"integer"}, {"string"})):
            problems.append(f"table '{name}': ids made from {accepts[0].pop()}s cannot become {accepts[1].pop()}s")


def _other_changes(old: Schema, new: Schema, changes: list[str], problems: list[str]) -> None:
    if old.item != new.item:
        changes.append(f"~ item column: {old.item!r} -> {new.item!r}")
        problems.append(
            "another item column gives examples other ids, so the ledger of learned examples would not hold"
        )
    if old.label != new.label:
        changes.append(f"~ label: {old.label} -> {new.label}")
    if old.label.positive != new.label.positive:
        problems.append(f"label '{new.label.name}': learned as {old.label.positive}, cannot mean {new.label.positive}")
    before = {label.name: label for label in old.extra_labels}
    after = {label.name: label for label in new.extra_labels}
    changes += [f"- extra label {label}" for name, label in before.items() if after.get(name) != label]
    changes += [f"+ extra label {label}" for name, label in after.items() if before.get(name) != label]
    if old.scenario != new.scenario:
        changes.append(f"~ scenario: {old.scenario} -> {new.scenario}")
    if old.weight != new.weight:
        changes.append(f"~ weight column: {old.weight!r} -> {new.weight!r}")


def _users(schema: Schema, table: str) -> list[EmbeddedFeature]:
    return [feature for feature in schema.id_features if feature.table == table]


def _meaning(feature: EmbeddedFeature) -> str:
    """Say what a table's rows stand for."""
    if isinstance(feature, TextFeature):
        return "words"
    return f"pairs of {' and '.join(feature.of)}" if isinstance(feature, CrossFeature) else "ids"


Named = TypeVar("Named", EmbeddedFeature, DenseFeature, Label)


def _positions(old: Sequence[Named], new: Sequence[Named], goes_on: Callable[[Named, Named], bool]) -> tuple[int, ...]:
    places = {part.name: place for place, part in enumerate(old)}
    found = [(places.get(part.name, FRESH), part) for part in new]
    return tuple(at if at != FRESH and goes_on(old[at], part) else FRESH for at, part in found)


def _goes_on(old: EmbeddedFeature, new: EmbeddedFeature) -> bool:
    apart = (old.pooling == "none", new.pooling == "none")
    return old.table == new.table and old.dim == new.dim and apart[0] == apart[1]


def _same_number(old: DenseFeature, new: DenseFeature) -> bool:
    return (old.transform, old.mean, old.std) == (new.transform, new.mean, new.std)


def _scenario_map(old: Scenario | None, new: Scenario | None) -> tuple[int, ...]:
    known = list(old.values) if old is not None else []
    return tuple(known.index(value) if value in known else FRESH for value in (new.values if new is not None else ()))


def _label_map(old: Schema, new: Schema) -> tuple[int, ...]:
    main = 0 if old.label.positive == new.label.positive else FRESH  # under any column name
    extra = _positions(old.extra_labels, new.extra_labels, lambda before, after: before.positive == after.positive)
    return (main, *(FRESH if at == FRESH else at + 1 for at in extra))


def _told(feature: Feature) -> str:
    return f"{type(feature).__name__} '{feature.name}' ({_fields(feature)})"


def _changed(old: Feature, new: Feature) -> str:
    if type(old) is not type(new):
        return f"'{new.name}': {type(old).__name__} ({_fields(old)}) -> {type(new).__name__} ({_fields(new)})"
    names = [item.name for item in dataclasses.fields(new)]
    parts = [(name, getattr(old, name), getattr(new, name)) for name in names]
    told = ", ".join(f"{name} {was!r} -> {now!r}" for name, was, now in parts if was != now)
    return f"{type(new).__name__} '{new.name}': {told}"


def _fields(feature: Feature) -> str:
    told = []
    for item in dataclasses.fields(feature):
        value = getattr(feature, item.name)
        own = item.name in ("table", "column") and value == feature.name
        if item.name != "name" and value != item.default and not own:
            told.append(f"{item.name}={value!r}")
    return ", ".join(told)
