"""Parts of runs on many machines that keep a state, as contract cases: the dense part of asynchronous training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import nn
from torch.optim import SGD, Adam

from headrace.elastic.dense_server import DenseServer
from headrace.testing import check_resumable


def made(kind: type = Adam) -> DenseServer:
    """Return a dense part of six numbers."""
    model = nn.Linear(5, 1)
    nn.init.constant_(model.weight, 0.5)
    nn.init.zeros_(model.bias)
    return DenseServer(model, kind(model.parameters(), lr=0.1))


def advance(part: DenseServer, step: int) -> object:
    """Take a step, and show what workers get."""
    part.step(np.arange(6, dtype=np.float32) * (step + 1), step + 1)
    return part.pull()[1], part.stats()


def dense_parts() -> Iterator[tuple[object, ...]]:
    """Yield the dense part."""
    yield "Resumable", DenseServer, lambda tmp: check_resumable(made, advance, others=[lambda: made(SGD)])


CASES = [dense_parts]
