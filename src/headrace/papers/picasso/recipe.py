"""What PICASSO's optimisations are tried on: wide models over many fields whose ids follow a Zipf law (protocol R5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from headrace.learn import LearnerConfig, RankLearner
from headrace.nn import FM
from headrace.objectives import LogLoss
from headrace.store import Adagrad, EmbeddingCollection, FeatureLookup, Storage, TableConfig, open_table
from headrace.types import NO_VERSION, Batch, Jagged

LR, EPS = 0.05, 1e-10


@dataclass(frozen=True, kw_only=True)
class Work:
    """One cell of R5.

    Attributes:
        fields: Id features; each has a table of its own, and one id an example.
        dim: Floats per row.
        batch_rows: Examples per step.
        rows: Ids of a field.
        skew: Exponent of their Zipf law.
        batches: Distinct batches, learned in turn.
        seed: Of ids, labels and first weights.
    """

    fields: int
    dim: int = 16
    batch_rows: int = 512
    rows: int = 10_000
    skew: float = 1.05
    batches: int = 3
    seed: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the fields."""
        return tuple(f"field_{place}" for place in range(self.fields))

    def ids(self) -> npt.NDArray[np.int64]:
        """Return ids (batches, fields, batch_rows): ranks under the law, spread so that neighbours are not alike."""
        shares = np.cumsum(np.arange(1, self.rows + 1, dtype=np.float64) ** -self.skew)
        draws = np.random.default_rng(self.seed).random((self.batches, self.fields, self.batch_rows)) * shares[-1]
        ranks = np.minimum(np.searchsorted(shares, draws, side="right"), self.rows - 1)
        spread: npt.NDArray[np.int64] = (ranks * 7919 + 13) % self.rows  # one to one unless 7919 divides the rows
        return spread

    def content(self) -> list[Batch]:
        """Return the batches; labels are drawn at random, because speed alone is asked here."""
        labels = np.random.default_rng([self.seed, 1]).random((self.batches, self.batch_rows)) < 0.3
        return [
            batch_of(dict(zip(self.names, torch.from_numpy(ids), strict=True)), torch.from_numpy(own).float())
            for ids, own in zip(self.ids(), labels, strict=True)
        ]

    def table(self, name: str, storage: Storage | None = None) -> TableConfig:
        """Return the settings of a field's table."""
        return TableConfig(name=name, dim=self.dim, rule=Adagrad(lr=LR, eps=EPS), seed=self.seed,
                           storage=storage or Storage())  # fmt: skip

    def learner(self, *, packed: bool = True, storage: Storage | None = None, micro_batches: int = 1) -> RankLearner:
        """Return a factorization machine over native tables that has learned nothing."""
        tables = {name: open_table(self.table(name, storage)) for name in self.names}
        embed = EmbeddingCollection(tables, [FeatureLookup(feature=each, table=each) for each in tables], packed=packed)
        model = self.network(embed)
        config = LearnerConfig(seed=self.seed, freshness=False, row_gradients="mean", micro_batches=micro_batches)
        return RankLearner(model, embed, torch.optim.Adagrad(model.parameters(), lr=LR), LogLoss(), config)

    def network(self, embed: nn.Module) -> FM:
        """Return the network: wide, and nearly without arithmetic of its own."""
        return FM(embed, self.names, 0, dim=self.dim, seed=self.seed)


def batch_of(ids: dict[str, Tensor], labels: Tensor) -> Batch:
    """Return examples of one id a field."""
    rows = len(labels)
    ends, whole, ones = torch.arange(rows + 1), torch.zeros(rows, dtype=torch.int64), torch.ones(rows)
    return Batch(
        ids={name: Jagged(column.contiguous(), ends) for name, column in ids.items()}, dense=torch.zeros(rows, 0),
        labels=labels, weights=ones, event_times=whole, accepted_times=whole, example_ids=torch.arange(rows),
        predictions=ones * float("nan"), versions=whole + NO_VERSION, sample_rates=ones,
    )  # fmt: skip


class TorchTables(nn.Module):
    """The trivial baseline: an `nn.Embedding` a field, with sparse gradients so that no step walks a whole table."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(work.seed)
        self.tables = nn.ModuleList(nn.Embedding(work.rows, work.dim, sparse=True) for _ in work.names)
        for parameter in self.tables.parameters():
            nn.init.uniform_(parameter, -0.01, 0.01, generator=draw)
        self.names = work.names

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the embedding of every field."""
        return {name: table(batch.ids[name].values) for name, table in zip(self.names, self.tables, strict=True)}


class ReadyRows(nn.Module):
    """The ablation: no tables at all, rows of the right shape that ask for gradients."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(work.seed)
        self.rows = {name: torch.empty(work.batch_rows, work.dim).uniform_(-0.01, 0.01, generator=draw).requires_grad_()
                     for name in work.names}  # fmt: skip

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the rows, whatever the ids are."""
        return self.rows
