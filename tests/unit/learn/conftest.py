"""A small learner over a toy stream, in whatever variation a test asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from headrace.learn import LearnerConfig, RankLearner
from headrace.nn import DeepFM
from headrace.objectives import LogLoss
from headrace.protocols import Objective
from headrace.store import EmbeddingCollection, FeatureLookup, ReferenceTable, TableConfig
from headrace.types import Batch

LearnerMaker = Callable[..., RankLearner]


class Normed(nn.Module):
    """A model with a buffer: its logits pass through batch normalisation."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.norm = inner, nn.BatchNorm1d(1)

    def forward(self, batch: Batch) -> Tensor:
        logits: Tensor = self.norm(self.inner(batch).unsqueeze(1)).squeeze(1)
        return logits


def build(
    *, tables: dict[str, Any] | None = None, hidden: tuple[int, ...] = (8,), dropout: float = 0.0,
    normed: bool = False, optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
    objective: Objective | None = None, **config: Any,
) -> RankLearner:  # fmt: skip
    settings = {"user": {}, "item": {}} | (tables or {})
    opened = {name: ReferenceTable(TableConfig(name=name, **({"dim": 4} | own))) for name, own in settings.items()}
    collection = EmbeddingCollection(opened, [FeatureLookup(feature=name, table=name) for name in ("user", "item")])
    model: nn.Module = DeepFM(collection, ("user", "item"), 0, hidden, dropout=dropout, seed=1)
    if normed:
        model = Normed(model)
    parameters = list(model.parameters())
    dense = Adam(parameters, lr=0.01) if optimizer is None else optimizer(parameters)
    return RankLearner(model, collection, dense, objective or LogLoss(), LearnerConfig(**config))


@pytest.fixture
def make_learner() -> LearnerMaker:
    """Return the builder of small learners over the tables `user` and `item`."""
    torch.manual_seed(12345)  # nothing below may depend on it
    return build
