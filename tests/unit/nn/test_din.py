"""DIN: the attention unit, and the layout of the deep part's input."""

from __future__ import annotations

import pytest
import torch

from headrace.errors import ConfigError
from headrace.nn.din import AttentionUnit, DINSettings
from headrace.nn.layers import generator
from headrace.nn.sequence import History


def unit_and_history(**settings: object) -> tuple[AttentionUnit, History, torch.Tensor]:
    draw = generator(1)
    unit = AttentionUnit(4, DINSettings(attention=(5,), **settings), draw).eval()  # type: ignore[arg-type]
    rows, targets = torch.randn(6, 4, generator=draw), torch.randn(3, 4, generator=draw)
    return unit, History(rows, torch.arange(6), torch.tensor([0, 4, 4, 6])), targets


@pytest.mark.parametrize("softmax", [False, True])
def test_the_unit_equals_a_loop(softmax: bool) -> None:
    unit, past, targets = unit_and_history(softmax=softmax)
    found = unit(past, targets)
    for row, (start, stop) in enumerate(((0, 4), (4, 4), (4, 6))):
        keys, target = past.rows[start:stop], targets[row].expand(stop - start, 4)
        weights = unit.layers(torch.cat([target, keys, target - keys, target * keys], 1))
        weights = weights.softmax(0) if softmax else weights
        torch.testing.assert_close(found[row], (weights * keys).sum(0))


def test_the_first_layer_learns_as_if_differences_had_been_made() -> None:
    draw = generator(3)
    unit = AttentionUnit(4, DINSettings(attention=(5,)), draw).double()
    targets, entries = (torch.randn(7, 4, generator=draw, dtype=torch.float64).requires_grad_() for _ in range(2))
    out = torch.randn(7, 5, generator=draw, dtype=torch.float64)
    both = torch.cat([targets, entries, targets - entries, targets * entries], dim=1)
    inputs = (targets, entries, *unit.layers[0].parameters())
    expected = torch.autograd.grad((unit.layers[0](both) * out).sum(), inputs)
    found = torch.autograd.grad((unit._first(targets, entries) * out).sum(), inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_who_hooks_into_the_first_layer_sees_its_inputs_and_the_same_comes_out() -> None:
    unit, past, targets = unit_and_history()
    expected, seen = unit(past, targets), []
    hook = unit.layers[0].register_forward_hook(lambda layer, given, output: seen.append((given[0].shape, output)))
    torch.testing.assert_close(unit(past, targets), expected)
    hook.remove()
    assert [shape for shape, _ in seen] == [(6, 16)]
    assert torch.equal(unit(past, targets), expected)


def test_much_history_counts_for_more_without_softmax() -> None:
    (plain, past, targets), (soft, *_) = unit_and_history(), unit_and_history(softmax=True)
    twice = History(past.rows.repeat(2, 1)[:8], torch.arange(8), torch.tensor([0, 8]))
    once = History(past.rows[:4], torch.arange(4), torch.tensor([0, 4]))
    twice = History(torch.cat([once.rows, once.rows]), torch.arange(8), twice.offsets)
    torch.testing.assert_close(plain(twice, targets[:1]), 2 * plain(once, targets[:1]))
    torch.testing.assert_close(soft(twice, targets[:1]), soft(once, targets[:1]))


def test_prelu_is_an_option_and_others_are_not() -> None:
    unit, *_ = unit_and_history(activation="prelu")
    assert any(isinstance(layer, torch.nn.PReLU) for layer in unit.layers)
    with pytest.raises(ConfigError, match="activation"):
        DINSettings(activation="relu")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="positive"):
        AttentionUnit(4, DINSettings(attention=(0,)), generator(0))
