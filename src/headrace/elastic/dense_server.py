"""The dense part of a model in asynchronous training: parameters and their optimiser, kept at one server."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from headrace.config import require
from headrace.errors import CorruptSnapshot, StoreError
from headrace.learn.dense import (
    DensePace,
    check_optimizer_state,
    dense_tensors,
    optimizer_settings,
    optimizer_state,
    parameter_names,
    restore_optimizer,
)
from headrace.learn.learner_state import load_dense
from headrace.protocols import Schedule
from headrace.store.row_rules import FloatArray
from headrace.types import State


def trained(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that learn, in the model's order: what travels, flat, between worker and server."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def flat(tensors: Sequence[Tensor]) -> FloatArray:
    """Return tensors as one array (P,)."""
    if not tensors:
        return np.zeros(0, np.float32)
    return np.asarray(torch.cat([one.detach().reshape(-1) for one in tensors]).numpy(), np.float32)


def gradients(model: nn.Module) -> FloatArray:
    """Return the gradients of all parameters that learn as one array (P,); zeros where none flowed."""
    return flat([torch.zeros_like(one) if one.grad is None else one.grad for one in trained(model)])


@torch.no_grad()
def load_flat(model: nn.Module, values: FloatArray) -> None:
    """Put an array (P,) into the parameters that learn.

    Raises:
        StoreError: If it is of another length.
    """
    parameters = trained(model)
    sizes = [one.numel() for one in parameters]
    if len(values) != sum(sizes):
        raise StoreError("Dense part", got=f"{len(values)} values", expected=f"{sum(sizes)}",
                         do="Start servers and workers with one model.")  # fmt: skip
    for one, part in zip(parameters, torch.split(torch.from_numpy(values), sizes), strict=True):
        one.copy_(part.view_as(one))


class DenseServer:
    """Parameters of a model that many workers read, and that one optimiser changes.

    Args:
        model: Its parameters on the CPU, float32; no running statistics, because every worker would have its own.
        optimizer: Over all of its parameters.
        schedule: See `LearnerConfig.dense_schedule`.

    Raises:
        ConfigError: If the optimiser has other parameters, or the model has buffers that learn.

    Thread-safety: every method from any thread; a read sees whole steps.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, schedule: Schedule | None = None) -> None:
        self._names, self._settings = parameter_names(model, optimizer), optimizer_settings(optimizer)
        learned = [name for name, value in model.named_buffers() if value.is_floating_point()]
        require(not learned, "Model, buffers", got=learned, expected="none in asynchronous training",
                do="Train it in synchronous mode, or use layers without running statistics.")  # fmt: skip
        self._model, self._optimizer, self._pace = model, optimizer, DensePace(optimizer, schedule)
        self._lock = threading.Lock()
        self._first = self._state()
        self._flat, self._version, self._steps = flat(trained(model)), 0, 0

    def pull(self, known: int = -1) -> tuple[int, FloatArray | None]:
        """Return the step that the parameters stand at, and the parameters (P,), or None where `known` is that step."""
        with self._lock:
            return self._version, None if known == self._version else self._flat

    def step(self, gradient: FloatArray, sequence: int) -> None:
        """Take one step with a gradient (P,).

        Raises:
            StoreError: If it is of another length; nothing was changed.
        """
        parameters = trained(self._model)
        sizes = [one.numel() for one in parameters]
        if len(gradient) != sum(sizes):
            raise StoreError("Dense part, gradient", got=f"{len(gradient)} values", expected=f"{sum(sizes)}")
        with self._lock:
            for one, part in zip(parameters, torch.split(torch.from_numpy(gradient), sizes), strict=True):
                one.grad = part.view_as(one)
            self._pace.step(self._pace.factor())
            self._optimizer.zero_grad(set_to_none=True)
            self._flat, self._version, self._steps = flat(parameters), sequence, self._steps + 1

    @property
    def size(self) -> int:
        """Number of values."""
        return len(self._flat)

    def state(self) -> State:
        """Return parameters, optimiser and step."""
        with self._lock:
            return self._state() | {"version": self._version, "steps": self._steps}

    def _state(self) -> State:
        dense: State = dict(dense_tensors(self._model))
        return {"dense": dense, "optimizer": optimizer_state(self._optimizer, self._names),
                "settings": dict(self._settings), "version": 0, "steps": 0}  # fmt: skip

    def restore(self, state: State | None) -> None:
        """Continue from what `state` returned; None: from the beginning.

        Raises:
            CorruptSnapshot: If it is no such state.
            RowRuleMismatch: If it is of another optimiser. Nothing was changed in either case.
        """
        wanted = self._first if state is None else state
        try:
            dense, optimizer = cast(State, wanted["dense"]), cast(State, wanted["optimizer"])
            settings = cast(State, wanted["settings"])
            version, steps = int(cast(int, wanted["version"])), int(cast(int, wanted["steps"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptSnapshot("Dense part, state", got=str(error), expected="parameters and optimiser") from error
        check_optimizer_state(self._settings, self._names, settings, optimizer)
        with self._lock:
            load_dense(self._model, dense)
            restore_optimizer(self._optimizer, self._names, optimizer)
            self._flat, self._version, self._steps = flat(trained(self._model)), version, steps

    def stats(self) -> dict[str, Any]:
        """Return numbers: plain values."""
        with self._lock:
            return {"values": len(self._flat), "steps": self._steps, "version": self._version}
