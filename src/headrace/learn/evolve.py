"""From the state of one schema's learner to that of the next one's: what was learned goes on, what is new starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from headrace.data import Schema
from headrace.data.evolution import FRESH, Block, Evolution, moved
from headrace.errors import ConfigError, RowRuleMismatch, SchemaError
from headrace.learn.learner import RankLearner
from headrace.learn.learner_state import SavedLearner, read_state
from headrace.learn.ledger import LEDGER
from headrace.learn.marks import Mark
from headrace.nn import InputAxis, InputLayout
from headrace.types import State, StateValue


def evolve(old: State, evolution: Evolution, learner: RankLearner) -> State:
    """Return the state from which the new schema's learner goes on where the old one stood.

    Tables that both schemas have go on with slots, counts and times; added ones start empty; dropped ones go. Dense
    tensors of the same shape go on. Those whose size depends on the features are moved block by block, as far as the
    model says how they are laid out (`input_axes`), and so are their optimiser slots. Counts, the ledger and random
    numbers go on. The next change is a full one under the next number, so replicas of the new model take it over.

    The state should be that of the last published version, as a clean stop leaves it: what a crashed learner
    published after its checkpoint has to be regenerated with the old schema first.

    Args:
        old: What the old learner's `state` returned.
        evolution: The plan, `headrace.data.evolution.plan(old_schema, new_schema)`.
        learner: A fresh learner of the new schema, built over its features in the schema's order; it is only read.
            Its own `restore` takes the result.

    Raises:
        SchemaError: If the change is incompatible, or a dense tensor has another shape and no known layout.
        RowRuleMismatch: If state, learner and plan are not of the same schemas, or the objectives differ.
        CorruptSnapshot: If `old` is not the state of a learner.
    """
    evolution.check()
    saved, fresh = read_state(old), read_state(learner.state())
    _check_belongs(saved, fresh, evolution)
    blocks = _layouts(learner.model, evolution)
    tables: State = {**fresh.tables, **cast(State, evolution.tables(saved.tables))}
    if LEDGER in fresh.tables and LEDGER in saved.tables:
        tables[LEDGER] = saved.tables[LEDGER]
    dense = {name: _go_on(name, saved.dense.get(name), value, blocks) for name, value in fresh.dense.items()}
    return replace(
        saved, spec=fresh.spec, tables=tables, dense=dense, marks=_rebased(saved.marks),
        optimizer_settings=fresh.optimizer_settings, optimizer=_slots_go_on(saved, fresh, blocks),
    ).state()  # fmt: skip


Layouts = dict[str, list[tuple[list[Block], int]]]
"""Parameter name to its blocks and their axis, for each of its axes over the inputs."""


def _check_belongs(saved: SavedLearner, fresh: SavedLearner, evolution: Evolution) -> None:
    for what, learner, schema in (("state", saved, evolution.old), ("learner", fresh, evolution.new)):
        told = learner.spec.get("schema")
        if told is not None and told != schema.fingerprint():
            raise RowRuleMismatch(f"Evolution, the {what}'s schema", got=str(told), expected=schema.fingerprint(),
                                  do="Plan from the schema of the state to that of the learner.")  # fmt: skip
    free = [{name: text for name, text in learner.spec.items() if not name.startswith(("table/", "schema"))}
            for learner in (saved, fresh)]  # fmt: skip
    if free[0] != free[1]:
        raise RowRuleMismatch("Evolution, the objective", got=str(free[0]), expected=str(free[1]),
                              do="Change schema and objective one after the other.")  # fmt: skip


def _layouts(model: nn.Module, evolution: Evolution) -> Layouts:
    """Return the blocks of every parameter whose layout a module tells."""
    layouts: Layouts = {}
    for prefix, module in model.named_modules():
        axes = getattr(module, "input_axes", None)
        if not callable(axes):
            continue
        features = tuple(getattr(module, "features", evolution.new.id_names))
        if features != evolution.new.id_names:
            raise ConfigError("Evolution, the model's features", got=features, expected=str(evolution.new.id_names),
                              do="Build the model over the schema's features in their order.")  # fmt: skip
        for name, layout in cast(Callable[[], dict[str, InputLayout]], axes)().items():
            told = layout if isinstance(layout, tuple) else (layout,)
            layouts[f"{prefix}.{name}" if prefix else name] = [(_blocks(evolution, axis), axis.axis) for axis in told]
            if not told and _inputs(evolution.old) != _inputs(evolution.new):
                raise SchemaError(f"Evolution, {type(module).__name__}", got="other features, or another order of them",
                                  expected="the same: what it learned belongs to places of features",
                                  do="Train a new model.")  # fmt: skip
    return layouts


def _blocks(evolution: Evolution, axis: InputAxis) -> list[Block]:
    return evolution.blocks(lambda _: axis.per_feature, dense=axis.per_dense)


def _inputs(schema: Schema) -> list[tuple[str, ...]]:
    return [tuple(schema.id_names), tuple(schema.dense_names)]


def _go_on(name: str, old: StateValue, fresh: StateValue, layouts: Layouts) -> StateValue:
    """Return what becomes of one tensor."""
    assert isinstance(fresh, Tensor)
    if not isinstance(old, Tensor):
        return fresh
    axes = layouts.get(name, [])
    if axes and _without(old, axes) == _without(fresh, axes):
        return _moved(old, fresh, axes)
    if old.shape != fresh.shape:
        raise SchemaError(f"Evolution, dense tensor '{name}'", got=f"shape {tuple(old.shape)}",
                          expected=f"{tuple(fresh.shape)}",
                          do="Keep the sizes of the model, or give it `input_axes`.")  # fmt: skip
    return old


def _without(tensor: Tensor, axes: list[tuple[list[Block], int]]) -> list[int]:
    """Return the sizes of the other axes."""
    return [size for place, size in enumerate(tensor.shape) if all(place != axis for _, axis in axes)]


def _moved(old: Tensor, fresh: Tensor, axes: list[tuple[list[Block], int]]) -> Tensor:
    """Return `fresh` with everything from `old` whose place along every axis has an origin."""
    (blocks, axis), *others = axes
    if not others:
        return moved(old, fresh, blocks, axis=axis)
    result = fresh.detach().clone()
    for block in blocks:
        if block.old != FRESH:
            into = result.narrow(axis, block.new, block.width)
            into.copy_(_moved(old.narrow(axis, block.old, block.width), into, others))
    return result


def _slots_go_on(saved: SavedLearner, fresh: SavedLearner, layouts: Layouts) -> State:
    """Return the optimiser's state; slots that are shaped like their parameter move with it."""
    old, new = (cast("dict[str, State]", part.optimizer["slots"]) for part in (saved, fresh))
    slots: dict[str, StateValue] = {}
    for name, own in old.items():
        parameter, target = saved.dense.get(name), fresh.dense.get(name)
        if not isinstance(parameter, Tensor) or not isinstance(target, Tensor):
            continue
        slots[name] = {
            key: _go_on(name, value, new.get(name, {}).get(key, torch.zeros_like(target)), layouts)
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.dim() else value
            for key, value in own.items()
        }  # fmt: skip
    return {**saved.optimizer, "slots": slots | {name: dict(new[name]) for name in new if name not in old}}


def _rebased(marks: State) -> State:
    """Keep the newest version's mark, and say that the change after it has to be a full one."""
    newest = max(marks, key=int)
    return {newest: replace(Mark.from_state(cast(State, marks[newest])), tables=None).state()}
