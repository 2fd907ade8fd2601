"""The committee learner, each way of learning with its contract check."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from headrace.learn import CommitteeConfig, CommitteeLearner, LearnerConfig
from headrace.nn import LinearTasks
from headrace.store import SGD, EmbeddingCollection, FeatureLookup, NativeTable, ReferenceTable, TableConfig, Zeros
from headrace.testing import Toy, ToyConfig, Verdict, check_learner
from headrace.types import Batch

TOY = Toy(ToyConfig(seed=1, users=32, items=64, rows_per_s=0.05))
TASKS = 3


def made(config: CommitteeConfig, part: type = ReferenceTable, tasks: int = TASKS) -> Callable[[], CommitteeLearner]:
    def make() -> CommitteeLearner:
        names = ("user", "item")
        tables = {name: part(TableConfig(name=name, dim=tasks, init=Zeros(), rule=SGD(lr=1.0))) for name in names}
        embed = EmbeddingCollection(tables, [FeatureLookup(feature=name, table=name) for name in names])
        model = LinearTasks(embed, names, 0, tasks=tasks, voting=config.voting)
        return CommitteeLearner(model, embed, config, LearnerConfig(seed=1))

    return make


def batches() -> list[Batch]:
    return [replace(one, extra={"scenario": torch.arange(len(one)) % TASKS}) for one in TOY.batches(12, 5)]


def learners() -> Iterator[tuple]:
    for label, config, part in (
        ("committee", CommitteeConfig(), NativeTable), ("published", CommitteeConfig(self_trust=1.0), ReferenceTable),
        ("peer", CommitteeConfig(method="peer"), ReferenceTable),
        ("independent", CommitteeConfig(method="independent"), ReferenceTable),
    ):  # fmt: skip
        others = [made(replace(config, penalty=1.0)), made(config, tasks=TASKS + 1)]

        def run(_: Path, config=config, part=part, others=others) -> Verdict:
            return check_learner(made(config, part), batches(), others=others)

        yield "Learner", CommitteeLearner, run, (), label


CASES = [learners]
