"""The dense part of asynchronous training: steps, whole reads, and a way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from headrace.elastic.dense_server import DenseServer, gradients, load_flat
from headrace.errors import ConfigError, RowRuleMismatch, StoreError
from headrace.testing.equivalence import first_difference


def made(kind=Adam) -> DenseServer:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    return DenseServer(model, kind(model.parameters(), lr=0.1))


def test_it_learns_what_the_optimiser_learns_at_hand() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    optimizer, there = Adam(model.parameters(), lr=0.1), made()
    for step in range(1, 4):
        optimizer.zero_grad()
        model(torch.ones(2, 3) * step).sum().backward()
        there.step(gradients(model), step)
        optimizer.step()
    copy = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    step, values = there.pull(-1)
    load_flat(copy, values)
    assert (step, there.size, there.pull(3)) == (3, 11, (3, None))
    assert first_difference(dict(copy.state_dict()), dict(model.state_dict())) is None


def test_a_state_brings_back_the_step_and_the_optimiser() -> None:
    one, other = made(), made()
    gradient = np.arange(11, dtype=np.float32)
    one.step(gradient, 1)
    state = one.state()
    one.step(gradient, 2)
    other.restore(state)
    other.step(gradient, 2)
    assert first_difference(one.state(), other.state()) is None
    assert one.stats() == {"values": 11, "steps": 2, "version": 2}
    one.restore(None)
    assert first_difference(one.pull(), made().pull()) is None


def test_what_does_not_fit_is_refused() -> None:
    one = made()
    with pytest.raises(StoreError, match="10 values"):
        one.step(np.zeros(10, np.float32), 1)
    with pytest.raises(StoreError, match="one model"):
        load_flat(nn.Linear(2, 2), np.zeros(3, np.float32))
    with pytest.raises(RowRuleMismatch):
        one.restore(made(SGD).state())
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(ConfigError, match="synchronous"):
        DenseServer(model, SGD(model.parameters(), lr=0.1))
