"""What a learner says about clips, the schedule of its dense part, and CowClip against a dense implementation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headrace.errors import ConfigError
from headrace.learn import LearnerConfig, RankLearner
from headrace.learn.clipping import clipped_shares, tables_that_clip
from headrace.nn import DeepFM
from headrace.objectives import LogLoss
from headrace.optim import CowClip, RowL2, RowNormClip, Warmup
from headrace.store import (
    SGD,
    Adam,
    Clipping,
    EmbeddingCollection,
    FeatureLookup,
    Normal,
    ReferenceTable,
    TableConfig,
    open_table,
)
from headrace.types import Batch, Jagged

FEATURES, IDS, DIM, RATE = ("user", "item"), 12, 5, 0.01


def batch_of(ids: Tensor, labels: Tensor) -> Batch:
    """A batch of one id a feature: ids (B, F), labels (B,)."""
    rows = len(labels)
    offsets, zeros = torch.arange(rows + 1), torch.zeros(rows, dtype=torch.int64)
    return Batch(
        ids={name: Jagged(ids[:, place].contiguous(), offsets) for place, name in enumerate(FEATURES)},
        dense=torch.zeros(rows, 0), labels=labels, weights=torch.ones(rows), event_times=zeros, accepted_times=zeros,
        example_ids=zeros, predictions=torch.full((rows,), math.nan), versions=zeros - 1, sample_rates=torch.ones(rows),
    )  # fmt: skip


def batches(steps: int, rows: int, everything: bool, seed: int = 0) -> list[Batch]:
    """Batches that hold every id, or only those that chance brings."""
    random, made = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        ids = torch.randint(0, IDS, (rows, len(FEATURES)), generator=random)
        if everything:
            ids[:IDS] = torch.arange(IDS)[:, None]
        made.append(batch_of(ids, (torch.rand(rows, generator=random) < 0.3).float()))
    return made


def learner(kind: Any = open_table, rule: Any = None, transforms: Any = (), **config: Any) -> RankLearner:
    rule = rule or Adam(lr=RATE, correction="table")
    tables = {name: kind(TableConfig(name=name, dim=DIM, rule=rule, init=Normal(0.05), transforms=transforms))
              for name in FEATURES}  # fmt: skip
    collection = EmbeddingCollection(tables, [FeatureLookup(feature=name, table=name) for name in FEATURES])
    model = DeepFM(collection, FEATURES, 0, (8,), dim=DIM, seed=3)
    settings = LearnerConfig(**({"row_gradients": "mean", "freshness": False} | config))
    return RankLearner(model, collection, torch.optim.Adam(model.parameters(), lr=RATE), LogLoss(), settings)


class DenseRows(nn.Module):
    """Whole tables as parameters, as the authors of CowClip have them."""

    def __init__(self, start: dict[str, Tensor]) -> None:
        super().__init__()
        self.tables = nn.ParameterDict({name: nn.Parameter(rows.clone()) for name, rows in start.items()})

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {name: rows[batch.ids[name].values] for name, rows in self.tables.items()}


def dense_cowclip(
    ours: RankLearner, stream: list[Batch], weight: float, ratio: float, lower: float
) -> tuple[dict[str, Tensor], list[float]]:
    """The authors' algorithm: L2 of the whole tables in the loss, the clip on dense gradients, Adam on everything.

    Column 0 is the first-order weight, which has L2 and no clip. Returns the tables, and the share clipped per step.
    """
    every = torch.arange(IDS)
    rows = DenseRows({name: ours.collection.tables[name].lookup(every) for name in FEATURES})
    model = DeepFM(rows, FEATURES, 0, (8,), dim=DIM, seed=3)
    own = [parameter for name, parameter in model.named_parameters() if not name.startswith("embed")]
    optimizer = torch.optim.Adam([*rows.parameters(), *own], lr=RATE)
    shares = []
    for batch in stream:
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(batch), batch.labels)
        (loss + weight * sum(table.square().sum() for table in rows.parameters())).backward()
        clipped = present = 0
        for name, table in rows.tables.items():
            assert table.grad is not None
            counts = torch.bincount(batch.ids[name].values, minlength=IDS)
            grads, values = table.grad[:, 1:], table.detach()[:, 1:]
            least = ratio * math.sqrt(DIM - 1) * lower
            limits = ratio * counts.clamp(min=1) * values.norm(dim=1).clamp(min=least)
            norms = grads.norm(dim=1)
            grads *= (limits / torch.maximum(norms, limits))[:, None]
            clipped += int(((norms > limits) & (counts > 0)).sum())
            present += int((counts > 0).sum())
        shares.append(clipped / present)
        optimizer.step()
    return {name: table.detach() for name, table in rows.tables.items()}, shares


@pytest.mark.parametrize("kind", [ReferenceTable, open_table])
def test_cowclip_on_rows_is_the_dense_algorithm_when_every_row_comes_in_every_step(kind: Any) -> None:
    weight, ratio, lower = 1e-3, 0.1, 1e-2
    clips = (RowL2(weight=weight), CowClip(ratio=ratio, lower_bound=lower, order="code", skip=1))
    stream = batches(25, 40, everything=True)
    ours = learner(kind, transforms=clips)
    wanted, shares = dense_cowclip(ours, stream, weight, ratio, lower)
    parts = [ours.learn(batch).parts for batch in stream]
    for name, rows in wanted.items():
        torch.testing.assert_close(ours.collection.tables[name].lookup(torch.arange(IDS)), rows, rtol=2e-4, atol=2e-5)
    found = [sum(part[f"clipped/{name}"] for name in FEATURES) / len(FEATURES) for part in parts]
    assert found == pytest.approx(shares)
    assert 0.05 < sum(shares) / len(shares) < 0.95  # some rows were clipped and some were not
    unclipped = learner(kind, transforms=clips[:1])
    for batch in stream:
        unclipped.learn(batch)
    gap = (unclipped.collection.tables["user"].lookup(torch.arange(IDS)) - wanted["user"]).abs().max()
    assert gap > 1e-3


def test_rows_that_rest_differ_from_the_dense_algorithm_as_stated() -> None:
    """What is left is L2 through Adam, which moves a resting row by about the rate a step however small its weight."""
    ratio, lower = 1.0, 1e-5
    stream = batches(60, 4, everything=False)
    gaps = {}
    for weight in (0.0, 1e-5):
        clips = (RowL2(weight=weight, untouched="lazy"), CowClip(ratio=ratio, lower_bound=lower, order="code", skip=1))
        ours = learner(transforms=clips)
        start = ours.collection.tables["user"].lookup(torch.arange(IDS))
        wanted, _ = dense_cowclip(ours, stream, weight, ratio, lower)
        for batch in stream:
            ours.learn(batch)
        moved = (wanted["user"] - start).norm()
        gaps[weight] = float((ours.collection.tables["user"].lookup(torch.arange(IDS)) - wanted["user"]).norm() / moved)
    assert 0.1 < gaps[0.0] < 0.45  # rows are read without the momentum of the updates that they missed
    assert gaps[1e-5] > gaps[0.0] + 0.15


@pytest.mark.parametrize("kind", [ReferenceTable, open_table])
def test_the_share_of_rows_clipped_is_a_part_of_the_loss(kind: Any) -> None:
    batch = batches(1, 30, everything=False)[0]
    for clip, share in ((RowNormClip(max_norm=1e-9), 1.0), (RowNormClip(max_norm=1e9), 0.0)):
        parts = learner(kind, SGD(lr=0.1), (clip,)).learn(batch).parts
        assert {name: parts[f"clipped/{name}"] for name in FEATURES} == dict.fromkeys(FEATURES, share)


def test_tables_without_a_clip_have_no_share() -> None:
    batch = batches(1, 30, everything=False)[0]
    for transforms in ((), (RowL2(weight=0.1),)):
        ours = learner(transforms=transforms)
        assert tables_that_clip(ours.collection.tables) == {}
        assert not any(name.startswith("clipped/") for name in ours.learn(batch).parts)


def test_a_share_of_nothing_is_zero() -> None:
    assert clipped_shares({"t": Clipping(5, 2)}, {"t": Clipping(5, 2)}) == {"clipped/t": 0.0}


def test_the_dense_rate_follows_its_schedule_and_goes_on_after_a_restore() -> None:
    stream = batches(9, 20, everything=False)
    straight, first = (learner(dense_schedule=Warmup(steps=6)) for _ in range(2))
    rates = []
    for place, batch in enumerate(stream):
        straight.learn(batch)
        rates.append(straight.optimizer.param_groups[0]["lr"])
        if place < 4:
            first.learn(batch)
    assert rates == pytest.approx([RATE * min(step / 6, 1.0) for step in range(1, 10)])
    second = learner(dense_schedule=Warmup(steps=6))
    second.restore(first.state())
    for batch in stream[4:]:
        second.learn(batch)
    assert second.optimizer.param_groups[0]["lr"] == straight.optimizer.param_groups[0]["lr"]
    for one, other in zip(second.model.parameters(), straight.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_each_group_of_the_dense_optimiser_keeps_its_own_rate() -> None:
    made = learner()
    slow, *others = made.model.parameters()
    optimizer = torch.optim.SGD([{"params": [slow], "lr": 0.1}, {"params": others, "lr": 0.4}])
    config = LearnerConfig(dense_schedule=Warmup(steps=2), freshness=False)
    ours = RankLearner(made.model, made.collection, optimizer, LogLoss(), config)
    ours.learn(batches(1, 20, everything=False)[0])
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.2]


def test_a_schedule_that_gives_no_rate_is_refused() -> None:
    with pytest.raises(ConfigError, match="dense_schedule"):
        LearnerConfig(dense_schedule=3)  # type: ignore[arg-type]
    ours = learner(dense_schedule=lambda step: -1.0)
    with pytest.raises(ConfigError, match="dense_schedule at step 1"):
        ours.learn(batches(1, 20, everything=False)[0])
    assert ours.state()["examples"] == 0  # nothing was changed
    assert all(table.mark() == 0 for table in ours.collection.tables.values())
