"""FM: its formula, its order of fields, FuxiCTR's answer, and an interaction that no linear model sees."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from headrace.errors import ConfigError
from headrace.nn import FM, LogisticRegression


def test_what_every_family_keeps(family_check: Callable[[type[nn.Module]], None]) -> None:
    family_check(FM)


def test_it_equals_its_formula_written_out(try_it: SimpleNamespace) -> None:
    model, batch = try_it.stirred(FM(try_it.Rows(), try_it.features, 2)), try_it.small_batch()
    rows = model.fields.embed(batch)
    for b in range(len(batch)):
        first = sum(rows[name][b, 0] for name in rows) + batch.dense[b] @ model.fields.dense_weight
        fields = [*(rows[name][b, 1:] for name in rows), *(batch.dense[b, :, None] * model.fields.dense_factors)]
        pairs = sum(fields[i] @ fields[j] for i in range(5) for j in range(i + 1, 5))
        torch.testing.assert_close(model(batch)[b], model.bias + first + pairs, rtol=1e-4, atol=1e-5)


def test_fields_have_no_order(try_it: SimpleNamespace) -> None:
    model = try_it.stirred(FM(try_it.Rows(), try_it.features, 2))
    other = FM(model.fields.embed, try_it.features[::-1], 2)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(try_it.small_batch()), model(try_it.small_batch()), rtol=1e-5, atol=1e-5)


def test_it_agrees_with_fuxictr(try_it: SimpleNamespace) -> None:
    expected = try_it.Expected("fm")
    first = "fm.lr_layer.embedding_layer"
    model = FM(expected.two_orders(first), expected.FEATURES, 2)
    expected.agrees(model, {
        "bias": expected.weights["fm.lr_layer.bias"][0],
        "fields.dense_weight": expected.numbers_of(first)[:, 0],
        "fields.dense_factors": expected.numbers_of("embedding_layer"),
    })  # fmt: skip


def test_it_finds_an_interaction_that_the_linear_model_cannot_see(try_it: SimpleNamespace) -> None:
    assert try_it.accuracy(FM, try_it.pairs) > 0.87
    assert try_it.accuracy(LogisticRegression, try_it.pairs) < 0.55


def test_a_row_without_room_for_a_factor_is_refused(try_it: SimpleNamespace) -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        FM(try_it.Rows(dim=1), try_it.features, 0)
    assert FM(nn.Identity(), ("user",), 0, dim=3).fields.dim == 3
