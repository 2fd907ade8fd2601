"""Fields and flat inputs: what stands where, with and without first-order terms and dense columns."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from headrace.errors import ConfigError, DataError
from headrace.nn import Fields, FlatInputs, generator


def fields_of(try_it: SimpleNamespace, dense: int = 2, dim: int = 5, **settings: object) -> Fields:
    return Fields(try_it.Rows(dim=dim), try_it.features, dense, draw=generator(0), **settings)


def test_columns_are_one_weight_and_a_factor(try_it: SimpleNamespace) -> None:
    fields, batch = fields_of(try_it, first_order=True), try_it.small_batch()
    nn.init.normal_(fields.dense_weight)
    rows, inputs = fields.embed(batch), fields(batch)
    weights = sum(rows[name][:, 0] for name in try_it.features) + batch.dense @ fields.dense_weight
    torch.testing.assert_close(inputs.first, weights)
    assert (fields.factor_dim, fields.count, fields.flat_dim) == (4, 5, 14)
    for place, name in enumerate(try_it.features):
        assert torch.equal(inputs.fields[:, place], rows[name][:, 1:])
    assert torch.equal(inputs.fields[:, 4], batch.dense[:, 1:] * fields.dense_factors[1])
    flat = torch.cat([*(rows[name][:, 1:] for name in try_it.features), batch.dense], 1)
    assert torch.equal(inputs.flat, flat)


def test_without_a_first_order_term_all_columns_are_the_factor(try_it: SimpleNamespace) -> None:
    fields, batch = fields_of(try_it), try_it.small_batch()
    inputs = fields(batch)
    assert torch.equal(inputs.first, torch.zeros(16))
    assert torch.equal(inputs.fields[:, 0], fields.embed(batch)["user"])
    assert (fields.factor_dim, fields.flat_dim) == (5, 17)
    assert set(fields.input_axes()) == {"dense_factors"}


def test_without_dense_fields_dense_columns_are_flat_inputs_only(try_it: SimpleNamespace) -> None:
    fields = fields_of(try_it, first_order=True, dense_fields=False)
    inputs = fields(try_it.small_batch())
    assert inputs.fields.shape == (16, 3, 4)
    assert (fields.count, inputs.flat.shape[1]) == (3, 14)
    assert set(fields.input_axes()) == {"dense_weight"}


def test_without_dense_columns_nothing_is_copied_twice(try_it: SimpleNamespace) -> None:
    inputs = fields_of(try_it, 0)(try_it.small_batch(dense=0))
    assert inputs.fields.data_ptr() == inputs.factors.data_ptr() == inputs.flat.data_ptr()


def test_a_width_is_found_given_or_refused(try_it: SimpleNamespace) -> None:
    assert fields_of(try_it).dim == 5
    assert Fields(nn.Identity(), ("user",), 0, draw=generator(0), dim=3).dim == 3  # asks nothing of the embedding
    uneven = try_it.Rows(dim=5)
    uneven.tables["item"] = nn.Parameter(torch.zeros(9, 7))
    with pytest.raises(ConfigError, match="same dim"):
        Fields(uneven, try_it.features, 0, draw=generator(0))
    with pytest.raises(ConfigError, match="at least one id feature"):
        Fields(uneven, (), 2, draw=generator(0))


def test_flat_inputs_lie_side_by_side_in_their_own_widths(try_it: SimpleNamespace) -> None:
    rows, batch = try_it.Rows(dim=5), try_it.small_batch()
    rows.tables["item"] = nn.Parameter(torch.ones(9, 2))
    inputs = FlatInputs(rows, try_it.features, 2)
    found = rows(batch)
    assert inputs.width == 14
    assert torch.equal(inputs(rows, batch), torch.cat([*(found[name] for name in try_it.features), batch.dense], 1))
    assert inputs.axes("weight") == {"weight": ()}  # nobody can say which entry is about which


def test_flat_inputs_may_be_dense_columns_alone(try_it: SimpleNamespace) -> None:
    inputs, batch = FlatInputs(nn.Identity(), (), 2), try_it.small_batch()
    assert torch.equal(inputs(nn.Identity(), batch), batch.dense)
    with pytest.raises(ConfigError, match="at least one feature or dense column"):
        FlatInputs(nn.Identity(), (), 0)


def test_flat_inputs_of_another_width_are_refused(try_it: SimpleNamespace) -> None:
    with pytest.raises(DataError, match="width 11, expected 4"):
        FlatInputs(nn.Identity(), try_it.features, 2, dim=4)(try_it.Rows(), try_it.small_batch())
