"""DeepCTR-Torch: its models and its own `fit`. Runs in the peers' environment.

No regularisation (by default it adds an L2 term over all tables); Adagrad as everywhere; `verbose=0`, so no metric is
computed per batch. It has no DLRM: one is put together here from its own parts. `fit` knows epochs only, so a number of
steps is an epoch over as many rows, and a callback takes the time between its beginning and its end.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepctr_torch.callbacks import Callback
from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat
from deepctr_torch.layers import DNN
from deepctr_torch.layers.interaction import InnerProductLayer
from deepctr_torch.models import DCN, DIN, DeepFM
from deepctr_torch.models.basemodel import BaseModel

from pipeline_contenders.protocol import serve
from pipeline_contenders.work import EPS, LABEL, LENGTH, PAST, Case

PLAIN = {"l2_reg_linear": 0.0, "l2_reg_embedding": 0.0}


class DLRM(BaseModel):
    """DLRM of DeepCTR-Torch's parts: its embeddings, its `DNN`, the inner products of its PNN."""

    def __init__(self, columns: list[Any], case: Case) -> None:
        super().__init__([], columns, **PLAIN)
        vectors = len(case.sizes) + int(bool(case.dense))
        self.bottom = DNN(len(case.dense), (*case.bottom, case.dim)) if case.dense else None
        self.products = InnerProductLayer()
        width = vectors * (vectors - 1) // 2 + (case.dim if case.dense else 0)
        self.top, self.output = DNN(width, case.hidden), torch.nn.Linear(case.hidden[-1], 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return probabilities (B, 1)."""
        vectors, dense = self.input_from_feature_columns(inputs, self.dnn_feature_columns, self.embedding_dict)
        below = [] if self.bottom is None else [self.bottom(torch.cat(dense, dim=1))]
        pairs = self.products([*vectors, *(each.unsqueeze(1) for each in below)]).flatten(1)
        found: torch.Tensor = self.out(self.output(self.top(torch.cat([pairs, *below], dim=1))))
        return found


def build(case: Case) -> BaseModel:
    """Return the model of a case."""
    columns: list[Any] = [SparseFeat(name, size + 1, embedding_dim=case.dim) for name, size in case.sizes.items()]
    if case.target:
        size = case.sizes[case.target] + 1
        past = SparseFeat(f"hist_{case.target}", size, embedding_dim=case.dim, embedding_name=case.target)
        columns.append(VarLenSparseFeat(past, maxlen=case.longest, length_name=LENGTH))
    columns += [DenseFeat(name, 1) for name in case.dense]
    if case.model == "DLRM":
        return DLRM(columns, case)
    if case.model == "DeepFM":
        return DeepFM(columns, columns, dnn_hidden_units=case.hidden, **PLAIN)
    if case.model == "DCNv2":
        return DCN([], columns, cross_num=case.cross, cross_parameterization="matrix", dnn_hidden_units=case.hidden,
                   l2_reg_cross=0.0, **PLAIN)  # fmt: skip
    return DIN(columns, [case.target], dnn_hidden_units=case.hidden, att_hidden_size=case.attention,
               l2_reg_embedding=0.0)  # fmt: skip


class Watch(Callback):
    """Takes the time of an epoch."""

    seconds = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start."""
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stop."""
        self.seconds = time.perf_counter() - self._began


class DeepCtr:
    """A model and its columns in memory."""

    def __init__(self, case: Case, folder: Path, options: Mapping[str, Any]) -> None:
        torch.set_num_threads(options["threads"])
        self._model, self._batch = build(case), case.batch
        tables = ("embedding_dict", "linear_model")
        mine = [p for name, p in self._model.named_parameters() if not name.startswith(tables)]
        self.weights = sum(p.numel() for p in mine)
        optimizer = torch.optim.Adagrad(self._model.parameters(), lr=case.lr, eps=EPS)
        self._model.compile(optimizer, "binary_crossentropy")
        columns = case.columns(folder)
        self._labels = columns.pop(LABEL)
        if case.target:
            columns[f"hist_{case.target}"] = columns.pop(PAST)
        self._columns, self._at = columns, 0

    def train(self, steps: int) -> float:
        """Make steps."""
        rows, watch = steps * self._batch, Watch()
        places = np.arange(self._at, self._at + rows) % len(self._labels)
        self._at += rows
        inputs = {name: column[places] for name, column in self._columns.items()}
        self._model.fit(inputs, self._labels[places], batch_size=self._batch, epochs=1, verbose=0, callbacks=[watch])
        return watch.seconds


if __name__ == "__main__":
    serve(DeepCtr)
