"""State of the dense part: optimiser slots by parameter name, as plain values, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from headrace.config import require
from headrace.errors import ConfigError, RowRuleMismatch
from headrace.protocols import Schedule
from headrace.types import State, StateValue

_STEPS = "headrace_steps"
"""Where an optimiser's groups count the steps of a schedule."""


def dense_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of all persistent parameters and buffers by name, detached, on the CPU."""
    held = model.state_dict()
    return {name: value.detach().cpu().clone() for name, value in held.items() if isinstance(value, Tensor)}


class Buffers:
    """The buffers of a model as they are now, to be put back after a step that was refused.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._kept = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]

    def put_back(self) -> None:
        """Make the buffers what they were."""
        with torch.no_grad():
            for buffer, before in self._kept:
                buffer.copy_(before)


def parameter_names(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """Return the names of the optimiser's parameters in its own order.

    Raises:
        ConfigError: If the optimiser holds a parameter that the model does not have, or the model has a trainable
            one that the optimiser does not hold.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if any(id(parameter) not in names for parameter in held):
        raise ConfigError("Optimiser", got="a parameter that is not the model's", expected="model.parameters()",
                          do="Build the optimiser from the model that the learner is given.")  # fmt: skip
    missing = [name for name, p in model.named_parameters() if p.requires_grad and all(p is not q for q in held)]
    if missing:
        raise ConfigError("Optimiser", got=f"no {missing}", expected="all trainable parameters of the model",
                          do="Add them, or switch their gradient off with requires_grad_(False).")  # fmt: skip
    return [names[id(parameter)] for parameter in held]


def optimizer_settings(optimizer: Optimizer) -> State:
    """Return the kind of an optimiser and the settings of its parameter groups, to be compared with later ones."""
    groups = [
        {key: value.tolist() if isinstance(value, Tensor) else value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    return {"type": type(optimizer).__name__, "groups": _plain(groups)}


def optimizer_state(optimizer: Optimizer, names: list[str]) -> State:
    """Return everything the optimiser keeps, slots under the names of their parameters."""
    content = optimizer.state_dict()
    settings = [{key: value for key, value in group.items() if key != "params"} for group in content["param_groups"]]
    slots: dict[str, StateValue] = {names[place]: _plain(value) for place, value in content["state"].items()}
    return {"groups": _plain(settings), "slots": slots}


def check_optimizer_state(settings: State, names: list[str], built: State, state: State) -> None:
    """Refuse the state of another kind of optimiser, of one built with other settings, or of other parameters.

    Args:
        settings: What `optimizer_settings` returned when the optimiser here was built.
        names: Names of its parameters.
        built: What it returned when the one of the state was built. Settings that only one side knows (written by
            another version of the optimiser) are not compared.
        state: What `optimizer_state` returned.

    Raises:
        RowRuleMismatch: Says what differs.
    """
    if built["type"] != settings["type"]:
        raise RowRuleMismatch("Dense optimiser", got=f"state of {built['type']!r}", expected=str(settings["type"]))
    there, here = cast("list[State]", built["groups"]), cast("list[State]", settings["groups"])
    slots = cast(dict[str, State], state["slots"])
    if len(there) != len(here) or set(slots) - set(names):
        raise RowRuleMismatch("Dense optimiser", got=f"{len(there)} groups, slots of {sorted(slots)}",
                              expected=f"{len(here)} groups, slots of {names}")  # fmt: skip
    for place, (saved, own) in enumerate(zip(there, here, strict=True)):
        for key in sorted(saved.keys() & own.keys()):
            if saved[key] != own[key]:
                what = f"Dense optimiser, group {place}, {key}"
                raise RowRuleMismatch(what, got=str(saved[key]), expected=str(own[key]),
                                      do="Build it with the settings of the state.")  # fmt: skip


def restore_optimizer(optimizer: Optimizer, names: list[str], state: State) -> None:
    """Continue from what `optimizer_state` returned."""
    own, places = optimizer.state_dict(), {name: place for place, name in enumerate(names)}
    groups = [
        {**_like(old, saved), "params": old["params"]}
        for old, saved in zip(own["param_groups"], cast("list[State]", state["groups"]), strict=True)
    ]
    slots = {places[name]: _copied(value) for name, value in cast(dict[str, StateValue], state["slots"]).items()}
    optimizer.load_state_dict({"state": slots, "param_groups": groups})


class DensePace:
    """Steps an optimiser at rates that a schedule changes; see `LearnerConfig.dense_schedule`.

    The number of steps stands in the optimiser's groups, so that it is saved and restored with them.

    Args:
        optimizer: With the rates that the schedule multiplies.
        schedule: Factor by step; None leaves the rates to whoever sets them.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule | None) -> None:
        self._optimizer, self._schedule = optimizer, schedule
        self._rates = [float(group["lr"]) for group in optimizer.param_groups] if schedule is not None else []

    @property
    def _next(self) -> int:
        return int(self._optimizer.param_groups[0].get(_STEPS, 0)) + 1

    def factor(self) -> float | None:
        """Return the factor of the next step; None without a schedule. Changes nothing.

        Raises:
            ConfigError: If the schedule gives no finite number of at least 0.
        """
        if self._schedule is None:
            return None
        factor = float(self._schedule(self._next))
        require(0.0 <= factor < math.inf, f"dense_schedule at step {self._next}", got=factor,
                expected="a finite factor of at least 0")  # fmt: skip
        return factor

    def step(self, factor: float | None) -> None:
        """Take a step at the rates times a factor."""
        if factor is not None:
            step = self._next
            for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
                group["lr"], group[_STEPS] = rate * factor, step
        self._optimizer.step()


def _plain(value: object) -> StateValue:
    """Return optimiser content as state: tensors copied, tuples as lists."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConfigError("Optimiser state", got=f"a {type(value).__name__}", expected="numbers, text and tensors",
                      do="This optimiser cannot be checkpointed; use another.")  # fmt: skip


def _copied(value: StateValue) -> object:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _like(own: Mapping[str, object], saved: State) -> dict[str, object]:
    """Return a saved group with lists as tuples where the optimiser itself has tuples."""
    values = {key: _copied(value) for key, value in saved.items()}
    return {
        key: tuple(value) if isinstance(own.get(key), tuple) and isinstance(value, list) else value
        for key, value in values.items()
    }
