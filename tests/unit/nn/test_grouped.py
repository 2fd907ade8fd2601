"""Networks run together give what they give one after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from headrace.nn.grouped import side_by_side
from headrace.nn.layers import Hidden, generator, hidden_layers


def experts(count: int, hidden: tuple[int, ...] | Hidden = (6, 4)) -> nn.ModuleList:
    draw = generator(3)
    return nn.ModuleList(hidden_layers(5, hidden, draw) for _ in range(count))


def gradients(networks: nn.ModuleList, inputs: Tensor, together: bool) -> list[Tensor]:
    inputs = inputs.clone().requires_grad_()
    networks.zero_grad()
    outputs = side_by_side(networks, inputs) if together else [network(inputs) for network in networks]
    sum(((place + 1) * output.square()).sum() for place, output in enumerate(outputs)).backward()
    return [*outputs, inputs.grad, *(parameter.grad.clone() for parameter in networks.parameters())]


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("hidden", [(6,), (6, 4), Hidden((6, 4), batch_norm=True)], ids=str)
def test_outputs_and_gradients_are_those_of_one_after_the_other(count: int, hidden: tuple[int, ...] | Hidden) -> None:
    inputs = torch.randn(9, 5, generator=generator(4)).double()
    networks = experts(count, hidden).double()
    for one, other in zip(gradients(networks, inputs, True), gradients(networks, inputs, False), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_networks_of_different_widths_are_grouped_too() -> None:
    networks = [nn.Sequential(nn.Linear(5, 2), nn.ReLU()), nn.Sequential(nn.Linear(5, 3))]
    inputs = torch.randn(4, 5, generator=generator(5))
    for output, network in zip(side_by_side(networks, inputs), networks, strict=True):
        torch.testing.assert_close(output, network(inputs))


def test_what_cannot_be_grouped_runs_as_it_is() -> None:
    mixed = [nn.Sequential(nn.Linear(5, 2, bias=False)), nn.Sequential(nn.Linear(5, 2))]
    watched = [nn.Sequential(nn.Linear(5, 2)), nn.Sequential(nn.Linear(5, 2))]
    seen = []
    watched[0][0].register_forward_hook(lambda *_: seen.append(1))
    inputs = torch.randn(4, 5, generator=generator(6))
    for networks in (mixed, watched, [nn.Identity(), nn.Identity()], []):
        outputs = side_by_side(networks, inputs)
        assert all(torch.equal(one, network(inputs)) for one, network in zip(outputs, networks, strict=True))
    assert seen


def test_fewer_products_are_made() -> None:
    networks, inputs = experts(8, (6,)), torch.randn(4, 5)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        side_by_side(networks, inputs)
    products = sum(event.count for event in profile.key_averages() if event.key in ("aten::addmm", "aten::mm"))
    assert products == 1
