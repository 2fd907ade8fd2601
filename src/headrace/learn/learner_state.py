"""Reading and checking a learner's state before anything of it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from headrace.errors import CorruptSnapshot, RowRuleMismatch
from headrace.protocols import Table
from headrace.store import TableConfig
from headrace.types import RowChange, State

FORMAT = 1
Kind = TypeVar("Kind")


class LearnedTable(Table, Protocol):
    """What a learner needs of a table beyond the role; every table of `headrace.store` has it."""

    @property
    def config(self) -> TableConfig:
        """What the table is made of."""
        ...

    def rows(self) -> RowChange:
        """Return every row."""
        ...

    def forget(self, mark: int) -> None:
        """Drop the change history up to `mark`."""
        ...


@dataclass(frozen=True, slots=True)
class SavedLearner:
    """The parts of a learner's state, typed.

    Attributes:
        spec: What the learner said about itself.
        dense: Dense tensors by name.
        tables: Table states by name.
        optimizer, expiry, marks, positives, negatives: States of these parts.
        optimizer_settings: What the optimiser was built with.
        rng: State of the random generator.
        examples: Examples learned.
        loss_sum: Sum of their losses.
    """

    spec: State
    dense: State
    tables: State
    optimizer: State
    optimizer_settings: State
    expiry: State
    marks: State
    positives: State
    negatives: State
    rng: Tensor
    examples: int
    loss_sum: float

    def state(self) -> State:
        """Return the state again; nothing is copied."""
        return {"format": FORMAT} | {item.name: getattr(self, item.name) for item in fields(self)}


def read_state(state: State) -> SavedLearner:
    """Return the parts of a state.

    Raises:
        CorruptSnapshot: If a part is missing or of another kind.
    """
    if state.get("format") != FORMAT:
        raise CorruptSnapshot("Learner state, format", got=repr(state.get("format")), expected=repr(FORMAT))
    return SavedLearner(
        spec=_part(state, "spec", dict), dense=_part(state, "dense", dict), tables=_part(state, "tables", dict),
        optimizer=_part(state, "optimizer", dict), optimizer_settings=_part(state, "optimizer_settings", dict),
        expiry=_part(state, "expiry", dict), marks=_part(state, "marks", dict),
        positives=_part(state, "positives", dict), negatives=_part(state, "negatives", dict),
        rng=_part(state, "rng", Tensor), examples=_part(state, "examples", int),
        loss_sum=_part(state, "loss_sum", float),
    )  # fmt: skip


def _part(state: State, name: str, kind: type[Kind]) -> Kind:
    value = state.get(name)
    if not isinstance(value, kind):
        raise CorruptSnapshot(f"Learner state, {name}", got=type(value).__name__, expected=f"a {kind.__name__}")
    return value


def check_same_learner(
    saved: SavedLearner, spec: Mapping[str, str], model: nn.Module, tables: Mapping[str, LearnedTable]
) -> None:
    """Refuse the state of a learner with another schema, objective, set of tables or dense network.

    Raises:
        RowRuleMismatch: Says what differs.
    """
    for name in sorted({*saved.spec, *spec}):
        if saved.spec.get(name) != spec.get(name):
            raise RowRuleMismatch(
                f"Learner state, {name}", got=str(saved.spec.get(name)), expected=str(spec.get(name)),
                do="Open the learner with the configuration of the state; `evolve` takes it to another schema.",
            )  # fmt: skip
    if set(saved.tables) != set(tables):
        raise RowRuleMismatch("Learner state, tables", got=str(sorted(saved.tables)), expected=str(sorted(tables)))
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    for name in sorted({*saved.dense, *own}):
        there, here = _shape(saved.dense.get(name)), _shape(own.get(name))
        if there != here:
            raise RowRuleMismatch(f"Learner state, dense tensor '{name}'", got=there, expected=here,
                                  do="Build the model with the sizes of the state.")  # fmt: skip


def _shape(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else "no such tensor"


def restore_tables(tables: Mapping[str, LearnedTable], states: State) -> None:
    """Restore all tables or none: where one refuses, those before it are put back.

    Raises:
        RowRuleMismatch, CorruptSnapshot: From the table that refused; all tables are as they were.
    """
    before: dict[str, State] = {}
    try:
        for name, table in tables.items():
            earlier = table.state()
            table.restore(states[name])  # type: ignore[arg-type]
            before[name] = earlier
    except BaseException:
        for name, earlier in before.items():
            tables[name].restore(earlier)
        raise


def load_dense(model: nn.Module, tensors: State) -> None:
    """Copy dense tensors into the model."""
    with torch.no_grad():
        for name, value in model.state_dict(keep_vars=True).items():
            saved = tensors.get(name)
            if isinstance(value, Tensor) and isinstance(saved, Tensor):
                value.copy_(saved)
