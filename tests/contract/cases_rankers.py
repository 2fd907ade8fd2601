"""Objectives of several labels, retrieval and late answers, and parts that judge streams, as contract cases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from headrace.evaluate.accumulate import StreamingEvaluation
from headrace.evaluate.grouped_stream import StreamingGroups
from headrace.evaluate.order import encode
from headrace.evaluate.slice_stream import Moments, StreamingSlices
from headrace.feedback import LabelConfig
from headrace.feedback.annotators_stream import LabelStream
from headrace.nn import Transitions
from headrace.nn.two_tower import Towers
from headrace.objectives import LogLoss
from headrace.objectives.auxiliary import WithAuxiliary
from headrace.objectives.delayed import LATE, DelayedLogLoss
from headrace.objectives.multi_task import ESMMLoss, MultiTask
from headrace.objectives.retrieval import NextItem, SampledSoftmax
from headrace.testing import Toy, ToyConfig, Verdict, check_objective, check_resumable
from headrace.types import Batch

TOY = Toy(ToyConfig(seed=1, users=8, items=16))


class Everything(nn.Module):
    """Scores of items that every objective here can ask in its own way."""

    temperature = 1.0

    def __init__(self, columns: int = 1) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.linspace(-1.0, 1.0, 16 * columns).reshape(16, columns))

    def forward(self, batch: Batch) -> Tensor:
        found = self.scores[batch.ids["item"].values % 16]
        return found.squeeze(1) if found.shape[1] == 1 else found

    def forward_with_auxiliary(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self(batch), self.scores.square().mean()

    def towers(self, batch: Batch) -> Towers:
        ids = batch.ids["item"].values
        return Towers(torch.ones(len(batch), 1), self.scores[ids % 16], ids)

    def transitions(self, batch: Batch, candidates: str) -> tuple[Tensor, Transitions]:
        ids, many = batch.ids["item"].values, torch.arange(16)
        found = Transitions(
            states=torch.ones(len(batch), 1), items=self.scores[ids % 16], ids=ids % 16,
            examples=torch.arange(len(batch)), candidates=self.scores[many], candidate_ids=many,
        )  # fmt: skip
        return self(batch), found


def with_labels(batch: Batch) -> Batch:
    buys = batch.labels * (batch.ids["item"].values % 2 == 0)
    return replace(batch, extra={"label/buy": buys, f"label/{LATE}": buys})


def objectives() -> Iterator[tuple]:
    first, second = (with_labels(batch) for batch in TOY.batches(32, 2))
    for part, label, objective, columns in (
        (WithAuxiliary, "", WithAuxiliary(LogLoss(), 0.5), 1), (NextItem, "", NextItem(), 1),
        (SampledSoftmax, "", SampledSoftmax(corrected=False), 1), (MultiTask, "", MultiTask(labels=("buy",)), 2),
        (MultiTask, "esmm", ESMMLoss(labels=("buy",)), 2), (DelayedLogLoss, "", DelayedLogLoss(late_share=0.5), 1),
    ):  # fmt: skip

        def run(_: Path, objective=objective, columns=columns) -> Verdict:
            return check_objective(objective, Everything(columns), first, other=second)

        yield "Objective", part, run, (), label


def rows(step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(step)
    chance = draw.random(60)
    return (draw.random(60) < chance).astype(np.float64), chance, np.ones(60) + step


def judge(stream: StreamingEvaluation, step: int) -> object:
    label, chance, weight = rows(step)
    users = np.random.default_rng(step + 100).integers(0, 9, 60)
    stream.update(label, chance, weight, groups=users, slices={"place": users % 3})
    return stream.state()


def collect(groups: StreamingGroups, step: int) -> object:
    groups.update(*rows(step), np.random.default_rng(step).integers(0, 2**63, 60, dtype=np.int64).astype(np.uint64))
    return groups.state()


def add_up(moments: Moments, step: int) -> object:
    moments.update(*rows(step))
    return moments.state()


def slice_up(slices: StreamingSlices, step: int) -> object:
    values = np.random.default_rng(step).integers(0, 6, 60).astype(str)
    slices.update(*rows(step), encode(values, 60, names=True))
    return slices.state()


def answer(stream: LabelStream, step: int) -> object:
    draw = np.random.default_rng(step)
    items, people, said = draw.integers(0, 20, 30), draw.integers(0, 6, 30), draw.integers(0, 2, 30)
    _, once = np.unique(items * 10 + people, return_index=True)
    stream.add(items[once] + 100 * step, people[once], said[once])
    return torch.from_numpy(stream.beliefs.copy())


def resumable() -> Iterator[tuple]:
    def run(make, advance, *others):
        return lambda _: check_resumable(make, advance, others=others)

    def whole(draws: int = 20) -> StreamingEvaluation:
        return StreamingEvaluation(grouped=True, slices=("place",), draws=draws)

    def labels(method: str = "dawid-skene") -> LabelStream:
        return LabelStream([0, 1], LabelConfig(method=method))

    yield "Resumable", StreamingEvaluation, run(whole, judge, lambda: whole(30))
    yield "Resumable", StreamingGroups, run(lambda: StreamingGroups(max_rows=100), collect, StreamingGroups)
    yield "Resumable", Moments, run(Moments, add_up), (7,)
    yield "Resumable", StreamingSlices, run(lambda: StreamingSlices(max_slices=4), slice_up, StreamingSlices)
    yield "Resumable", LabelStream, run(labels, answer, lambda: labels("glad"))


CASES = [objectives, resumable]
