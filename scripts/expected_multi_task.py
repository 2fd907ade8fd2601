"""Writes what other implementations of the models of several labels answer, with their weights: for a unit test.

Runs where FuxiCTR (with its model zoo) and DeepCTR-Torch are installed, not in this project's environment:

    python scripts/expected_multi_task.py --zoo FOLDER_OF_FUXICTR

Weights are written under the names that they have in `headrace.nn`; a matrix of an MLP keeps its layout.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from pathlib import Path

import torch

OUTPUT = Path(__file__).resolve().parents[1] / "tests" / "unit" / "nn" / "expected" / "multi_task.json"
SIZES, DIM, ROWS = {"user": 6, "item": 8, "place": 4}, 3, 12
HIDDEN, TOWERS, GATES, LABELS = [6, 5], [5], [3], ["click", "buy"]
DIGITS = 7


def plain(value: torch.Tensor) -> list:
    """Return a tensor as nested lists, rounded to what float32 holds."""
    if value.dim() == 0:
        return float(f"{value.item():.{DIGITS}g}")  # type: ignore[return-value]
    return [plain(row) for row in value.detach()]


def draw_weights(model: torch.nn.Module, seed: int) -> None:
    """Give every parameter values that a float32 text keeps, large enough that a wrong one shows."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((torch.randn(parameter.shape, generator=draw) * 0.6 * 1024).round() / 1024)


def fuxi_case(name: str, zoo: str) -> dict[str, object]:
    """Return ids, weights and probabilities of one model of FuxiCTR's multi-task zoo."""
    from fuxictr.features import FeatureMap

    sys.path.append(zoo)
    feature_map = FeatureMap("t", tempfile.mkdtemp())
    for feature, size in SIZES.items():
        feature_map.features[feature] = {"source": "", "type": "categorical", "padding_idx": 0, "vocab_size": size}
    feature_map.labels, feature_map.total_features = LABELS, sum(SIZES.values())
    feature_map.num_fields, feature_map.default_emb_dim = feature_map.get_num_fields(), DIM
    feature_map.set_column_index()
    family = {"SharedBottom": "ShareBottom"}.get(name, name)
    experts = {"expert_hidden_units": HIDDEN, "gate_hidden_units": GATES}
    own = {
        "SharedBottom": {"bottom_hidden_units": HIDDEN}, "MMoE": {**experts, "num_experts": 3},
        "PLE": {**experts, "num_shared_experts": 2, "num_specific_experts": 2, "num_layers": 2},
    }[name]  # fmt: skip
    kind = getattr(importlib.import_module(f"model_zoo.multitask.{family}.src"), family)
    model = kind(
        feature_map, gpu=-1, embedding_dim=DIM, task=["binary_classification"] * 2, num_tasks=2,
        tower_hidden_units=TOWERS, optimizer="adam", loss=["binary_crossentropy"] * 2, metrics=["AUC"], verbose=0,
        model_root=tempfile.mkdtemp(), **own,
    )  # fmt: skip
    draw_weights(model, seed=len(name))
    model.eval()
    draw = torch.Generator().manual_seed(1)
    ids = {feature: torch.randint(1, size, (ROWS,), generator=draw) for feature, size in SIZES.items()}
    answer = model({**ids, **{label: torch.zeros(ROWS) for label in LABELS}})
    state = model.state_dict()
    embeddings = {
        feature: next(value for key, value in state.items() if f".{feature}." in key and key.startswith("embedding"))
        for feature in SIZES
    }
    weights = {ours(key): value for key, value in state.items() if not key.startswith("embedding")}
    return {
        "ids": {feature: values.tolist() for feature, values in ids.items()}, "dense": [],
        "features": list(SIZES), "hidden": HIDDEN, "towers": TOWERS, "gates": GATES,
        "embeddings": {feature: plain(value) for feature, value in embeddings.items()},
        "weights": {key: plain(value) for key, value in weights.items() if not key.startswith("unused")},
        "probabilities": plain(torch.cat([answer[f"{label}_pred"] for label in LABELS], dim=1)),
    }  # fmt: skip


def ours(name: str) -> str:
    """Return the name that a parameter of FuxiCTR's has in `headrace.nn`."""
    parts = name.split(".")
    if parts[0] == "tower":
        return ".".join(["towers", parts[1], "layers", *parts[3:]])
    if parts[0] == "bottom":
        return ".".join(["bottom", *parts[2:]])
    head, rest = ("mixture", parts[1:]) if parts[0] == "mmoe_layer" else (f"levels.{parts[1]}", parts[2:])
    if rest[0] == "gate":
        # FuxiCTR's last level has a gate for shared experts that nobody reads; so has no model of ours.
        unread = head == "levels.1" and int(rest[1]) == len(LABELS)
        return ".".join(["unused" if unread else head, "gates", rest[1], "layers", *rest[3:]])
    if rest[0] == "specific_experts":
        return ".".join([head, "own", rest[1], rest[2], *rest[4:]])
    return ".".join([head, "shared", rest[1], *rest[3:]])


def deepctr_case(name: str) -> dict[str, object]:
    """Return ids, dense values, weights and probabilities of one model of DeepCTR-Torch."""
    from deepctr_torch import models
    from deepctr_torch.inputs import DenseFeat, SparseFeat

    columns = [SparseFeat(feature, size, DIM) for feature, size in SIZES.items()] + [DenseFeat("x", 2)]
    own = {
        "ESMM": {"tower_dnn_hidden_units": HIDDEN},
        "PLE": {
            "expert_dnn_hidden_units": HIDDEN, "gate_dnn_hidden_units": GATES, "tower_dnn_hidden_units": TOWERS,
            "shared_expert_num": 2, "specific_expert_num": 2, "num_levels": 2, "task_types": ("binary", "binary"),
        },
    }[name]  # fmt: skip
    model = getattr(models, name)(columns, task_names=LABELS, device="cpu", **own)
    draw_weights(model, seed=7)
    model.eval()
    draw = torch.Generator().manual_seed(2)
    ids = {feature: torch.randint(0, size, (ROWS,), generator=draw) for feature, size in SIZES.items()}
    dense = (torch.randn(ROWS, 2, generator=draw) * 64).round() / 64
    answer = model(torch.cat([torch.stack(list(ids.values()), dim=1).float(), dense], dim=1))
    state = model.state_dict()
    weights = esmm_weights(state) if name == "ESMM" else ple_weights(state)
    return {
        "ids": {feature: values.tolist() for feature, values in ids.items()}, "dense": plain(dense),
        "features": list(SIZES), "hidden": HIDDEN, "towers": [] if name == "ESMM" else TOWERS, "gates": GATES,
        "embeddings": {feature: plain(state[f"embedding_dict.{feature}.weight"]) for feature in SIZES},
        "weights": {key: plain(value) for key, value in weights.items()}, "probabilities": plain(answer),
    }  # fmt: skip


def layers(state: dict[str, torch.Tensor], theirs: str, to: str, count: int) -> dict[str, torch.Tensor]:
    """Return the weights of a DeepCTR-Torch network under our names; ours counts activations too."""
    return {
        f"{to}.{2 * layer}.{part}": state[f"{theirs}.linears.{layer}.{part}"]
        for layer in range(count)
        for part in ("weight", "bias")
    }


def esmm_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of DeepCTR-Torch's ESMM under our names."""
    weights = {}
    for task, tower in enumerate(("ctr_dnn", "cvr_dnn")):
        weights |= layers(state, tower, f"towers.{task}.layers", len(HIDDEN))
        last = f"towers.{task}.layers.{2 * len(HIDDEN)}"
        weights[f"{last}.weight"] = state[f"{tower}_final_layer.weight"]
        weights[f"{last}.bias"] = state["out.bias"]  # one prediction layer, with a bias, for both of its tasks
    return weights


def ple_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of DeepCTR-Torch's PLE under our names; its gates have no bias."""
    weights = {}

    def gate(theirs: str, last: str, to: str) -> dict[str, torch.Tensor]:
        found = layers(state, theirs, f"{to}.layers", len(GATES))
        output = state[f"{last}.weight"]
        place = f"{to}.layers.{2 * len(GATES)}"
        return found | {f"{place}.weight": output, f"{place}.bias": torch.zeros(len(output))}

    for level in range(2):
        for expert in range(2):
            to = f"levels.{level}.shared.{expert}"
            weights |= layers(state, f"shared_experts.{level}.0.{expert}", to, len(HIDDEN))
            for task in range(len(LABELS)):
                to = f"levels.{level}.own.{task}.{expert}"
                weights |= layers(state, f"specific_experts.{level}.{task}.{expert}", to, len(HIDDEN))
        for task in range(len(LABELS)):
            theirs, last = f"specific_gate_dnn.{level}.{task}.0", f"specific_gate_dnn_final_layer.{level}.{task}"
            weights |= gate(theirs, last, f"levels.{level}.gates.{task}")
    # nobody reads the shared gate of the last level
    weights |= gate("shared_gate_dnn.0", "shared_gate_dnn_final_layer.0", f"levels.0.gates.{len(LABELS)}")
    for task in range(len(LABELS)):
        weights |= layers(state, f"tower_dnn.{task}", f"towers.{task}.layers", len(TOWERS))
        last = f"towers.{task}.layers.{2 * len(TOWERS)}"
        weights[f"{last}.weight"] = state[f"tower_dnn_final_layer.{task}.weight"]
        weights[f"{last}.bias"] = state[f"out.{task}.bias"]
    return weights


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", required=True, help="folder of FuxiCTR's repository")
    zoo = parser.parse_args().zoo
    torch.set_num_threads(1)
    cases = {name: fuxi_case(name, zoo) for name in ("SharedBottom", "MMoE", "PLE")}
    cases |= {"PLE/paper": deepctr_case("PLE"), "ESMM": deepctr_case("ESMM")}
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(cases, indent=None, separators=(",", ":"), sort_keys=True) + "\n")
    print(f"wrote {OUTPUT} ({OUTPUT.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
