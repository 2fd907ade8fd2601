"""TorchRec on the CPU: its embedding collections, its networks where it has one, and its input format.

Options: `fused` (the optimiser of the tables is part of FBGEMM's backward; without it torch's walks whole tables). It
has no reader for files like these: columns are in memory as one array, and a batch is one gather of random rows. DLRM
and the layers of DeepFM and DCNv2 are TorchRec's own; attention is not among its modules, so DIN's unit is written
here. Fused tables take widths that are multiples of 4, so DeepFM's rows are padded to 20; fused tables without pooling
do not run on CPUs, so history and target are looked up as bags of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, binary_cross_entropy_with_logits
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
from torchrec.models.dlrm import DLRM
from torchrec.modules.crossnet import CrossNet
from torchrec.modules.deepfm import FactorizationMachine
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
from torchrec.modules.mlp import MLP
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from pipeline_contenders.protocol import serve, timed
from pipeline_contenders.work import EPS, LABEL, LENGTH, PAST, Case


def bags(case: Case, options: Mapping[str, Any], dim: int, names: Sequence[str] | None = None) -> nn.Module:
    """Return the tables of all features, or of some."""
    tables = [EmbeddingBagConfig(name=f"table_{name}", embedding_dim=dim, num_embeddings=case.sizes[name] + 1,
                                 feature_names=[name]) for name in names or case.sizes]  # fmt: skip
    if not options["fused"]:
        return EmbeddingBagCollection(tables=tables)
    settings = {"lr": case.lr, "eps": EPS}
    return FusedEmbeddingBagCollection(tables=tables, optimizer_type=torch.optim.Adagrad, optimizer_kwargs=settings)


def hidden(inputs: int, widths: tuple[int, ...]) -> nn.Module:
    """Return rectified layers and a linear output."""
    return nn.Sequential(MLP(inputs, list(widths)), nn.Linear(widths[-1], 1))


class Deep(nn.Module):
    """DeepFM: a factorization machine and a deep part; column 0 of a row is its first-order weight."""

    def __init__(self, case: Case, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.tables, self.fields, self.dim = bags(case, options, case.dim + 4), len(case.sizes), case.dim
        self.machine, self.deep = FactorizationMachine(), hidden(self.fields * case.dim, case.hidden)

    def forward(self, dense: Tensor, ids: KeyedJaggedTensor) -> Tensor:
        """Return logits (B, 1)."""
        rows = self.tables(ids).values().unflatten(1, (self.fields, self.dim + 4))
        factors = rows[:, :, 1 : self.dim + 1]
        return rows[:, :, 0].sum(1, keepdim=True) + self.machine([factors]) + self.deep(factors.flatten(1))


class Crossed(nn.Module):
    """DCNv2, its parts side by side."""

    def __init__(self, case: Case, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.tables, width = bags(case, options, case.dim), len(case.sizes) * case.dim
        self.cross, self.deep = CrossNet(width, case.cross), MLP(width, list(case.hidden))
        self.output = nn.Linear(width + case.hidden[-1], 1)

    def forward(self, dense: Tensor, ids: KeyedJaggedTensor) -> Tensor:
        """Return logits (B, 1)."""
        flat = self.tables(ids).values()
        found: Tensor = self.output(torch.cat([self.cross(flat), self.deep(flat)], dim=1))
        return found


class Dice(nn.Module):
    """DIN's activation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the activations."""
        share = torch.sigmoid(batch_norm(inputs, self.mean, self.variance, training=True, momentum=0.01, eps=1e-8))
        return inputs * (share + (1.0 - share) * self.slope)


class Interest(nn.Module):
    """DIN: attention of the target over the history, on the entries that are there."""

    def __init__(self, case: Case, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.others, self.target = [name for name in case.sizes if name != case.target], case.target
        self.tables = bags(case, options, case.dim, self.others)
        self.shared = bags(case, options, case.dim, [case.target])
        (width,) = case.attention
        self.unit = nn.Sequential(nn.Linear(4 * case.dim, width), Dice(width), nn.Linear(width, 1))
        self.deep = hidden((len(case.sizes) + 1) * case.dim, case.hidden)

    def forward(self, dense: Tensor, ids: KeyedJaggedTensor) -> Tensor:
        """Return logits (B, 1)."""
        by_name = ids.to_dict()
        past, lengths = by_name[PAST].values(), by_name[PAST].lengths()
        both = torch.cat([by_name[self.target].values(), past])
        single = KeyedJaggedTensor(keys=[self.target], values=both, lengths=torch.ones_like(both))
        target, entries = self.shared(single).values().split([len(lengths), len(past)])
        owner = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        own = target.index_select(0, owner)
        weight = self.unit(torch.cat([own, entries, own - entries, own * entries], dim=1))
        summed = torch.zeros_like(target).index_add(0, owner, weight * entries)
        logits: Tensor = self.deep(torch.cat([self.tables(others(ids, self.others)).values(), target, summed], dim=1))
        return logits


def others(ids: KeyedJaggedTensor, names: list[str]) -> KeyedJaggedTensor:
    """Return some of the features."""
    by_name = ids.to_dict()
    return KeyedJaggedTensor(keys=names, values=torch.cat([by_name[name].values() for name in names]),
                             lengths=torch.cat([by_name[name].lengths() for name in names]))  # fmt: skip


def build(case: Case, options: Mapping[str, Any]) -> nn.Module:
    """Return the model of a case."""
    if case.model == "DLRM" and case.dense:
        return DLRM(bags(case, options, case.dim), len(case.dense), [*case.bottom, case.dim], [*case.hidden, 1])
    return {"DLRM": Pairs, "DeepFM": Deep, "DCNv2": Crossed, "DIN": Interest}[case.model](case, options)


class Pairs(nn.Module):
    """DLRM without dense columns, which TorchRec's own does not allow."""

    def __init__(self, case: Case, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.tables, self.fields, self.dim = bags(case, options, case.dim), len(case.sizes), case.dim
        self.places = torch.triu_indices(self.fields, self.fields, offset=1)
        self.top = hidden(self.places.shape[1], case.hidden)

    def forward(self, dense: Tensor, ids: KeyedJaggedTensor) -> Tensor:
        """Return logits (B, 1)."""
        vectors = self.tables(ids).values().unflatten(1, (self.fields, self.dim))
        found: Tensor = self.top(torch.bmm(vectors, vectors.transpose(1, 2))[:, self.places[0], self.places[1]])
        return found


class TorchRec:
    """The model, and columns in memory."""

    def __init__(self, case: Case, folder: Path, options: Mapping[str, Any]) -> None:
        torch.set_num_threads(options["threads"])
        torch.manual_seed(1)
        self._case, self._model = case, build(case, options)
        mine = [(name, p) for name, p in self._model.named_parameters() if "embedding" not in name]
        self.weights = sum(p.numel() for _, p in mine)
        learned = [p for _, p in mine] if options["fused"] else list(self._model.parameters())
        self._optimizer = torch.optim.Adagrad(learned, lr=case.lr, eps=EPS)
        columns = case.columns(folder)
        self._labels = torch.from_numpy(columns[LABEL])
        self._ids = torch.from_numpy(np.stack([columns[name] for name in case.sizes], axis=1))
        dense = [columns[name] for name in case.dense]
        self._dense = torch.from_numpy(np.stack(dense, axis=1)) if dense else torch.zeros(len(self._labels), 0)
        self._past = torch.from_numpy(columns[PAST]) if case.target else None
        self._lengths = torch.from_numpy(columns[LENGTH]) if case.target else None
        self._order, self._at = torch.randperm(len(self._labels)), 0

    def _batch(self) -> tuple[Tensor, KeyedJaggedTensor, Tensor]:
        """Return the next batch of a random order."""
        size = self._case.batch
        if self._at + size > len(self._order):
            self._order, self._at = torch.randperm(len(self._order)), 0
        places = self._order[self._at : self._at + size]
        self._at += size
        values = self._ids.index_select(0, places).t().reshape(-1)
        lengths = torch.ones(len(values), dtype=torch.int64)
        if self._past is not None and self._lengths is not None:
            own = self._lengths.index_select(0, places)
            mask = torch.arange(self._past.shape[1]) < own.unsqueeze(1)
            values = torch.cat([values, self._past.index_select(0, places)[mask]])
            lengths = torch.cat([lengths, own])
        ids = KeyedJaggedTensor(keys=self._case.lookups, values=values, lengths=lengths)
        return self._dense.index_select(0, places), ids, self._labels.index_select(0, places)

    def _step(self) -> None:
        dense, ids, labels = self._batch()
        self._optimizer.zero_grad(set_to_none=True)
        binary_cross_entropy_with_logits(self._model(dense, ids).squeeze(1), labels).backward()
        self._optimizer.step()

    def train(self, steps: int) -> float:
        """Make steps."""
        return timed(self._step, steps)


if __name__ == "__main__":
    serve(TorchRec)
