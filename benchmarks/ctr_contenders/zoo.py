"""FuxiCTR's side: a model of its zoo, trained step by step as its own trainer does. Runs in the peers' environment.

The model, its initial weights, its loss, the clip of the gradient norm and the optimiser are FuxiCTR's. Prepared ids
are handed over as tensors, so that its data loaders (a row of NumPy at a time) do not decide how long a cell takes.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile
import time
from typing import Any

import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.torch_utils import seed_everything

from ctr_contenders.cell import LABEL, PARTS, Cell, answer, orders

sys.path.append(os.environ["FUXICTR_ZOO"])  # the folder that holds model_zoo

SCORE_ROWS = 8192
PLACES = {"WideDeep": "WideDeep.WideDeep_torch", "DeepFM": "DeepFM.DeepFM_torch", "DCN": "DCN.DCN_torch"}
"""Where a family stands that has a version for another library too."""

HIDDEN = {
    "WideDeep": ("hidden_units",), "DeepFM": ("hidden_units",), "xDeepFM": ("dnn_hidden_units",),
    "DCN": ("dnn_hidden_units",), "DCNv2": ("parallel_dnn_hidden_units",), "AutoInt": ("dnn_hidden_units",),
    "DLRM": ("top_mlp_units",), "MaskNet": ("dnn_hidden_units",), "GDCN": ("dnn_hidden_units",),
    "FinalMLP": ("mlp1_hidden_units", "mlp2_hidden_units"),
}  # fmt: skip
"""What a family calls the widths of its deep part."""


def feature_map(sizes: dict[str, int], dim: int) -> FeatureMap:
    """Return FuxiCTR's description of the prepared columns."""
    found = FeatureMap("cell", tempfile.gettempdir())
    for name, size in sizes.items():
        found.features[name] = {"source": "", "type": "categorical", "padding_idx": 0, "vocab_size": size}
    found.labels, found.default_emb_dim = [LABEL], dim
    found.num_fields, found.total_features = found.get_num_fields(), sum(sizes.values())
    found.set_column_index()
    return found


def build(cell: Cell) -> Any:
    """Return the model with its initial weights."""
    module = importlib.import_module(f"model_zoo.{PLACES.get(cell.model, cell.model)}.src")
    settings = {name: list(cell.hidden) for name in HIDDEN.get(cell.model, ())}
    return getattr(module, cell.own.get("class", cell.model))(
        feature_map(cell.sizes(), cell.dim), model_id="cell", gpu=-1, embedding_dim=cell.dim, learning_rate=cell.lr,
        optimizer="adam", loss="binary_crossentropy", metrics=["AUC", "logloss"], verbose=0,
        model_root=tempfile.gettempdir(), **settings, **cell.own.get("settings", {}),
    )  # fmt: skip


def batches(columns: dict[str, torch.Tensor], rows: int, order: torch.Tensor | None) -> Any:
    """Yield batches as FuxiCTR's loaders do."""
    total = len(columns[LABEL])
    for start in range(0, total, rows):
        places = slice(start, start + rows) if order is None else order[start : start + rows]
        yield {name: column[places] for name, column in columns.items()}


def train(cell: Cell) -> dict[str, Any]:
    """Train a cell."""
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    seed_everything(cell.seed)
    parts = {part: {name: torch.from_numpy(column) for name, column in cell.columns(part).items()} for part in PARTS}
    model = build(cell)
    model._max_gradient_norm = 10.0  # what `fit` sets
    result: dict[str, Any] = {"valid": [], "test": [], "test_log_loss": [], "fit_s": 0.0, "score_s": 0.0}
    rows = len(parts["train"][LABEL])
    for epoch in range(cell.epochs):
        began = time.perf_counter()
        model.train()
        for batch in batches(parts["train"], cell.batch, torch.from_numpy(orders(rows, cell.seed, epoch))):
            model.train_step(batch)
        result["fit_s"] += time.perf_counter() - began
        began = time.perf_counter()
        found = {part: model.evaluate(list(batches(parts[part], SCORE_ROWS, None))) for part in ("valid", "test")}
        result["score_s"] += time.perf_counter() - began
        for part, numbers in found.items():
            result[part].append(float(numbers["AUC"]))
        result["test_log_loss"].append(float(found["test"]["logloss"]))
    result["parameters"] = sum(p.numel() for p in model.parameters())
    return result


if __name__ == "__main__":
    answer(train)
