"""SASRec: causality, prefixes, and the cases that a batch holds. BST: positions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from headrace.errors import ConfigError, DataError
from headrace.nn.bst import BST, BSTSettings
from headrace.nn.layers import generator
from headrace.nn.sasrec import SASRec, SASRecSettings
from headrace.types import Batch, Jagged

PAIRS = {"past": "item"}


class Rows(nn.Module):
    """Items that history, target and candidates share."""

    def __init__(self) -> None:
        super().__init__()
        self.item = nn.Parameter(torch.randn(20, 4, generator=generator(0)))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {name: self.item[batch.ids[name].values] for name in ("item", "past", "candidates")}


def batch_of(histories: list[list[int]], labels: list[float] | None = None) -> Batch:
    rows = len(histories)
    zeros, lengths = torch.zeros(rows, dtype=torch.int64), torch.tensor([0, *map(len, histories)])
    past = Jagged(torch.tensor([i for one in histories for i in one], dtype=torch.int64), lengths.cumsum(0))
    offsets = torch.full((rows + 1,), 3)
    offsets[0] = 0
    return Batch(
        ids={"item": Jagged(torch.arange(rows) + 10, torch.arange(rows + 1)), "past": past,
             "candidates": Jagged(torch.tensor([17, 18, 19]), offsets)},
        dense=torch.zeros(rows, 0), labels=torch.ones(rows) if labels is None else torch.tensor(labels),
        weights=torch.ones(rows), event_times=zeros, accepted_times=zeros, example_ids=zeros,
        predictions=torch.full((rows,), math.nan), versions=zeros - 1, sample_rates=torch.ones(rows),
    )  # fmt: skip


def model_of(**settings: object) -> SASRec:
    model = SASRec(Rows(), ("past", "item"), pairs=PAIRS, settings=SASRecSettings(**settings))  # type: ignore[arg-type]
    return model.eval()


def test_the_state_after_a_prefix_is_that_of_the_prefix_alone() -> None:
    model, whole = model_of(heads=2), [3, 5, 7, 2, 2, 9]
    _, found = model.transitions(batch_of([whole]), "candidates")
    for length in range(1, 7):
        torch.testing.assert_close(found.states[length - 1], model.user(batch_of([whole[:length]]))[0])


def test_every_place_where_an_item_followed_is_a_case() -> None:
    model = model_of()
    batch = batch_of([[3, 5, 7], [], [1], [2, 9]], [1.0, 1.0, 0.0, 1.0])
    logits, found = model.transitions(batch, "candidates")
    # Within histories, then the targets of positives that have a history.
    assert (found.examples.tolist(), found.ids.tolist()) == ([0, 0, 3, 0, 3], [5, 7, 9, 10, 13])
    torch.testing.assert_close(found.items, model.embed.item[found.ids])
    torch.testing.assert_close(found.states[3:], model.user(batch)[[0, 3]])
    torch.testing.assert_close(found.candidates, model.embed.item[[17, 18, 19]])
    assert found.candidate_ids.tolist() == [17, 18, 19]
    torch.testing.assert_close(logits, model(batch))


def test_an_example_without_history_scores_nothing() -> None:
    assert model_of()(batch_of([[], [1]]))[0] == 0.0


def test_scores_are_products_of_user_and_item() -> None:
    model, batch = model_of(), batch_of([[3, 4], [5]])
    torch.testing.assert_close(model(batch), (model.user(batch) * model.item(batch)).sum(1))


def test_dropout_acts_in_training_only() -> None:
    model, batch = model_of(dropout=0.5), batch_of([[3, 4], [5]])
    assert torch.equal(model(batch), model(batch))
    model.train()
    assert not torch.equal(model(batch), model(batch))


def test_a_target_has_to_be_one_item() -> None:
    batch = batch_of([[3, 4], [5]])
    batch.ids["item"] = Jagged(torch.tensor([1, 2, 3]), torch.tensor([0, 2, 3]))

    class First(Rows):
        def forward(self, batch: Batch) -> dict[str, Tensor]:
            rows = super().forward(batch)
            return rows | {"item": rows["item"][batch.ids["item"].offsets[:-1]]}

    with pytest.raises(DataError, match="3 ids in 2 examples"):
        SASRec(First(), ("past", "item"), pairs=PAIRS).transitions(batch, "candidates")


def test_settings_that_cannot_work_are_refused() -> None:
    for settings in ({"blocks": 0}, {"max_length": 0}):
        with pytest.raises(ConfigError):
            SASRecSettings(**settings)
    with pytest.raises(ConfigError, match="divisor"):
        model_of(heads=3)
    with pytest.raises(ConfigError, match="one history"):
        SASRec(Rows(), ("past", "candidates", "item"), pairs={"past": "item", "candidates": "item"})


# ------------------------------------------------------------------------------------------------------------- BST


def bst_of(**settings: object) -> BST:
    chosen = BSTSettings(**settings)  # type: ignore[arg-type]
    return BST(Rows(), ("past", "item"), 0, (8,), pairs=PAIRS, settings=chosen).eval()


@pytest.mark.parametrize("pooling", ["mean", "target"])
def test_without_positions_bst_does_not_see_an_order(pooling: str) -> None:
    model, batches = bst_of(pooling=pooling), (batch_of([[3, 5, 7]]), batch_of([[7, 3, 5]]))
    with torch.no_grad():
        model.encoders[0].positions.normal_(generator=generator(0))
    assert not torch.allclose(*(model(batch) for batch in batches), atol=1e-4)
    with torch.no_grad():
        model.encoders[0].positions.zero_()
    torch.testing.assert_close(*(model(batch) for batch in batches))


def test_positions_of_bst_count_from_the_target() -> None:
    model = bst_of(max_length=5)
    with torch.no_grad():
        model.encoders[0].positions.normal_(generator=generator(0))
        before = model(batch_of([[3, 5]]))
        model.encoders[0].positions[3:] += 1.0  # nothing is that far away
        assert torch.equal(model(batch_of([[3, 5]])), before)
        model.encoders[0].positions[2] += 1.0  # the oldest of two entries is
    assert not torch.equal(model(batch_of([[3, 5]])), before)


def test_settings_of_bst_that_cannot_work_are_refused() -> None:
    for settings in ({"blocks": 0}, {"max_length": 0}, {"pooling": "sum"}):
        with pytest.raises(ConfigError):
            BSTSettings(**settings)
    with pytest.raises(ConfigError, match="divisor"):
        bst_of(heads=3)
