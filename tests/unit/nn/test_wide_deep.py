"""Wide & Deep: both parts, FuxiCTR's answer, and an interaction that the wide part alone does not see."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from headrace.nn import Hidden, WideDeep


@pytest.mark.parametrize("hidden", [(8, 6), Hidden((8,), batch_norm=True), ()], ids=["plain", "batch norm", "linear"])
def test_what_every_family_keeps(
    family_check: Callable[[Callable[..., nn.Module]], None], hidden: tuple[int, ...]
) -> None:
    family_check(lambda *inputs, **settings: WideDeep(*inputs, hidden, **settings))


def test_without_its_deep_part_it_is_linear(try_it: SimpleNamespace) -> None:
    model, batch = try_it.stirred(WideDeep(try_it.Rows(), try_it.features, 2, (8,), prior=0.2)), try_it.small_batch()
    with torch.no_grad():
        for parameter in model.deep.parameters():
            parameter.zero_()
    rows = model.fields.embed(batch)
    expected = sum(rows[name][:, 0] for name in try_it.features) + batch.dense @ model.fields.dense_weight
    torch.testing.assert_close(model(batch), expected)


def test_it_agrees_with_fuxictr(try_it: SimpleNamespace) -> None:
    expected = try_it.Expected("wide_deep")
    first, own = "lr_layer.embedding_layer", expected.weights
    factors = expected.numbers_of("embedding_layer")
    model = WideDeep(expected.two_orders(first), expected.FEATURES, 2, (5, 4))
    expected.agrees(model, {
        "fields.dense_weight": expected.numbers_of(first)[:, 0],
        **expected.under("dnn.mlp.", "deep.layers."),
        "deep.layers.0.weight": expected.plain_numbers(own["dnn.mlp.0.weight"], factors),
    })  # fmt: skip


def test_the_deep_part_finds_what_the_wide_part_cannot_see(try_it: SimpleNamespace) -> None:
    assert try_it.accuracy(lambda *inputs: WideDeep(*inputs, (16,)), try_it.pairs) > 0.87
    assert try_it.accuracy(lambda *inputs: WideDeep(*inputs, ()), try_it.pairs) < 0.55
