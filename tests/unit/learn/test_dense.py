"""State of dense optimisers: exact, by name, and refused where it does not belong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from headrace.errors import ConfigError, RowRuleMismatch
from headrace.learn.dense import (
    check_optimizer_state,
    dense_tensors,
    optimizer_settings,
    optimizer_state,
    parameter_names,
    restore_optimizer,
)
from headrace.testing.plain import not_plain

Make = Callable[[list[nn.Parameter]], Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: SGD(p, lr=0.1),
    "momentum": lambda p: SGD(p, lr=0.001, momentum=0.9, nesterov=True),
    "adam": lambda p: Adam(p, lr=0.01, betas=(0.8, 0.9), amsgrad=True),
    "adamw": lambda p: AdamW(p, lr=torch.tensor(0.01)),
    "adagrad": lambda p: Adagrad(p, lr=0.1, initial_accumulator_value=0.5),
    "rmsprop": lambda p: RMSprop(p, lr=0.01, centered=True, momentum=0.5),
    "groups": lambda p: Adam([{"params": p[:1], "lr": 0.5}, {"params": p[1:]}], lr=0.01),
}


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def steps(model: nn.Module, optimizer: Optimizer, count: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.randn(8, 3, generator=draw)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_restored_optimiser_continues_to_the_bit(make: Make) -> None:
    first, second = network(0), network(1)
    optimizers = [make(list(model.parameters())) for model in (first, second)]
    steps(first, optimizers[0], 3, seed=5)
    names = parameter_names(first, optimizers[0])
    state = optimizer_state(optimizers[0], names)
    assert not_plain(state) is None
    built = [optimizer_settings(make(list(model.parameters()))) for model in (first, second)]
    check_optimizer_state(built[1], names, built[0], state)
    restore_optimizer(optimizers[1], names, state)
    second.load_state_dict(first.state_dict())
    for model, optimizer in zip((first, second), optimizers, strict=True):
        steps(model, optimizer, 3, seed=6)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_state_is_a_snapshot() -> None:
    model = network()
    optimizer = Adam(model.parameters())
    steps(model, optimizer, 1, seed=5)
    state = optimizer_state(optimizer, parameter_names(model, optimizer))
    before = state["slots"]["0.weight"]["exp_avg"].clone()  # type: ignore[index, call-overload, union-attr]
    steps(model, optimizer, 1, seed=6)
    assert torch.equal(state["slots"]["0.weight"]["exp_avg"], before)  # type: ignore[index, call-overload, arg-type]


def test_restoring_does_not_tie_the_optimiser_to_the_state() -> None:
    model, other = network(), network()
    optimizers = [Adam(part.parameters()) for part in (model, other)]
    steps(model, optimizers[0], 1, seed=5)
    names = parameter_names(model, optimizers[0])
    state = optimizer_state(optimizers[0], names)
    before = state["slots"]["0.weight"]["exp_avg"].clone()  # type: ignore[index, call-overload, union-attr]
    restore_optimizer(optimizers[1], names, state)
    steps(other, optimizers[1], 1, seed=6)
    assert torch.equal(state["slots"]["0.weight"]["exp_avg"], before)  # type: ignore[index, call-overload, arg-type]


def test_state_of_another_optimiser_is_refused() -> None:
    model = network()
    adam, sgd = Adam(model.parameters()), SGD(model.parameters(), lr=0.1)
    names = parameter_names(model, adam)
    with pytest.raises(RowRuleMismatch, match="state of 'SGD', expected Adam"):
        check_optimizer_state(optimizer_settings(adam), names, optimizer_settings(sgd), optimizer_state(sgd, names))


def test_other_settings_are_refused_by_name() -> None:
    model = network()
    optimizers = [Adam(model.parameters(), lr=lr) for lr in (0.1, 0.2)]
    names = parameter_names(model, optimizers[0])
    one, other = map(optimizer_settings, optimizers)
    with pytest.raises(RowRuleMismatch, match=r"group 0, lr: got 0\.2, expected 0\.1"):
        check_optimizer_state(one, names, other, optimizer_state(optimizers[1], names))


def test_a_schedule_may_have_moved_the_rate() -> None:
    model = network()
    optimizer = Adam(model.parameters(), lr=0.1)
    names, built = parameter_names(model, optimizer), optimizer_settings(optimizer)
    optimizer.param_groups[0]["lr"] = 0.05
    state = optimizer_state(optimizer, names)
    check_optimizer_state(built, names, built, state)
    again = Adam(model.parameters(), lr=0.1)
    restore_optimizer(again, names, state)
    assert again.param_groups[0]["lr"] == 0.05


def test_slots_of_other_parameters_are_refused() -> None:
    model = network()
    optimizer = Adam(model.parameters())
    steps(model, optimizer, 1, seed=5)
    names = parameter_names(model, optimizer)
    with pytest.raises(RowRuleMismatch, match="slots of"):
        built = optimizer_settings(optimizer)
        check_optimizer_state(built, ["other", *names[1:]], built, optimizer_state(optimizer, names))


def test_a_foreign_parameter_is_refused() -> None:
    with pytest.raises(ConfigError, match="not the model's"):
        parameter_names(network(), SGD(network().parameters(), lr=0.1))


def test_a_forgotten_parameter_is_refused() -> None:
    model = network()
    with pytest.raises(ConfigError, match=r"2\.bias"):
        parameter_names(model, SGD(list(model.parameters())[:-1], lr=0.1))


def test_a_frozen_parameter_may_be_left_out() -> None:
    model = network()
    model[2].bias.requires_grad_(False)  # type: ignore[union-attr]
    kept = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert "2.bias" not in parameter_names(model, SGD(kept, lr=0.1))


def test_dense_tensors_are_parameters_and_buffers_apart_from_the_model() -> None:
    model = network()
    tensors = dense_tensors(model)
    assert {"0.weight", "1.running_mean", "1.num_batches_tracked"} <= set(tensors)
    assert not any(tensor.requires_grad for tensor in tensors.values())
    tensors["0.weight"].zero_()
    assert model[0].weight.abs().sum() > 0  # type: ignore[union-attr, operator]
