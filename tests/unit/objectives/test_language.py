"""The next token: packed rows are rows alone, what is not taught is not learned, and a model can learn."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from headrace.errors import DataError
from headrace.nn import CausalSettings, CausalTransformer
from headrace.objectives import NextToken
from headrace.types import Batch, Jagged


def model(seed: int = 0) -> CausalTransformer:
    return CausalTransformer(CausalSettings(vocabulary=13, width=16, layers=1, heads=2, max_length=16), seed)


def jagged(rows: list[list[int]]) -> Jagged:
    offsets = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    return Jagged(torch.tensor([value for row in rows for value in row], dtype=torch.int64), offsets)


def batch(weights: list[float] | None = None, **features: list[list[int]]) -> Batch:
    ids = {name: jagged(rows) for name, rows in features.items()}
    rows = len(next(iter(ids.values())))
    none = torch.zeros(rows, dtype=torch.int64)
    return Batch(
        ids=ids, dense=torch.zeros(rows, 0), labels=torch.ones(rows),
        weights=torch.ones(rows) if weights is None else torch.tensor(weights), event_times=none, accepted_times=none,
        example_ids=torch.arange(rows), predictions=torch.full((rows,), torch.nan), versions=none,
        sample_rates=torch.ones(rows),
    )  # fmt: skip


ROWS = [[1, 2, 3, 4, 5], [6, 7], [8, 9, 10]]


def row_losses(made: CausalTransformer, row: list[int]) -> torch.Tensor:
    """Losses of the tokens after the first, from the row alone."""
    logits = made(jagged([row]))
    return cross_entropy(logits[:-1], torch.tensor(row[1:]), reduction="none")


def test_packed_rows_lose_what_they_lose_alone() -> None:
    made = model()
    losses = torch.cat([row_losses(made, row) for row in ROWS])
    found = NextToken()(made, batch(tokens=ROWS))
    torch.testing.assert_close(found.total, losses.mean(), rtol=0, atol=1e-6)
    assert found.parts["tokens"] == 7
    assert found.parts["perplexity"] == pytest.approx(math.exp(float(losses.detach().mean())), rel=1e-5)


def test_order_and_split_of_rows_change_nothing_but_rounding() -> None:
    made, loss = model(), NextToken()
    whole = loss(made, batch(tokens=ROWS)).total * 7
    turned = loss(made, batch(tokens=ROWS[::-1])).total * 7
    parts = sum(loss(made, batch(tokens=[row])).total * (len(row) - 1) for row in ROWS)
    torch.testing.assert_close(whole, turned)
    torch.testing.assert_close(whole, parts)


def test_only_what_is_taught_is_learned() -> None:
    made = model()
    taught = [[0, 0, 1, 0, 1], [0, 0], [1, 1, 0]]
    found = NextToken()(made, batch(tokens=ROWS, taught=taught))
    first, last = row_losses(made, ROWS[0]), row_losses(made, ROWS[2])
    torch.testing.assert_close(found.total, torch.stack((first[1], first[3], last[0])).mean(), rtol=0, atol=1e-6)
    changed = [[1, 2, 3, 4, 5], [6, 11], [8, 9, 12]]  # other tokens where nothing is taught
    again = NextToken()(made, batch(tokens=changed, taught=taught))
    torch.testing.assert_close(found.total, again.total)


def test_completions_are_learned_and_prompts_are_not() -> None:
    made = model()
    prompts, answers = [[1, 2], [6], [8, 9]], [[3, 4], [7], [10, 11, 12]]
    found = NextToken(completions=True)(made, batch(prompt=prompts, completion=answers))
    whole = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    taught = [[0] * len(p) + [1] * len(a) for p, a in zip(prompts, answers, strict=True)]
    torch.testing.assert_close(found.total, NextToken()(made, batch(tokens=whole, taught=taught)).total)


def test_weights_weigh_rows() -> None:
    made = model()
    found = NextToken()(made, batch(weights=[1.0, 0.0, 2.0], tokens=ROWS))
    expected = (row_losses(made, ROWS[0]).sum() + 2 * row_losses(made, ROWS[2]).sum()) / 7
    torch.testing.assert_close(found.total, expected, rtol=0, atol=1e-6)


def test_a_model_learns_a_text_by_heart() -> None:
    made, rows = model(), batch(tokens=[[1, 5, 2, 6, 3, 7, 4], [9, 8, 9, 10]])
    adam = torch.optim.Adam(made.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        adam.zero_grad()
        loss = NextToken()(made, rows)
        loss.total.backward()
        adam.step()
        losses.append(float(loss.total.detach()))
    assert losses[0] == pytest.approx(math.log(13), abs=0.2)
    assert losses[-1] < 0.1
    assert all(math.isfinite(loss) for loss in itertools.chain(losses))


def test_batches_without_anything_to_learn_are_refused() -> None:
    for wrong in (batch(tokens=[[1], [2]]), batch(tokens=ROWS, taught=[[0] * 5, [0] * 2, [1, 0, 0]])):
        with pytest.raises(DataError, match="no token to learn"):
            NextToken()(model(), wrong)
    with pytest.raises(DataError, match="rows of other lengths"):
        NextToken()(model(), batch(tokens=ROWS, taught=[[1]] * 3))
    with pytest.raises(DataError, match="feature 'tokens'"):
        NextToken()(model(), batch(prompt=ROWS, completion=ROWS))
    with pytest.raises(DataError, match="weights"):
        NextToken()(model(), batch(weights=[1.0, -1.0, 1.0], tokens=ROWS))
    with pytest.raises(DataError, match="Prompt 1"):
        NextToken(completions=True)(model(), batch(prompt=[[1], []], completion=[[1], [2]]))
