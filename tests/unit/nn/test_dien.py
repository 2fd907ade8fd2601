"""DIEN: the recurrent layers, and the loss of the next click against its own loop."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from headrace.errors import ConfigError, DataError
from headrace.nn.dien import AUGRU, DIEN, GRU, DIENSettings, other_examples
from headrace.nn.layers import generator
from headrace.nn.sequence import History, masked_softmax
from headrace.types import Batch, Jagged

PAIRS = {"past": "item"}


class Rows(nn.Module):
    """Items that history, target and negatives share; a feature that is missing is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.item = nn.Parameter(torch.randn(20, 4, generator=generator(0)))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {name: self.item[batch.ids[name].values] for name in ("item", "past", "refused")}


def batch_of(histories: list[list[int]], refused: list[list[int]] | None = None) -> Batch:
    rows = len(histories)
    zeros = torch.zeros(rows, dtype=torch.int64)

    def jagged(lists: list[list[int]]) -> Jagged:
        lengths = torch.tensor([0, *map(len, lists)])
        return Jagged(torch.tensor([i for one in lists for i in one], dtype=torch.int64), lengths.cumsum(0))

    return Batch(
        ids={"item": Jagged(torch.arange(rows), torch.arange(rows + 1)), "past": jagged(histories),
             "refused": jagged(refused or [[] for _ in histories])},
        dense=torch.zeros(rows, 0), labels=zeros.float(), weights=torch.ones(rows), event_times=zeros,
        accepted_times=zeros, example_ids=zeros, predictions=torch.full((rows,), math.nan), versions=zeros - 1,
        sample_rates=torch.ones(rows),
    )  # fmt: skip


def model_of(**settings: object) -> DIEN:
    chosen = DIENSettings(auxiliary=(6,), **settings)  # type: ignore[arg-type]
    return DIEN(Rows(), ("past", "item"), 0, (8,), pairs=PAIRS, settings=chosen)


def test_augru_with_full_weights_is_a_gru_and_with_none_stands_still() -> None:
    augru, draw = AUGRU(3, 4, generator(0)), generator(1)
    with torch.no_grad():
        for layer in (augru.from_input, augru.from_state):
            layer.bias.normal_(generator=draw)
    cell = nn.GRUCell(3, 4)
    with torch.no_grad():  # torch has reset before update, and keeps where we move: u = 1 - z
        for layer, weight, bias in (
            (augru.from_input, cell.weight_ih, cell.bias_ih), (augru.from_state, cell.weight_hh, cell.bias_hh)
        ):  # fmt: skip
            for source, target in ((layer.weight, weight), (layer.bias, bias)):
                update, reset, fresh = source.chunk(3)
                target.copy_(torch.cat([reset, -update, fresh]))
    inputs, state = torch.randn(2, 5, 3, generator=draw), torch.zeros(2, 4)
    for step in range(5):
        state = cell(inputs[:, step], state)
    torch.testing.assert_close(augru(inputs, torch.ones(2, 5)), state)
    assert not augru(inputs, torch.zeros(2, 5)).any()
    half = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0]]).expand(2, 5)
    torch.testing.assert_close(augru(inputs, half), augru(inputs[:, :2], torch.ones(2, 2)))


def test_gru_starts_from_the_callers_generator() -> None:
    before = torch.get_rng_state()
    first, second, other = (GRU(3, 4, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    inputs = torch.ones(1, 2, 3)
    assert torch.equal(first(inputs), second(inputs))
    assert not torch.equal(first(inputs), other(inputs))
    assert first(inputs[:0]).shape == (0, 2, 4)


def test_the_last_interest_equals_its_formula_for_one_example() -> None:
    model = model_of()
    batch = batch_of([[3, 5, 7], [1]])
    past, target = model.embed.item[[3, 5, 7]], model.embed.item[0]
    part = model.interests[0]
    states = part.extraction(past.unsqueeze(0))
    weights = torch.softmax(torch.stack([state @ part.bilinear @ target for state in states[0]]), 0)
    last = part.evolution(states, weights.unsqueeze(0))
    logit = model.deep(torch.cat([last, target.unsqueeze(0)], 1)).squeeze()
    torch.testing.assert_close(model(batch)[0], logit)


@pytest.mark.parametrize("given", [True, False])
def test_the_auxiliary_loss_equals_a_loop(given: bool) -> None:
    model = model_of(negatives={"past": "refused"} if given else {})
    histories, refused = [[3, 5, 7], [1], [], [2, 9]], [[4, 5, 6], [8], [], [2, 10]]
    batch = batch_of(histories, refused)
    logits, loss = model.forward_with_auxiliary(batch)
    flat = [(row, item) for row, one in enumerate(histories) for item in one]
    terms = []
    for row, (one, no) in enumerate(zip(histories, refused, strict=True)):
        states = model.interests[0].extraction(model.embed.item[one or [0]].unsqueeze(0))[0]
        for step in range(1, len(one)):
            at = sum(map(len, histories[:row])) + step
            other_row, other = (-1, no[step]) if given else flat[(at + 3) % len(flat)]
            pairs = [(one[step], 1.0)] + ([(other, 0.0)] if other_row != row and other != one[step] else [])
            for item, label in pairs:
                logit = model.auxiliaries[0](torch.cat([states[step - 1], model.embed.item[item]]))
                terms.append(nn.functional.binary_cross_entropy_with_logits(logit[0], torch.tensor(label)))
    torch.testing.assert_close(loss, torch.stack(terms).mean())
    torch.testing.assert_close(logits, model(batch))


def test_without_two_entries_anywhere_there_is_no_auxiliary_loss() -> None:
    model = model_of()
    _, loss = model.forward_with_auxiliary(batch_of([[3], [], [4]]))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert model.embed.item.grad is None or not model.embed.item.grad.any()


def test_negatives_have_to_be_one_for_each_entry() -> None:
    with pytest.raises(DataError, match="one id for each of 'past'"):
        model_of(negatives={"past": "refused"}).forward_with_auxiliary(batch_of([[3, 4]], [[5]]))
    with pytest.raises(ConfigError, match="negatives"):
        model_of(negatives={"pst": "refused"})


def test_serving_does_not_need_the_negatives() -> None:
    model, batch = model_of(negatives={"past": "refused"}).eval(), batch_of([[3, 4]], [[5, 6]])
    logits = model(batch)
    del batch.ids["refused"]
    with torch.no_grad():
        torch.testing.assert_close(model(batch), logits)


def test_other_entries_are_another_examples_and_another_item() -> None:
    ids, offsets = torch.tensor([1, 2, 3, 2, 2, 4, 5]), torch.tensor([0, 2, 2, 5, 7])
    rows, valid = other_examples(History(ids.float().unsqueeze(1), ids, offsets))
    assert rows.squeeze(1).tolist() == [2.0, 2.0, 4.0, 5.0, 1.0, 2.0, 3.0]
    assert valid.tolist() == [True, False, True, True, True, True, True]


def test_attention_over_no_history_is_nothing() -> None:
    assert not masked_softmax(torch.randn(2, 3), torch.zeros(2, 3, dtype=torch.bool)).any()
