"""FBGEMM's table-batched embedding on the CPU, the one TorchRec trains with: all features in one call, fused update.

Options: `rule` is `adagrad` or `rowwise_adagrad`; `pooling` is `sum` (one bag per example and feature) or `none`;
`collisions` (default false) puts TorchRec's managed collision in front, which gives every arbitrary id a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fbgemm_gpu  # noqa: F401  (registers the operators)
import numpy as np
import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    OptimType,
    SplitTableBatchedEmbeddingBagsCodegen,
)

from table_contenders.protocol import serve
from table_contenders.workload import EPS, INITIAL_ACCUMULATOR, LR, Floats, Ids, Material

RULES = {"adagrad": OptimType.EXACT_ADAGRAD, "rowwise_adagrad": OptimType.EXACT_ROWWISE_ADAGRAD}


class Fbgemm:
    """One batched table, and ids packed by feature."""

    SPARE = 0
    """Rows of a feature beside those of its ids."""

    def __init__(self, material: Material, options: Mapping[str, Any]) -> None:
        torch.set_num_threads(options["threads"])
        work = material.work
        pooled = options["pooling"] == "sum"
        self._tables = SplitTableBatchedEmbeddingBagsCodegen(
            [(work.rows_each + self.SPARE, work.dim, EmbeddingLocation.HOST, ComputeDevice.CPU)] * work.features,
            optimizer=RULES[options["rule"]], learning_rate=LR, eps=EPS,
            pooling_mode=PoolingMode.SUM if pooled else PoolingMode.NONE,
        )  # fmt: skip
        pattern = torch.from_numpy(material.rows(0, work.rows_each))
        for weight in self._tables.split_embedding_weights():
            weight[: work.rows_each] = pattern
        for states in self._tables.split_optimizer_states():
            states[0].fill_(INITIAL_ACCUMULATOR)
        grads = torch.from_numpy(material.grads)
        self._grads = (grads.transpose(0, 1) if pooled else grads).reshape(
            work.batch if pooled else work.ids_per_step, -1
        )
        self._grads = self._grads.contiguous()
        self._ids = [torch.from_numpy(batch).reshape(-1) for batch in material.ids]
        self._offsets = torch.arange(work.ids_per_step + 1)

    def _forward(self, batch: int) -> torch.Tensor:
        out: torch.Tensor = self._tables(self._ids[batch], self._offsets)
        return out

    def train(self, batch: int) -> None:
        """Look up, go backward; the update is part of backward."""
        self._forward(batch).backward(self._grads)

    @torch.no_grad()
    def lookup(self, batch: int) -> None:
        """Look up one batch."""
        self._forward(batch)

    def rows(self, feature: int, ids: Ids) -> Floats:
        """Return rows of one feature."""
        weight = self._tables.split_embedding_weights()[feature]
        return np.asarray(weight.detach()[torch.from_numpy(ids)].numpy(), np.float32)

    def use_threads(self, count: int) -> None:
        """Set torch's threads."""
        torch.set_num_threads(count)


if __name__ == "__main__":
    serve(Fbgemm)
