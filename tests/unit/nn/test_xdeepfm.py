"""xDeepFM: its interactions written out in both orders of computing, FuxiCTR's answer, and a signal of three fields."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from headrace.errors import ConfigError
from headrace.nn import FM, CompressedInteractions, Hidden, XDeepFM, generator


@pytest.mark.parametrize("settings", [
    {"cin": (4, 7)}, {"cin": (3,), "hidden": ()}, {"hidden": Hidden((8,), batch_norm=True, activation="tanh")},
], ids=["plain", "interactions alone", "batch norm"])  # fmt: skip
def test_what_every_family_keeps(
    family_check: Callable[[Callable[..., nn.Module]], None], settings: dict[str, object]
) -> None:
    family_check(lambda *inputs, **others: XDeepFM(*inputs, **settings, **others))


@pytest.mark.parametrize("widths", [(2, 3), (9, 8), (2, 9, 3)], ids=["narrow", "wide", "both"])
def test_interactions_equal_the_formula(widths: tuple[int, ...]) -> None:
    layers, fields = CompressedInteractions(4, widths, generator(0)).double(), torch.randn(5, 4, 3).double()
    last, sums = fields, []
    for weight, bias in zip(layers.weights, layers.biases, strict=True):
        nn.init.normal_(bias)
        last = torch.einsum("ohm,bhk,bmk->bok", weight, fields, last) + bias[:, None]
        sums.append(last.sum(2))
    torch.testing.assert_close(layers(fields), torch.cat(sums, 1))


def test_it_agrees_with_fuxictr(try_it: SimpleNamespace) -> None:
    expected = try_it.Expected("xdeepfm")
    first, own = "lr_layer.embedding_layer", expected.weights
    factors = expected.numbers_of("embedding_layer")
    model = XDeepFM(expected.two_orders(first), expected.FEATURES, 2, (5, 4), cin=(6, 3))
    cin = {}
    for place in range(2):
        weight = own[f"cin.cin_layer.layer_{place + 1}.weight"][:, :, 0]
        cin[f"interactions.weights.{place}"] = weight.unflatten(1, (5, -1))
        cin[f"interactions.biases.{place}"] = own[f"cin.cin_layer.layer_{place + 1}.bias"]
    expected.agrees(model, {
        "fields.dense_weight": expected.numbers_of(first)[:, 0], "fields.dense_factors": factors,
        **cin, "output.weight": own["cin.fc.weight"], "output.bias": own["cin.fc.bias"],
        **expected.under("dnn.mlp.", "deep.layers."),
        "deep.layers.0.weight": expected.plain_numbers(own["dnn.mlp.0.weight"], factors),
    })  # fmt: skip


def test_two_layers_find_what_three_fields_say_together_and_pairs_do_not(try_it: SimpleNamespace) -> None:
    assert try_it.accuracy(lambda *inputs: XDeepFM(*inputs, (), cin=(4, 4)), try_it.triples, lr=0.05) > 0.87
    assert try_it.accuracy(FM, try_it.triples, lr=0.05) < 0.6


@pytest.mark.parametrize("cin", [(), (4, 0)])
def test_interactions_need_layers(try_it: SimpleNamespace, cin: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="cin"):
        XDeepFM(try_it.Rows(), try_it.features, 2, cin=cin)
