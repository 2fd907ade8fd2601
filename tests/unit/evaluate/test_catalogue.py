"""Rankings of whole catalogues: equal to counting by hand, ties at expectation, independent of batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from headrace.errors import ConfigError, DataError
from headrace.evaluate import catalogue_values, mean_over_users, ndcg, recall
from headrace.types import Jagged


def jagged(lists: list[list[int]]) -> Jagged:
    lengths = torch.tensor([0, *(len(one) for one in lists)])
    return Jagged(torch.tensor([i for one in lists for i in one], dtype=torch.int64), lengths.cumsum(0))


def drawn(users: int = 40, items: int = 25, *, levels: int | None = None):
    draw = np.random.default_rng(3)
    scores = draw.normal(size=(users, items)) if levels is None else draw.integers(0, levels, (users, items)) * 1.0
    lists = [draw.permutation(items) for _ in range(users)]
    held = [sorted(one[: 1 + row % 6].tolist()) for row, one in enumerate(lists)]
    seen = [one[10 : 10 + row % 5].tolist() for row, one in enumerate(lists)]
    return torch.from_numpy(scores), held, seen


@pytest.mark.parametrize("levels", [None, 4])
@pytest.mark.parametrize("k", [1, 3, 10, 100])
def test_it_is_the_metric_of_ranked_lists_over_the_candidates(k: int, levels: int | None) -> None:
    scores, held, seen = drawn(levels=levels)
    found = catalogue_values(scores, jagged(held), k=k, seen=jagged(seen))
    for user in range(len(held)):
        candidates = [item for item in range(25) if item not in seen[user]]
        labels = [float(item in held[user]) for item in candidates]
        own, alone = scores[user, candidates].numpy(), ["u"] * len(candidates)
        assert found["ndcg"][user] == pytest.approx(ndcg(labels, own, alone, k=k))
        over_all = recall(labels, own, alone, k=k)
        assert found["recall"][user] == pytest.approx(over_all * len(held[user]) / min(k, len(held[user])))


def test_the_best_order_earns_one_and_a_constant_score_what_chance_earns() -> None:
    held = jagged([[0, 1, 2], [5]])
    perfect = torch.zeros(2, 10)
    perfect[0, :3], perfect[1, 5] = 1.0, 1.0
    for k in (1, 2, 5):
        found = catalogue_values(perfect, held, k=k)
        assert found["recall"].tolist() == found["ndcg"].tolist() == [1.0, 1.0]
    flat = catalogue_values(torch.zeros(2, 10), held, k=5)
    assert flat["recall"] == pytest.approx([0.5, 0.5])


def test_seen_items_make_room_for_others() -> None:
    scores, held = torch.arange(6.0).unsqueeze(0), jagged([[3]])
    assert catalogue_values(scores, held, k=1)["recall"].tolist() == [0.0]
    assert catalogue_values(scores, held, k=1, seen=jagged([[4, 5]]))["recall"].tolist() == [1.0]


@pytest.mark.parametrize("rows", [1, 7, 16, 40])
def test_results_do_not_depend_on_the_batches(rows: int) -> None:
    scores, held, seen = drawn(levels=6)
    held[4] = []  # nothing to be found: no value, and no weight
    whole = catalogue_values(scores, jagged(held), k=5, seen=jagged(seen))["ndcg"]
    parts = [
        catalogue_values(
            scores[start : start + rows], jagged(held[start : start + rows]), k=5,
            seen=jagged(seen[start : start + rows]),
        )["ndcg"]
        for start in range(0, 40, rows)
    ]  # fmt: skip
    assert np.array_equal(np.concatenate(parts), whole, equal_nan=True)
    assert mean_over_users(parts) == mean_over_users([whole])
    assert math.isnan(whole[4])


def test_there_may_be_nobody() -> None:
    found = catalogue_values(torch.zeros(0, 3), jagged([]), k=2)
    assert found["recall"].shape == (0,)
    assert math.isnan(mean_over_users([found["recall"]]))


def test_what_cannot_be_right_is_refused() -> None:
    scores = torch.zeros(1, 3)
    with pytest.raises(DataError, match="NaN or infinity"):
        catalogue_values(torch.tensor([[math.nan]]), jagged([[0]]), k=1)
    with pytest.raises(DataError, match="one per user"):
        catalogue_values(scores, jagged([[0], [1]]), k=1)
    with pytest.raises(DataError, match="0 to 2"):
        catalogue_values(scores, jagged([[3]]), k=1)
    with pytest.raises(DataError, match="seen too"):
        catalogue_values(scores, jagged([[1]]), k=1, seen=jagged([[1]]))
    with pytest.raises(ConfigError, match="k"):
        catalogue_values(scores, jagged([[1]]), k=0)
    with pytest.raises(ConfigError, match="recall"):
        catalogue_values(scores, jagged([[1]]), k=1, names=("precision",))
