"""FFM: its formula, FuxiCTR's answer, and pairs that stay apart with one number per factor."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from headrace.errors import ConfigError
from headrace.nn import FFM, FM, ffm_width
from headrace.types import Batch


def test_what_every_family_keeps(family_check: Callable[[type[nn.Module]], None]) -> None:
    family_check(FFM)


def test_it_equals_its_formula_written_out(try_it: SimpleNamespace) -> None:
    model, batch = try_it.stirred(FFM(try_it.Rows(), try_it.features, 2)), try_it.small_batch()
    rows = model.fields.embed(batch)
    for b in range(len(batch)):
        first = sum(rows[name][b, 0] for name in rows) + batch.dense[b] @ model.fields.dense_weight
        wide = [
            *(rows[name][b, 1:] for name in try_it.features),
            *(batch.dense[b, :, None] * model.fields.dense_factors),
        ]
        factors = [row.view(5, 2) for row in wide]  # [field][field met]
        pairs = sum(factors[i][j] @ factors[j][i] for i in range(5) for j in range(i + 1, 5))
        torch.testing.assert_close(model(batch)[b], model.bias + first + pairs, rtol=1e-4, atol=1e-5)


def test_what_a_row_holds_for_its_own_field_is_not_read(try_it: SimpleNamespace) -> None:
    model, batch = FFM(try_it.Rows(), try_it.features, 2), try_it.small_batch(64)
    model(batch).sum().backward()
    user = model.fields.embed.tables["user"].grad
    assert torch.equal(user[:, 1:3], torch.zeros(6, 2))  # factors are two wide, and user is field 0
    assert (user[:, 3:].abs().sum(0) > 0).all()


def test_with_equal_factors_for_all_fields_it_is_fm(try_it: SimpleNamespace) -> None:
    narrow = try_it.Rows(dim=3)
    wide = try_it.Rows()
    with torch.no_grad():
        for name, table in wide.tables.items():
            table.copy_(torch.cat([narrow.tables[name][:, :1], narrow.tables[name][:, 1:].repeat(1, 5)], 1))
    field_aware, plain = FFM(wide, try_it.features, 2), FM(narrow, try_it.features, 2)
    with torch.no_grad():
        field_aware.fields.dense_factors.copy_(plain.fields.dense_factors.repeat(1, 5))
    torch.testing.assert_close(field_aware(try_it.small_batch()), plain(try_it.small_batch()), rtol=1e-5, atol=1e-6)


def test_it_agrees_with_fuxictr(try_it: SimpleNamespace) -> None:
    expected = try_it.Expected("ffm")
    fields = [*expected.FEATURES, *expected.NUMBERS]

    def wide(field: str) -> Tensor:
        """FuxiCTR has one table less than fields, none for a field's own place: any will do for it."""
        place = fields.index(field)
        tables = [f"embedding_layers.{min(met - int(met > place), 3)}" for met in range(5)]
        parts = [expected.fuxictr(table, field) for table in tables]
        return torch.cat(parts, 1) if field in expected.FEATURES else torch.cat(parts, 0).T

    weights = {field: expected.fuxictr("lr_layer.embedding_layer", field) for field in fields}
    rows = expected.rows({name: torch.cat([weights[name], wide(name)], 1) for name in expected.FEATURES})
    expected.agrees(FFM(rows, expected.FEATURES, 2), {
        "bias": expected.weights["lr_layer.bias"][0],
        "fields.dense_weight": torch.cat([weights[name][0] for name in expected.NUMBERS]),
        "fields.dense_factors": torch.cat([wide(name) for name in expected.NUMBERS]),
    })  # fmt: skip


def test_it_learns_pairs_apart_from_one_another_where_fm_of_the_same_factor_cannot(try_it: SimpleNamespace) -> None:
    def three_pairs(rows: int, seed: int) -> Batch:
        batch: Batch = try_it.pairs(rows, seed, pairs=3, kinds=6)
        return batch

    assert try_it.accuracy(FFM, three_pairs, dim=ffm_width(6, 1)) > 0.87
    assert try_it.accuracy(FM, three_pairs, dim=2) < 0.75


@pytest.mark.parametrize("dim", [5, 7])
def test_a_row_that_does_not_divide_among_the_fields_is_refused(try_it: SimpleNamespace, dim: int) -> None:
    with pytest.raises(ConfigError, match="as 6 or 11"):
        FFM(try_it.Rows(dim=dim), try_it.features, 2)


def test_the_width_of_a_row() -> None:
    assert ffm_width(fields=5, factor_dim=2) == 11
