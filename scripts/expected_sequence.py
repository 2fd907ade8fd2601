"""Writes what other implementations answer, with their weights, for the unit tests of models that `expected_nn` leaves.

Those are DLRM, MaskNet, FinalMLP, GDCN and the models over histories. Runs where FuxiCTR (with its model zoo) is
installed, not in this project's environment, and beside the PyTorch port of SASRec that its authors point to:

    python scripts/expected_sequence.py --zoo FOLDER_OF_FUXICTR --sasrec FOLDER_OF_SASREC_PYTORCH
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from expected_nn import DIM, NUMBERS, SIZES, draw_inputs, draw_weights, write

LENGTH, WIDTH, ROWS = 5, 4, 6
DEEP = {"dnn_hidden_units": [5, 4]}
PAST = [[1, 2, 3], [], [4], [5, 6, 1, 2, 1], [2, 2], [3, 6]]
REFUSED = [[4, 5, 6], [], [1], [2, 3, 4, 5, 6], [1, 3], [1, 2]]

# file -> (model of FuxiCTR, whether it reads numbers, its settings)
FIELDS: dict[str, tuple[str, str, bool, dict[str, Any]]] = {
    "dlrm": ("DLRM", "DLRM", True, {"top_mlp_units": [5, 4], "bottom_mlp_units": [6]}),
    "masknet": ("MaskNet", "MaskNet", True, {"dnn_hidden_units": [5, 4], "reduction_ratio": 0.5}),
    "masknet_parallel": (
        "MaskNet", "MaskNet", True,
        {**DEEP, "model_type": "ParallelMaskNet", "parallel_num_blocks": 2, "parallel_block_dim": 6},
    ),
    "finalmlp": (
        "FinalMLP", "FinalMLP", False,
        {"mlp1_hidden_units": [5, 4], "mlp2_hidden_units": [6], "fs_hidden_units": [3], "num_heads": 2},
    ),
    "gdcn": ("GDCN", "GDCN", False, {**DEEP, "num_cross_layers": 2}),
    "gdcn_parallel": ("GDCN", "GDCNP", False, {**DEEP, "num_cross_layers": 2}),
}  # fmt: skip
HISTORIES: dict[str, tuple[str, dict[str, Any]]] = {
    "din": ("DIN", {**DEEP, "attention_hidden_units": [4]}),
    "din_softmax": ("DIN", {**DEEP, "attention_hidden_units": [4], "din_use_softmax": True}),
    "dien": ("DIEN", {**DEEP, "batch_norm": False, "aux_loss_alpha": 1.0, "aux_hidden_units": [4]}),
    "bst": ("BST", {**DEEP, "stacked_transformer_layers": 2, "num_heads": 2}),
    "bst_target": ("BST", {**DEEP, "num_heads": 4, "seq_pooling_type": "target"}),
}


def build(
    name: str, kind: str, folder: str, dim: int, features: dict[str, dict[str, Any]], settings: dict[str, Any]
) -> torch.nn.Module:
    """Return a model of FuxiCTR's zoo with drawn weights; as a regression, so that it answers with the logit."""
    from fuxictr.features import FeatureMap

    feature_map = FeatureMap("expected", tempfile.mkdtemp())
    feature_map.features.update(features)
    feature_map.labels, feature_map.default_emb_dim = ["label"], dim
    feature_map.num_fields, feature_map.total_features = feature_map.get_num_fields(), 100
    feature_map.set_column_index()
    model: torch.nn.Module = getattr(importlib.import_module(f"model_zoo.{folder}.src"), kind)(
        feature_map, gpu=-1, embedding_dim=dim, optimizer="adam", loss="mse_loss", metrics=["AUC"], verbose=0,
        task="regression", model_root=tempfile.mkdtemp(), **settings,
    )  # fmt: skip
    draw_weights(model, seed=sum(map(ord, name)))
    with torch.no_grad():  # what is padding stays zero
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                module.weight[0] = 0.0
    return model.eval()


def category(size: int, **more: Any) -> dict[str, Any]:
    """Return FuxiCTR's description of an id feature."""
    return {"source": "", "type": "categorical", "padding_idx": 0, "vocab_size": size, **more}


def field_model(name: str) -> None:
    """Write one model over fields."""
    folder, kind, with_numbers, settings = FIELDS[name]
    numbers = NUMBERS if with_numbers else ()
    features = {feature: category(size) for feature, size in SIZES.items()}
    features |= {number: {"source": "", "type": "numeric"} for number in numbers}
    model, inputs = build(name, kind, folder, DIM, features, settings), draw_inputs(numbers)
    ready = {name: value.unsqueeze(1) if name in numbers else value for name, value in inputs.items()}
    write(name, model, inputs, model({**ready, "label": torch.zeros(ROWS)})["y_pred"])


def padded(lists: list[list[int]], *, front: bool) -> torch.Tensor:
    """Return the lists as (B, LENGTH), zeros in front or behind."""
    rows = [[0] * (LENGTH - len(one)) + one if front else one + [0] * (LENGTH - len(one)) for one in lists]
    return torch.tensor(rows)


def history_model(name: str) -> None:
    """Write one model over histories; with padding where that model wants it."""
    kind, settings = HISTORIES[name]
    short = kind.lower()
    sequence = {"source": "", "type": "sequence", "padding_idx": 0, "vocab_size": SIZES["item"], "max_len": LENGTH}
    features = {"user": category(SIZES["user"]), "item": category(SIZES["item"])}
    features["past"] = {**sequence, "share_embedding": "item"}
    inputs = {key: value for key, value in draw_inputs(()).items() if key in features}
    inputs["past"] = padded(PAST, front=kind == "BST")
    if kind == "DIEN":
        features["refused"] = {**sequence, "share_embedding": "item"}
        inputs["refused"] = padded(REFUSED, front=False)
        settings = {**settings, "dien_neg_seq_field": ["refused"]}
    settings = {**settings, f"{short}_target_field": ["item"], f"{short}_sequence_field": ["past"]}
    model = build(name, kind, kind, WIDTH, features, settings)
    answer = model({**inputs, "label": torch.zeros(ROWS)})
    if kind == "DIEN":
        inputs["auxiliary"] = next_click_loss(model, answer).detach()
    write(name, model, inputs, answer["y_pred"])


def next_click_loss(model: torch.nn.Module, answer: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the mean log-loss of DIEN's auxiliary network over real transitions, from its own probabilities."""
    losses = []
    follows = answer["pad_mask"][:, 1:]
    for embedded, label in ((answer["pos_emb"], 1.0), (answer["neg_emb"], 0.0)):
        both = torch.cat([answer["interest_emb"][:, :-1], embedded[:, 1:]], dim=-1)[follows]
        chance = model.aux_net(both).double()
        losses.append(-torch.log(chance if label else 1.0 - chance))
    return torch.cat(losses).mean().float()


def sasrec(folder: str) -> None:
    """Write SASRec, each history without padding, because that port lets padding be attended to."""
    sys.path.append(str(Path(folder) / "python"))
    module = importlib.import_module("model")
    settings = SimpleNamespace(
        device="cpu", norm_first=True, hidden_units=WIDTH, maxlen=LENGTH, dropout_rate=0.0, num_blocks=2, num_heads=2
    )
    model = module.SASRec(0, SIZES["item"] - 1, settings)
    draw_weights(model, seed=3)
    with torch.no_grad():
        model.item_emb.weight[0] = 0.0
        model.pos_emb.weight[0] = 0.0
    inputs = {"item": draw_inputs(())["item"], "past": padded(PAST, front=False)}
    logits = [  # no history: nothing to go by, a score of 0
        model.predict(None, torch.tensor([past]).numpy(), item.unsqueeze(0))[0, 0] if past else torch.tensor(0.0)
        for past, item in zip(PAST, inputs["item"], strict=True)
    ]
    write("sasrec", model.eval(), inputs, torch.stack(logits))


def main() -> None:
    """Write all files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", required=True, help="FuxiCTR's repository, which holds model_zoo")
    parser.add_argument("--sasrec", required=True, help="SASRec.pytorch's repository, which holds python/model.py")
    arguments = parser.parse_args()
    sys.path.append(arguments.zoo)
    torch.set_num_threads(1)
    for name in FIELDS:
        field_model(name)
    for name in HISTORIES:
        history_model(name)
    sasrec(arguments.sasrec)


if __name__ == "__main__":
    main()
