"""Writes what other implementations of the field models answer, with their weights: for the unit tests of `nn`.

Runs where FuxiCTR (with its model zoo) and DeepCTR-Torch are installed, not in this project's environment:

    python scripts/expected_nn.py --zoo FOLDER_OF_FUXICTR

One small file per model: its weights under the other implementation's own names, inputs, and logits. The tests copy
the weights over; so what is compared is the computation and nothing else.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "unit" / "nn" / "expected"
SIZES, NUMBERS, DIM, ROWS = {"user": 5, "item": 7, "place": 4}, ("price", "age"), 3, 6
ZOO = {"DCN": "DCN.DCN_torch", "DeepFM": "DeepFM.DeepFM_torch", "WideDeep": "WideDeep.WideDeep_torch"}
DEEP = {"hidden_units": [5, 4]}

# file -> (model of FuxiCTR, whether it reads numbers, its settings). Its numbers become embeddings everywhere; where
# this project takes them as plain inputs of a cross network the two are different models, and numbers stay out.
FUXICTR: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "lr": ("LR", True, {}),
    "fm": ("FM", True, {}),
    "ffm": ("FFM", True, {}),
    "fwfm": ("FwFM", True, {}),
    "wide_deep": ("WideDeep", True, DEEP),
    "deepfm": ("DeepFM", True, DEEP),
    "deepfm_batch_norm": ("DeepFM", True, {**DEEP, "batch_norm": True}),
    "xdeepfm": ("xDeepFM", True, {"dnn_hidden_units": [5, 4], "cin_hidden_units": [6, 3]}),
    "dcn": ("DCN", False, {"dnn_hidden_units": [5, 4], "num_cross_layers": 2}),
    "dcnv2": ("DCNv2", False, {"parallel_dnn_hidden_units": [5, 4], "num_cross_layers": 2}),
    "dcnv2_stacked": (
        "DCNv2", False,
        {"model_structure": "stacked", "stacked_dnn_hidden_units": [5, 4], "num_cross_layers": 2},
    ),
    "dcnv2_mixture": (
        "DCNv2", False,
        {"parallel_dnn_hidden_units": [5, 4], "num_cross_layers": 2, "use_low_rank_mixture": True, "low_rank": 2,
         "num_experts": 3},
    ),
    "autoint": (
        "AutoInt", True, {"dnn_hidden_units": [], "attention_layers": 2, "num_heads": 2, "attention_dim": 4}
    ),
    "autoint_plus": (
        "AutoInt", True,
        {"dnn_hidden_units": [5, 4], "attention_layers": 2, "num_heads": 1, "attention_dim": 4, "use_scale": True},
    ),
}  # fmt: skip
# The models of DeepCTR-Torch take numbers as plain inputs, as ours do.
DEEPCTR: dict[str, tuple[str, dict[str, Any]]] = {
    "dcn_numbers": ("DCN", {"dnn_hidden_units": (5, 4), "cross_num": 2}),
    "dcnv2_numbers": ("DCN", {"dnn_hidden_units": (5, 4), "cross_num": 2, "cross_parameterization": "matrix"}),
}


def draw_weights(model: torch.nn.Module, seed: int) -> None:
    """Give parameters and running statistics values that are large enough for a wrong one to show."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.is_floating_point():
                drawn = (torch.randn(value.shape, generator=draw) * 0.6 * 1024).round() / 1024
                value.copy_(drawn.abs() + 0.25 if name.endswith("running_var") else drawn)


def draw_inputs(numbers: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Return ids (id 0 is FuxiCTR's padding and not used) and numbers."""
    draw = torch.Generator().manual_seed(1)
    ids = {name: torch.randint(1, size, (ROWS,), generator=draw) for name, size in SIZES.items()}
    drawn = {name: (torch.randn(ROWS, generator=draw) * 64).round() / 64 for name in numbers}
    return {**ids, **drawn}


def write(name: str, model: torch.nn.Module, inputs: dict[str, torch.Tensor], logits: torch.Tensor) -> None:
    """Write one model's weights, inputs and logits."""
    content = {
        "logit": plain(logits.detach().double().reshape(-1)), "inputs": {key: plain(v) for key, v in inputs.items()},
        "weights": {key: plain(value) for key, value in model.state_dict().items()},
    }  # fmt: skip
    (FOLDER / f"{name}.json").write_text(json.dumps(content) + "\n", encoding="utf-8")
    print(f"{name}: {len(content['weights'])} tensors, logits {logits.min():.3f} to {logits.max():.3f}")


def plain(value: torch.Tensor) -> object:
    """Return a tensor as nested lists, with the digits that float32 has."""
    return [plain(row) for row in value] if value.dim() else json.loads(f"{value.item():.9g}")


def fuxictr(name: str) -> None:
    """Write one model of FuxiCTR's zoo, computed in float32, which its embeddings insist on."""
    from fuxictr.features import FeatureMap

    kind, with_numbers, settings = FUXICTR[name]
    numbers = NUMBERS if with_numbers else ()
    feature_map = FeatureMap("expected", tempfile.mkdtemp())
    for feature, size in SIZES.items():
        feature_map.features[feature] = {"source": "", "type": "categorical", "padding_idx": 0, "vocab_size": size}
    for number in numbers:
        feature_map.features[number] = {"source": "", "type": "numeric"}
    feature_map.labels, feature_map.total_features = ["label"], sum(SIZES.values()) + len(numbers)
    feature_map.num_fields, feature_map.default_emb_dim = feature_map.get_num_fields(), DIM
    feature_map.set_column_index()
    family = getattr(importlib.import_module(f"model_zoo.{ZOO.get(kind, kind)}.src"), kind)
    model = family(
        feature_map, gpu=-1, embedding_dim=DIM, optimizer="adam", loss="binary_crossentropy", metrics=["AUC"],
        verbose=0, model_root=tempfile.mkdtemp(), **settings,
    )  # fmt: skip
    draw_weights(model, seed=len(name))
    inputs = draw_inputs(numbers)
    model.output_activation = torch.nn.Identity()  # the logit itself: a probability in float32 has lost digits of it
    write(name, model.eval(), inputs, model({**inputs, "label": torch.zeros(ROWS)})["y_pred"])


def deepctr(name: str) -> None:
    """Write one model of DeepCTR-Torch, computed in float64."""
    from deepctr_torch import models
    from deepctr_torch.inputs import DenseFeat, SparseFeat

    kind, settings = DEEPCTR[name]
    columns = [SparseFeat(feature, size, DIM) for feature, size in SIZES.items()]
    columns += [DenseFeat(number, 1) for number in NUMBERS]
    model = getattr(models, kind)([], columns, device="cpu", **settings)
    draw_weights(model, seed=len(name))
    inputs = draw_inputs(NUMBERS)
    matrix = torch.stack([value.double() for value in inputs.values()], dim=1)
    write(name, model.double().eval(), inputs, torch.logit(model(matrix)))


def main() -> None:
    """Write all files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", required=True, help="FuxiCTR's repository, which holds model_zoo")
    parser.add_argument("--only", nargs="*", help="names of files, without .json")
    arguments = parser.parse_args()
    sys.path.append(arguments.zoo)
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for names, one in ((FUXICTR, fuxictr), (DEEPCTR, deepctr)):
        for name in names:
            if not arguments.only or name in arguments.only:
                one(name)


if __name__ == "__main__":
    main()
