from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from headrace.errors import ConfigError
from headrace.nn import LinearTasks
from headrace.nn.linear_tasks import squared_counts
from headrace.testing import Toy, ToyConfig
from headrace.types import Batch, Jagged

BATCH = replace(Toy(ToyConfig(users=8, items=8)).batch(0, 6), extra={"scenario": torch.tensor([0, 1, 1, 0, 1, 0])})


class Weights(nn.Module):
    """Rows of ones times the task's number plus one."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {name: torch.ones(len(batch), 2) * torch.tensor([1.0, 2.0]) for name in batch.ids}


def test_scores_are_those_of_examples_of_unit_length() -> None:
    model = LinearTasks(Weights(), ("user", "item"), 0, tasks=2)
    assert torch.allclose(model.lengths(BATCH), torch.full((6,), 3.0**0.5))
    assert torch.allclose(model.scores(BATCH), torch.tensor([[2.0, 4.0]]).expand(6, 2) / 3.0**0.5)


def test_a_committee_of_strangers_is_the_task_alone() -> None:
    alone = LinearTasks(Weights(), ("user", "item"), 0, tasks=2, voting="own")
    together = LinearTasks(Weights(), ("user", "item"), 0, tasks=2)
    assert torch.equal(together(BATCH), together.scores(BATCH).sum(1))
    together.affinity.copy_(torch.eye(2))
    assert torch.equal(alone(BATCH), together(BATCH))


def test_numbers_count_and_so_do_repeated_words() -> None:
    model = LinearTasks(Weights(), (), 2)
    with torch.no_grad():
        model.dense_weight.copy_(torch.tensor([[1.0], [10.0]]))
    batch = replace(BATCH, dense=torch.tensor([[2.0, 2.0]] * 6), extra={})
    assert model(batch).tolist() == pytest.approx([22.0 / 3.0] * 6)
    words = Jagged(torch.tensor([5, 5, 5, 1, 1, 5]), torch.tensor([0, 4, 4, 6]))
    assert squared_counts(words).tolist() == [10.0, 0.0, 2.0]
    assert squared_counts(words.slice(0, 1)).tolist() == [10.0]
    assert squared_counts(words.slice(1, 2)).tolist() == [0.0]


def test_what_cannot_work_is_refused() -> None:
    for options in ({"tasks": 0}, {"voting": "loud"}):
        with pytest.raises(ConfigError):
            LinearTasks(Weights(), ("user",), 0, **options)
