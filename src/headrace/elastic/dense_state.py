"""The dense part of a learner as one state: a worker that comes gets it from one that is there, a checkpoint keeps it.

Tables are not in it; they are at the table servers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch

from headrace.errors import CorruptSnapshot
from headrace.learn import RankLearner
from headrace.learn.dense import dense_tensors, optimizer_settings, optimizer_state, parameter_names, restore_optimizer
from headrace.learn.encoding import decode_state, encode_state
from headrace.learn.learner_state import load_dense
from headrace.runtime.frames import Array
from headrace.types import State


def dense_state(learner: RankLearner) -> State:
    """Return the dense tensors and the optimiser of a learner."""
    names = parameter_names(learner.model, learner.optimizer)
    return {"dense": dict(dense_tensors(learner.model)), "optimizer": optimizer_state(learner.optimizer, names),
            "settings": optimizer_settings(learner.optimizer)}  # fmt: skip


def load_dense_state(learner: RankLearner, state: State) -> None:
    """Make a learner's dense part what `dense_state` returned.

    Raises:
        CorruptSnapshot: If it is no such state.
    """
    dense, optimizer = state.get("dense"), state.get("optimizer")
    if not isinstance(dense, dict) or not isinstance(optimizer, dict):
        raise CorruptSnapshot("Dense state", got=str(sorted(state)), expected="dense tensors and an optimiser")
    load_dense(learner.model, dense)
    restore_optimizer(learner.optimizer, parameter_names(learner.model, learner.optimizer), optimizer)


def pack_state(state: State) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return a state as plain values and arrays, to be sent."""
    tree, tensors = encode_state(state)
    arrays = {name: tensor.contiguous().numpy() for name, tensor in tensors.items()}
    return {"tree": json.dumps(tree)}, arrays


def unpack_state(fields: Mapping[str, Any], arrays: Mapping[str, Array]) -> State:
    """Return the state that `pack_state` took apart."""
    tensors = {name: torch.from_numpy(np.array(array, copy=True)) for name, array in arrays.items()}
    return decode_state(cast(object, json.loads(str(fields["tree"]))), tensors)
