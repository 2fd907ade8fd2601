"""The norm of a step is bounded over all groups together, and the bound is a setting like the others."""

from __future__ import annotations

import pytest
import torch

from headrace.errors import ConfigError
from headrace.optim import clip_norm


def weights() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))]


def test_the_whole_gradient_is_scaled() -> None:
    first, second, unused = parameters = weights()
    sgd = clip_norm(torch.optim.SGD([{"params": [first]}, {"params": [second, unused], "lr": 1.0}], lr=1.0), 1.0)
    first.grad, second.grad = torch.tensor([2.0, 4.0]), torch.tensor([4.0])
    sgd.step()
    torch.testing.assert_close(torch.cat(parameters).detach(), torch.tensor([-1 / 3, -2 / 3, -2 / 3, 0.0]))


def test_a_small_gradient_is_left_alone() -> None:
    first, *_ = weights()
    sgd = clip_norm(torch.optim.SGD([first], lr=1.0), 5.0)
    first.grad = torch.tensor([3.0, 4.0])
    sgd.step()
    torch.testing.assert_close(first.detach(), torch.tensor([-3.0, -4.0]))
    assert sgd.state_dict()["param_groups"][0]["max_norm"] == 5.0


def test_wrong_bounds_are_refused() -> None:
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="max_norm"):
            clip_norm(torch.optim.SGD(weights(), lr=1.0), wrong)
    with pytest.raises(ConfigError, match="one with a bound"):
        clip_norm(clip_norm(torch.optim.SGD(weights(), lr=1.0), 1.0), 1.0)
