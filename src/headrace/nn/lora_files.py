"""Adapters from and to folders as `peft` has them: `adapter_config.json` and `adapter_model.safetensors`.

Where our layers make several things at once, `peft` adapts each by itself; and of queries and keys the two numbers of a
pair lie half a head apart there, and side by side here. Nothing else differs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from headrace.config import require
from headrace.errors import ConfigError, CorruptSnapshot
from headrace.nn.causal import CausalTransformer
from headrace.nn.causal_files import halves, pairs
from headrace.nn.lora import LoRASettings, adapters, with_lora

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_THEIRS = {
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.out": ("self_attn.o_proj",), "units.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "units.down": ("mlp.down_proj",),
}  # fmt: skip
_UNUSED = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save", "layers_to_transform",
           "lora_bias", "fan_in_fan_out", "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config",
           "kasa_config", "layer_replication", "target_parameters", "trainable_token_indices")  # fmt: skip
"""Fields of a configuration that change what adapters compute, and are not followed here."""
_BEGINNINGS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Ways to begin adapters that leave the base model as it is. Others (PiSSA, OLoRA, CorDA, LoftQ) take from its weights
what the adapters hold at first, so that adapters alone do not say what was learned."""


def save_lora(model: CausalTransformer, folder: Path | str, *, base: str = "") -> Path:
    """Write a model's adapters as `peft` reads them; return the folder.

    The file of weights is put in place whole, or not at all.

    Args:
        model: One of ours, adapted with `with_lora`.
        folder: Where to.
        base: What `peft` is told the adapted model is: a name or a path.

    Raises:
        ConfigError: If the model has no adapters, or is of another class.
    """
    require(isinstance(model, CausalTransformer), "save_lora, model", got=type(model).__name__,
            expected="a CausalTransformer", do="Models of transformers are written by peft itself.")  # fmt: skip
    found, folder = list(adapters(model)), Path(folder)
    require(bool(found), "save_lora, model", got="no adapters", expected="a model adapted with with_lora")
    rank, scale = found[0][1].down.shape[1], found[0][1].scale
    tensors = {}
    for name, adapter in found:
        for part, (other, turned) in enumerate(_parts(name)):
            up = adapter.up[part].detach()
            up = halves(up, model.settings.head_width) if turned else up
            tensors[f"{_PREFIX}{other}.lora_A.weight"] = adapter.down[part].detach().contiguous().clone()
            tensors[f"{_PREFIX}{other}.lora_B.weight"] = up.contiguous().clone()
    targets = sorted({other.rpartition(".")[2] for name, _ in found for other, _ in _parts(name)})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": rank,
              "lora_alpha": scale * rank, "target_modules": targets, "lora_dropout": 0.0, "bias": "none",
              "fan_in_fan_out": False, "inference_mode": True}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{ADAPTER_WEIGHTS}.unfinished"
    safetensors.torch.save_file(tensors, str(temporary), metadata={"format": "pt"})
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, folder / ADAPTER_WEIGHTS)
    return folder


def load_lora(model: CausalTransformer, folder: Path | str) -> CausalTransformer:
    """Adapt a model in place with the adapters of a folder, and return it; they can be learned further, or merged.

    Args:
        model: One of ours, without adapters.
        folder: Holds `adapter_config.json` and safetensors, as `peft` writes them.

    Raises:
        ConfigError: If there are none, they are of a kind that computes something else, or they adapt a part of a layer
            that is one here.
        CorruptSnapshot: If a file is damaged, or does not fit the model.
    """
    folder = Path(folder)
    config, weights = _config(folder), _weights(folder)
    targets = config["target_modules"]
    layers = tuple(own.rpartition(".")[2] for own in _layers(targets))
    settings = LoRASettings(rank=int(config["r"]), alpha=float(config["lora_alpha"]), layers=layers)
    with_lora(model, settings)
    taken = set()
    with torch.no_grad():
        for name, adapter in adapters(model):
            for part, (other, turned) in enumerate(_parts(name)):
                for kind, target in (("A", adapter.down[part]), ("B", adapter.up[part])):
                    key = f"{_PREFIX}{other}.lora_{kind}.weight"
                    value = _fitting(weights, key, target, folder).float()
                    target.copy_(pairs(value, model.settings.head_width) if turned and kind == "B" else value)
                    taken.add(key)
    if left := sorted(set(weights) - taken):
        raise CorruptSnapshot(f"Adapters in {folder}", got=f"'{left[0]}' and {len(left) - 1} more tensors",
                              expected="adapters of this model's layers alone")  # fmt: skip
    return model


def _parts(name: str) -> Iterator[tuple[str, bool]]:
    """Yield the names that the parts of one of our layers have there, and whether rows of them are turned."""
    _, number, part = name.split(".", 2)
    for place, other in enumerate(_THEIRS[part]):
        yield f"model.layers.{number}.{other}", part == "attention.qkv" and place < 2


def _layers(targets: list[str]) -> list[str]:
    """Return our layers that are adapted."""
    found, wanted = [], set(targets)
    for own, others in _THEIRS.items():
        names = {other.rpartition(".")[2] for other in others}
        if names <= wanted:
            found.append(own)
            wanted -= names
    if wanted or not found:
        known = sorted(other.rpartition(".")[2] for others in _THEIRS.values() for other in others)
        raise ConfigError("Adapters, target_modules", got=str(sorted(targets)), expected=f"of {known}",
                          do="Queries, keys and values go together, and so do gates and ups.")  # fmt: skip
    return found


def _config(folder: Path) -> Mapping[str, Any]:
    path = folder / ADAPTER_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        fits = config["peft_type"] == "LORA" and isinstance(config["target_modules"], list)
        fits = fits and all(isinstance(target, str) for target in config["target_modules"])
        fits = fits and all(isinstance(config[name], (int, float)) for name in ("r", "lora_alpha"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        got = f"{type(error).__name__}: {error}"
        raise ConfigError(f"File {path}", got=got, expected="adapters of peft") from error
    require(fits, f"File {path}", got=str(config)[:200], expected="LoRA with a rank and names of layers")
    for name in _UNUSED:
        require(not config.get(name), f"File {path}, {name}", got=config.get(name), expected="nothing",
                do="Merge such adapters with peft, and load the whole model.")  # fmt: skip
    begun = config.get("init_lora_weights")
    require(begun in _BEGINNINGS, f"File {path}, init_lora_weights", got=begun, expected=f"one of {_BEGINNINGS}",
            do="Convert such adapters to plain ones with peft (path_initial_model_for_weight_conversion).")  # fmt: skip
    require(config.get("bias", "none") == "none", f"File {path}, bias", got=config.get("bias"), expected="none")
    return dict(config)


def _weights(folder: Path) -> dict[str, Tensor]:
    path = folder / ADAPTER_WEIGHTS
    require(path.is_file(), f"Folder {folder}", got="no weights", expected=ADAPTER_WEIGHTS,
            do="Only safetensors are read.")  # fmt: skip
    try:
        return safetensors.torch.load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise CorruptSnapshot(f"File {path}", got=str(error), expected="a whole safetensors file") from error


def _fitting(weights: Mapping[str, Tensor], key: str, target: Tensor, folder: Path) -> Tensor:
    found = weights.get(key)
    if found is None or found.shape != target.shape:
        got = "no such tensor" if found is None else f"shape {tuple(found.shape)}"
        raise CorruptSnapshot(f"Adapters in {folder}, '{key}'", got=got, expected=f"shape {tuple(target.shape)}")
    return found
