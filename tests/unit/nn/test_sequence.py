"""Jagged rows and padded ones: there and back, pooled, and attended to."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import ConfigError, DataError
from headrace.nn.layers import generator
from headrace.nn.sequence import History, history, masked_softmax, only, pad, sum_rows, unpad
from headrace.nn.sequence_attention import SelfAttention, TransformerBlock
from headrace.types import Batch, Jagged

lengths_of_histories = st.lists(st.integers(0, 5), min_size=0, max_size=6)


def offsets_of(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)


@settings(max_examples=50, deadline=None)
@given(lengths=lengths_of_histories, width=st.integers(1, 3))
def test_padding_and_back_is_what_it_was(lengths: list[int], width: int) -> None:
    rows = torch.randn(sum(lengths), width, generator=generator(0), requires_grad=True)
    laid = pad(rows, offsets_of(lengths))
    assert laid.rows.shape == (len(lengths), max([1, *lengths]), width)
    assert laid.lengths.tolist() == lengths
    assert torch.equal(unpad(laid), rows)
    assert not laid.rows[~laid.mask].any()
    weights = torch.randn(laid.rows.shape, generator=generator(1))
    (laid.rows * weights).sum().backward()
    assert torch.equal(rows.grad, weights[laid.mask])


@settings(max_examples=50, deadline=None)
@given(lengths=lengths_of_histories)
def test_sums_equal_a_loop(lengths: list[int]) -> None:
    rows, offsets = torch.randn(sum(lengths), 2, generator=generator(0), dtype=torch.float64), offsets_of(lengths)
    examples = History(rows, torch.arange(sum(lengths)), offsets).examples()
    pieces = [rows[start:stop] for start, stop in itertools.pairwise(offsets.tolist())]
    for row, piece in enumerate(pieces):
        torch.testing.assert_close(sum_rows(rows, examples, len(lengths))[row], piece.sum(0))


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e30])
def test_weights_add_up_to_one_where_there_is_anything(scale: float) -> None:
    mask = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    scores = (torch.randn(3, 3, generator=generator(0)) * scale).requires_grad_()
    weights = masked_softmax(scores, mask)
    torch.testing.assert_close(weights.sum(1), torch.tensor([1.0, 0.0, 1.0]))
    assert not weights[~mask].any()
    weights.square().sum().backward()
    assert torch.isfinite(scores.grad).all()
    assert not scores.grad[~mask].any()


def test_a_history_without_an_embedding_names_the_nearest() -> None:
    with pytest.raises(DataError, match="expected one of 'past'"):
        history({"past": torch.zeros(0, 2)}, batch_of({"past": Jagged(torch.zeros(0).long(), torch.zeros(2).long())}),
                "pst")  # fmt: skip


def batch_of(ids: dict[str, Jagged]) -> Batch:
    rows = len(next(iter(ids.values())))
    zeros = torch.zeros(rows, dtype=torch.int64)
    return Batch(
        ids=ids, dense=torch.zeros(rows, 0), labels=zeros.float(), weights=torch.ones(rows), event_times=zeros,
        accepted_times=zeros, example_ids=zeros, predictions=torch.full((rows,), math.nan), versions=zeros - 1,
        sample_rates=torch.ones(rows),
    )  # fmt: skip


def test_of_a_batch_only_some_features_are_seen() -> None:
    batch = batch_of({name: Jagged(torch.tensor([3, 4]), torch.arange(3)) for name in ("user", "item")})
    seen = only(batch, ("user", "age"))
    assert seen.ids["user"] is batch.ids["user"]
    assert (seen.ids["item"].values.numel(), seen.ids["item"].offsets.tolist()) == (0, [0, 0, 0])
    assert ("age" in seen.ids, list(seen.ids)) == (False, ["user"])  # what is asked for and missing stays an error


# ------------------------------------------------------------------------------------------------------- attention


def test_attention_equals_torchs_own() -> None:
    own, theirs = SelfAttention(6, 2, generator(0)), torch.nn.MultiheadAttention(6, 2, batch_first=True)
    with torch.no_grad():
        parts = (own.query, own.key, own.value)
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        theirs.out_proj.load_state_dict(own.out.state_dict())
    inputs, mask = torch.randn(3, 4, 6, generator=generator(1)), torch.ones(3, 4, dtype=torch.bool)
    mask[1, 2:] = False
    expected, _ = theirs(inputs, inputs, inputs, key_padding_mask=~mask)
    torch.testing.assert_close(own(inputs, mask)[mask], expected[mask])
    later = torch.ones(4, 4, dtype=torch.bool).triu(1)
    expected, _ = theirs(inputs, inputs, inputs, attn_mask=later)
    torch.testing.assert_close(own(inputs, torch.ones_like(mask), causal=True), expected)


@pytest.mark.parametrize("order", ["pre", "post"])
def test_a_block_without_positions_is_equivariant(order: str) -> None:
    block = TransformerBlock(6, 3, generator(0), order=order, activation=torch.nn.ReLU())  # type: ignore[arg-type]
    inputs, mask, turn = torch.randn(2, 4, 6, generator=generator(1)), torch.ones(2, 4, dtype=torch.bool), [2, 0, 3, 1]
    torch.testing.assert_close(block(inputs[:, turn], mask), block(inputs, mask)[:, turn])


@pytest.mark.parametrize("order", ["pre", "post"])
def test_a_causal_block_does_not_see_what_comes_later(order: str) -> None:
    block = TransformerBlock(6, 3, generator(0), order=order, activation=torch.nn.ReLU())  # type: ignore[arg-type]
    inputs, mask = torch.randn(2, 4, 6, generator=generator(1)), torch.ones(2, 4, dtype=torch.bool)
    changed = inputs.clone()
    changed[:, 2:] += 1.0
    before, after = block(inputs, mask, causal=True), block(changed, mask, causal=True)
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2], after[:, 2])


@pytest.mark.parametrize(("heads", "dropout"), [(4, 0.0), (0, 0.0), (2, 1.0)])
def test_heads_have_to_divide_the_width(heads: int, dropout: float) -> None:
    with pytest.raises(ConfigError):
        SelfAttention(6, heads, generator(0), dropout=dropout)
