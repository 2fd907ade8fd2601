"""Sampled softmax: what it equals, and the popularity bias that its correction takes away. The next-item loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from headrace.errors import ConfigError, DataError
from headrace.nn.frequencies import KnownFrequencies, StreamingFrequencies
from headrace.nn.layers import generator
from headrace.nn.sasrec import Transitions
from headrace.nn.two_tower import Towers
from headrace.objectives.candidates import with_item_rows
from headrace.objectives.retrieval import NextItem, SampledSoftmax
from headrace.types import Batch, Jagged

ITEMS = 30


def batch_of(items: Tensor, users: Tensor | None = None, labels: Tensor | None = None) -> Batch:
    rows = len(items)
    zeros, each = torch.zeros(rows, dtype=torch.int64), torch.arange(rows + 1)
    users = zeros if users is None else users
    return Batch(
        ids={"item": Jagged(items, each), "user": Jagged(users, each)}, dense=torch.zeros(rows, 0),
        labels=torch.ones(rows) if labels is None else labels, weights=torch.ones(rows), event_times=zeros,
        accepted_times=zeros, example_ids=zeros, predictions=torch.full((rows,), math.nan), versions=zeros - 1,
        sample_rates=torch.ones(rows),
    )  # fmt: skip


class Scores(nn.Module):
    """A free score for each item, the same for every user: what a two-tower model comes to without users."""

    temperature = 1.0

    def __init__(self, frequencies: nn.Module | None = None) -> None:
        super().__init__()
        self.score, self.frequencies = nn.Parameter(torch.zeros(ITEMS)), frequencies

    def towers(self, batch: Batch) -> Towers:
        ids = batch.ids["item"].values
        return Towers(torch.ones(len(batch), 1), self.score[ids].unsqueeze(1), ids)


class Users(Scores):
    """A free score for each pair of user and item."""

    temperature = 0.5

    def __init__(self, users: int = 5) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.randn(users, ITEMS, generator=generator(1)))

    def towers(self, batch: Batch) -> Towers:
        ids = batch.ids["item"].values
        one_hot = torch.nn.functional.one_hot(ids, ITEMS).float()
        return Towers(self.scores[batch.ids["user"].values], one_hot, ids)


def test_with_all_items_as_candidates_it_is_the_full_softmax() -> None:
    draw = generator(3)
    users, items = torch.randint(0, 5, (12,), generator=draw), torch.randint(0, ITEMS, (12,), generator=draw)
    model, full = Users(), Users()
    batch = with_item_rows(batch_of(items, users), {"item": torch.arange(ITEMS), "user": torch.zeros(ITEMS).long()})
    loss = SampledSoftmax(corrected=False)(model, batch)
    expected = cross_entropy(full.scores[users] / 0.5, items, reduction="sum") / len(batch)
    torch.testing.assert_close(loss.total, expected)
    loss.total.backward()
    expected.backward()
    torch.testing.assert_close(model.scores.grad, full.scores.grad)
    torch.testing.assert_close(loss.logits[:12], model.scores[users, items] / 0.5)


def test_with_all_items_in_every_batch_there_is_nothing_to_correct() -> None:
    model, batch = Scores(StreamingFrequencies(1 << 14)), batch_of(torch.arange(ITEMS))
    plain = SampledSoftmax(corrected=False)(model, batch).total
    for _ in range(3):
        torch.testing.assert_close(SampledSoftmax()(model, batch).total, plain)


def test_an_item_is_no_negative_of_itself() -> None:
    model = Scores()
    one = SampledSoftmax(corrected=False)(model, batch_of(torch.tensor([4, 7]))).total
    many = SampledSoftmax(corrected=False)(model, batch_of(torch.tensor([4, 7, 4, 7, 7]))).total
    torch.testing.assert_close(one, torch.tensor(math.log(2.0)))
    torch.testing.assert_close(many, torch.tensor(math.log(2.0)))


def test_negatives_of_label_zero_are_candidates_and_no_cases() -> None:
    model = Users()
    batch = batch_of(torch.tensor([4, 7, 9]), torch.tensor([0, 1, 2]), torch.tensor([1.0, 0.0, 0.0]))
    scores = model.scores[0, [4, 7, 9]] / 0.5
    expected = (scores.logsumexp(0) - scores[0]) / 3
    torch.testing.assert_close(SampledSoftmax(corrected=False)(model, batch).total, expected)


def test_weights_count() -> None:
    model, batch = Users(), batch_of(torch.tensor([4, 7]), torch.tensor([0, 1]))
    singles = [
        SampledSoftmax(corrected=False)(model, replace(batch, weights=torch.eye(2)[row])).total for row in (0, 1)
    ]
    both = SampledSoftmax(corrected=False)(model, replace(batch, weights=torch.tensor([2.0, 0.5]))).total
    torch.testing.assert_close(both, 2.0 * singles[0] + 0.5 * singles[1])


def test_a_batch_without_positives_has_no_loss_and_no_gradient() -> None:
    model = Users()
    loss = SampledSoftmax(corrected=False)(model, batch_of(torch.tensor([1, 2]), labels=torch.zeros(2)))
    loss.total.backward()
    assert float(loss.total.detach()) == 0.0
    assert not model.scores.grad.any()


POPULARITY = (1.0 / torch.arange(1, ITEMS + 1)) / (1.0 / torch.arange(1, ITEMS + 1)).sum()


def slope_of_learned_scores(frequencies: nn.Module | None, rows: int = 8, steps: int = 1000) -> float:
    """Learn scores from items drawn by popularity; return their slope over its logarithm: 1 is right, 0 is blind."""
    model, draw = Scores(frequencies).train(), generator(4)
    objective = SampledSoftmax(corrected=frequencies is not None)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=steps)
    for _ in range(steps):
        items = torch.multinomial(POPULARITY, rows, replacement=True, generator=draw)
        optimizer.zero_grad()
        objective(model, batch_of(items)).total.backward()
        optimizer.step()
        schedule.step()
    scores, truth = model.score.detach(), POPULARITY.log()
    centred = truth - truth.mean()
    return float((scores * centred).sum() / centred.square().sum())


def test_without_the_correction_popularity_is_lost() -> None:
    assert slope_of_learned_scores(None) < 0.3


@pytest.mark.parametrize("streaming", [False, True])
def test_the_correction_finds_the_true_popularity(streaming: bool) -> None:
    known = KnownFrequencies(torch.arange(ITEMS), POPULARITY, batch_rows=8)
    assert slope_of_learned_scores(StreamingFrequencies(1 << 12) if streaming else known) == pytest.approx(1.0, abs=0.1)


def test_a_correction_needs_frequencies() -> None:
    with pytest.raises(ConfigError, match="StreamingFrequencies"):
        SampledSoftmax()(Scores(), batch_of(torch.tensor([1, 2])))


def test_a_model_without_towers_is_refused() -> None:
    with pytest.raises(ConfigError, match="Linear without 'towers'"):
        SampledSoftmax()(nn.Linear(1, 1), batch_of(torch.tensor([1, 2])))


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(DataError, match="no examples"):
        SampledSoftmax()(Scores(), batch_of(torch.zeros(0, dtype=torch.int64)))


# ------------------------------------------------------------------------------------------------------- next item


@dataclass
class Case:
    """Free states and items, N places and C candidates."""

    states: Tensor
    table: Tensor
    ids: Tensor
    candidates: Tensor


class Given(nn.Module):
    """A model whose transitions are given."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case

    def transitions(self, batch: Batch, candidates: str) -> tuple[Tensor, Transitions]:
        case, table = self.case, self.case.table
        return torch.zeros(len(batch)), Transitions(
            states=case.states, items=table[case.ids], ids=case.ids, examples=torch.arange(len(case.ids)) % len(batch),
            candidates=table[case.candidates], candidate_ids=case.candidates,
        )  # fmt: skip


def case_of(candidates: Tensor, places: int = 6) -> Case:
    draw = generator(2)
    ids = torch.randint(0, ITEMS, (places,), generator=draw)
    return Case(torch.randn(places, 4, generator=draw), torch.randn(ITEMS, 4, generator=draw), ids, candidates)


def test_softmax_over_the_whole_catalogue_is_the_full_softmax() -> None:
    case = case_of(torch.arange(ITEMS))
    loss = NextItem(loss="softmax")(Given(case), batch_of(torch.tensor([1, 2])))
    torch.testing.assert_close(loss.total, cross_entropy(case.states @ case.table.T, case.ids))


def test_softmax_over_some_candidates_is_that_over_them_and_the_item_itself() -> None:
    case = case_of(torch.tensor([3, 5, 3, 29]))
    loss = NextItem(loss="softmax")(Given(case), batch_of(torch.tensor([1, 2])))
    total = 0.0
    for state, item in zip(case.states, case.ids.tolist(), strict=True):
        others = [number for number in case.candidates.tolist() if number != item]
        total += cross_entropy(case.table[[item, *others]] @ state, torch.tensor(0))
    torch.testing.assert_close(loss.total, total / 6)


def test_binary_takes_one_candidate_for_each_place_and_none_that_is_the_item() -> None:
    case = case_of(torch.arange(6))
    case.candidates[2] = case.ids[2]  # an accidental hit
    own = (case.states * case.table[case.ids]).sum(1)
    other = (case.states * case.table[case.candidates]).sum(1)
    right = binary_cross_entropy_with_logits(own, torch.ones(6), reduction="none")
    wrong = binary_cross_entropy_with_logits(other, torch.zeros(6), reduction="none")
    wrong[2] = 0.0
    loss = NextItem()(Given(case), batch_of(torch.tensor([1, 2])))
    torch.testing.assert_close(loss.total, (right + wrong).mean())


def test_places_weigh_as_their_examples_do() -> None:
    case, batch = case_of(torch.arange(6)), batch_of(torch.tensor([1, 2]))
    singles = [NextItem()(Given(case), replace(batch, weights=torch.eye(2)[row])).total for row in (0, 1)]
    both = NextItem()(Given(case), replace(batch, weights=torch.tensor([2.0, 0.5]))).total
    torch.testing.assert_close(both, 2.0 * singles[0] + 0.5 * singles[1])


def test_no_candidates_and_unknown_losses_are_refused() -> None:
    with pytest.raises(DataError, match="no candidates"):
        NextItem()(Given(case_of(torch.zeros(0, dtype=torch.int64))), batch_of(torch.tensor([1])))
    with pytest.raises(ConfigError, match="softmax"):
        NextItem(loss="sofmax")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="transitions"):
        NextItem()(Scores(), batch_of(torch.tensor([1])))
