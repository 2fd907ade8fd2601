"""Recommenders of two stages: the loss of both, and what learns them with the certainty of the last layer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from headrace.learn import LearnerConfig, RankLearner
from headrace.nn import DeepFM, LastLayerPosterior, StreamingFrequencies, TowerInputs, TwoStage, TwoTower
from headrace.objectives import LogLoss, TwoStageLoss
from headrace.store import Adagrad, EmbeddingCollection, FeatureLookup, TableConfig, open_table
from headrace.testing import Toy, ToyConfig, Verdict, check_learner, check_objective
from headrace.types import Batch

TOY = Toy(ToyConfig(seed=2, users=32, items=32, rows_per_s=0.05))
NAMES = ("user", "item")


def network(embed: nn.Module) -> TwoStage:
    def ranker(once: nn.Module) -> nn.Module:
        inside = DeepFM(once, NAMES, 0, (6,), seed=1)
        return LastLayerPosterior(inside, inside.deep.output)

    def towers(once: nn.Module) -> TwoTower:
        return TwoTower(once, TowerInputs(("user",)), TowerInputs(("item",)), (6,), width=4, seed=1,
                        frequencies=StreamingFrequencies(64))  # fmt: skip

    return TwoStage(embed, ranker, towers)


def learner(dim: int = 4) -> RankLearner:
    tables = {name: open_table(TableConfig(name=name, dim=dim, rule=Adagrad(lr=0.05))) for name in NAMES}
    embed = EmbeddingCollection(tables, [FeatureLookup(feature=name, table=name) for name in NAMES])
    model = network(embed)
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    return RankLearner(model, embed, adam, TwoStageLoss(), LearnerConfig(seed=0))


def batches() -> list[Batch]:
    return list(TOY.batches(24, 4))


def objectives() -> Iterator[tuple]:
    def run(_: Path) -> Verdict:
        model = learner().model.eval()  # frequencies and evidence are the model's own business, and learn in training
        return check_objective(TwoStageLoss(rank=LogLoss()), model, batches()[0], other=batches()[1])

    yield "Objective", TwoStageLoss, run


def learners() -> Iterator[tuple]:
    def run(_: Path) -> Verdict:
        return check_learner(learner, batches(), others=[lambda: learner(dim=6)])

    yield "Learner", RankLearner, run, (), "two stages"


CASES = [objectives, learners]
