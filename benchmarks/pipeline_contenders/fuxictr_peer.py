"""FuxiCTR: a model of its zoo, its own loader of NumPy archives and its own training step. In the peers' environment.

Options: `workers` (processes of its loader; 0: it reads in the process that trains). No regularisation; Adagrad as
everywhere. Its `train_epoch` cannot stop after some steps, so its body stands here: next batch, `train_step`, `item`.
"""

from __future__ import annotations

import importlib
import itertools
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader
from fuxictr.pytorch.torch_utils import seed_everything

from pipeline_contenders.protocol import serve, timed
from pipeline_contenders.work import ARRAYS, EPS, LABEL, PAST, Case

sys.path.append(os.environ["FUXICTR_ZOO"])  # the folder that holds model_zoo

PLACES = {"DeepFM": "DeepFM.DeepFM_torch"}
"""Where a family stands that has a version for another library too."""


def feature_map(case: Case) -> FeatureMap:
    """Return FuxiCTR's description of the columns."""
    found = FeatureMap("case", tempfile.gettempdir())
    for name, size in case.sizes.items():
        found.features[name] = {"source": "", "type": "categorical", "padding_idx": 0, "vocab_size": size + 1}
    if case.target:
        found.features[PAST] = {"source": "", "type": "sequence", "padding_idx": 0, "max_len": case.longest,
                                "vocab_size": case.sizes[case.target] + 1, "share_embedding": case.target}  # fmt: skip
    for name in case.dense:
        found.features[name] = {"source": "", "type": "numeric"}
    found.labels, found.default_emb_dim = [LABEL], case.dim
    found.num_fields, found.total_features = found.get_num_fields(), sum(case.sizes.values())
    found.set_column_index()
    return found


class Archive(NpzDataLoader):
    """Its loader; numeric columns are handed over as the (rows, 1) that its DLRM concatenates."""

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        numeric = [name for name, told in self.told.features.items() if told["type"] == "numeric"]
        for batch in super().__iter__():
            yield {**batch, **{name: batch[name].float().view(-1, 1) for name in numeric}}


class Fuxi:
    """A model and its loader."""

    def __init__(self, case: Case, folder: Path, options: Mapping[str, Any]) -> None:
        logging.disable(logging.CRITICAL)
        torch.set_num_threads(options["threads"])
        seed_everything(1)
        told = feature_map(case)
        self._model = build(case, told)
        self._model.optimizer.defaults["eps"] = EPS
        self._model._max_gradient_norm = 10.0  # what `fit` sets
        self._model.train()
        tables = sum(p.numel() for name, p in self._model.named_parameters() if "embedding_layers" in name)
        self.weights = sum(p.numel() for p in self._model.parameters() if p.requires_grad) - tables
        Archive.told = told
        loader = Archive(told, str(folder / ARRAYS), batch_size=case.batch, shuffle=True,
                         num_workers=options["workers"])  # fmt: skip
        epochs = itertools.chain.from_iterable(itertools.repeat(loader))
        self._batches = (batch for batch in epochs if len(batch[LABEL]) == case.batch)

    def _step(self) -> None:
        self._model.train_step(next(self._batches)).item()

    def train(self, steps: int) -> float:
        """Make steps."""
        return timed(self._step, steps)


def build(case: Case, told: FeatureMap) -> Any:
    """Return the model with its initial weights."""
    module = importlib.import_module(f"model_zoo.{PLACES.get(case.model, case.model)}.src")
    hidden = list(case.hidden)
    own: dict[str, dict[str, Any]] = {
        "DLRM": {"top_mlp_units": hidden, "bottom_mlp_units": list(case.bottom)},
        "DeepFM": {"hidden_units": hidden},
        "DCNv2": {"parallel_dnn_hidden_units": hidden, "num_cross_layers": case.cross},
        "DIN": {"dnn_hidden_units": hidden, "attention_hidden_units": list(case.attention),
                "din_target_field": [case.target], "din_sequence_field": [PAST]},
    }  # fmt: skip
    return getattr(module, case.model)(
        told, model_id="case", gpu=-1, embedding_dim=case.dim, learning_rate=case.lr, optimizer="Adagrad",
        loss="binary_crossentropy", metrics=["AUC"], verbose=0, model_root=tempfile.gettempdir(), **own[case.model],
    )  # fmt: skip


if __name__ == "__main__":
    serve(Fuxi)
