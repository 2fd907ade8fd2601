"""Language models from and to folders as `transformers` has them: `config.json` and safetensors, nothing that runs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from headrace.errors import ConfigError, CorruptSnapshot
from headrace.nn.causal import CausalTransformer
from headrace.nn.causal_settings import CausalSettings
from headrace.nn.lora import merged_weights

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
FAMILY = ("llama", "mistral", "qwen2", "qwen3")
"""Kinds of models (`model_type`) that our own implementation computes, where they use nothing beyond it."""


def causal_settings(config: Mapping[str, Any]) -> CausalSettings | str:
    """Return the sizes of a model described by a `config.json`, or why our own implementation cannot compute it.

    A sliding window becomes the longest sequence: up to there it hides nothing.
    """
    kind = config.get("model_type")
    if kind not in FAMILY:
        return f"model_type {kind!r}"
    rotary = config.get("rope_parameters") or config.get("rope_scaling") or {}
    scaling = rotary.get("rope_type", rotary.get("type", "default"))
    biased = kind == "qwen2" or bool(config.get("attention_bias", False))
    for what, wrong in {
        f"rope_type {scaling!r}": scaling != "default",
        "a bias of the attention's output": bool(config.get("attention_bias", False)),
        "biases of the gated units": bool(config.get("mlp_bias", False)),
        f"hidden_act {config.get('hidden_act')!r}": config.get("hidden_act", "silu") != "silu",
    }.items():
        if wrong:
            return what
    window = config.get("sliding_window") if kind == "mistral" or config.get("use_sliding_window") else None
    length = int(config["max_position_embeddings"])
    return CausalSettings(
        vocabulary=int(config["vocab_size"]), width=int(config["hidden_size"]),
        layers=int(config["num_hidden_layers"]), heads=int(config["num_attention_heads"]),
        key_heads=int(config.get("num_key_value_heads") or 0), head_width=int(config.get("head_dim") or 0),
        hidden=int(config["intermediate_size"]), max_length=min(length, int(window)) if window else length,
        rotary_period=float(rotary.get("rope_theta", config.get("rope_theta", 10_000.0))),
        epsilon=float(config["rms_norm_eps"]), tied=bool(config.get("tie_word_embeddings", False)), biased=biased,
        normed_heads=kind == "qwen3",
    )  # fmt: skip


def read_config(folder: Path | str) -> dict[str, Any]:
    """Return a folder's `config.json`.

    Raises:
        ConfigError: If there is none, or it is no JSON object.
    """
    path = Path(folder) / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"File {path}", got=str(error), expected="the config.json of a model",
                          do="Give the folder that holds config.json and model.safetensors.") from error  # fmt: skip
    if not isinstance(config, dict):
        raise ConfigError(f"File {path}", got=type(config).__name__, expected="a JSON object")
    return config


def read_weights(folder: Path | str) -> dict[str, Tensor]:
    """Return all tensors of a folder's safetensors files, in one or several parts.

    Raises:
        ConfigError: If the weights are in a format that could run code when it is loaded, or there are none.
        CorruptSnapshot: If a file is damaged or missing.
    """
    folder = Path(folder)
    if (folder / INDEX).is_file():
        try:
            parts = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise CorruptSnapshot(f"File {folder / INDEX}", got=str(error), expected="a map of weights") from error
        if any(Path(part).name != part for part in parts):
            raise CorruptSnapshot(f"File {folder / INDEX}", got=str(parts), expected="names of files beside it")
    elif (folder / WEIGHTS).is_file():
        parts = [WEIGHTS]
    else:
        other = sorted(path.name for path in folder.glob("*.bin")) or "no weights"
        raise ConfigError(f"Folder {folder}", got=str(other), expected=WEIGHTS,
                          do="Only safetensors are read; convert the weights first.")  # fmt: skip
    weights: dict[str, Tensor] = {}
    for part in parts:
        try:
            weights |= safetensors.torch.load_file(str(folder / part))
        except (OSError, SafetensorError) as error:
            raise CorruptSnapshot(
                f"File {folder / part}", got=str(error), expected="a whole safetensors file"
            ) from error
    return weights


def read_own(folder: Path | str, settings: CausalSettings) -> CausalTransformer:
    """Return our own implementation with the weights of a folder, as float32.

    Raises:
        CorruptSnapshot: If a tensor is missing or has another shape; names it.
    """
    model, taken = CausalTransformer(settings), _Taken(read_weights(folder), Path(folder))
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(_ours(name, taken, settings, tuple(value.shape)))
    return model


def save_causal(model: CausalTransformer, folder: Path | str) -> Path:
    """Write a model as `transformers` reads it, adapters merged into the weights; return the folder.

    The file of weights is put in place whole, or not at all.

    Raises:
        ConfigError: If no model of `transformers` has both biases and normed heads.
    """
    settings, folder = model.settings, Path(folder)
    if settings.biased and settings.normed_heads:
        raise ConfigError("CausalSettings", got="biased and normed_heads", expected="one of the two in a saved model")
    kind = "qwen3" if settings.normed_heads else "qwen2" if settings.biased else "llama"
    config = {
        "architectures": [f"{kind.capitalize()}ForCausalLM"], "model_type": kind, "hidden_act": "silu",
        "vocab_size": settings.vocabulary, "hidden_size": settings.width, "intermediate_size": settings.hidden,
        "num_hidden_layers": settings.layers, "num_attention_heads": settings.heads,
        "num_key_value_heads": settings.key_heads, "head_dim": settings.head_width, "rms_norm_eps": settings.epsilon,
        "max_position_embeddings": settings.max_length, "rope_theta": settings.rotary_period,
        "tie_word_embeddings": settings.tied, "torch_dtype": "float32",
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{WEIGHTS}.unfinished"
    tensors = {
        name: tensor.contiguous().clone()
        for own, value in merged_weights(model).items()
        for name, tensor in _theirs(own, value, settings)
    }
    safetensors.torch.save_file(tensors, str(temporary), metadata={"format": "pt"})
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, folder / WEIGHTS)
    return folder


class _Taken:
    """Tensors of a file by name, with errors that name what is missing."""

    def __init__(self, weights: Mapping[str, Tensor], folder: Path) -> None:
        self._weights, self._folder = weights, folder

    def __call__(self, name: str, shape: tuple[int, ...]) -> Tensor:
        found = self._weights.get(name)
        if found is None or tuple(found.shape) != shape:
            got = "no such tensor" if found is None else f"shape {tuple(found.shape)}"
            raise CorruptSnapshot(f"Weights in {self._folder}, '{name}'", got=got, expected=f"shape {shape}",
                                  do="Check that config.json belongs to these weights.")  # fmt: skip
        return found.float()


_SAME = {"attention.out": "self_attn.o_proj", "attention.query_norm": "self_attn.q_norm",
         "attention.key_norm": "self_attn.k_norm", "attention_norm": "input_layernorm",
         "units_norm": "post_attention_layernorm", "units.down": "mlp.down_proj"}  # fmt: skip
_WHOLE = {"embedding.weight": "model.embed_tokens.weight", "last_norm.weight": "model.norm.weight",
          "output.weight": "lm_head.weight"}  # fmt: skip
_FUSED = {"attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
          "units.gate_up": ("mlp.gate_proj", "mlp.up_proj")}  # fmt: skip


def _split(name: str) -> tuple[str, str, str]:
    """Return `model.layers.<number>.`, the part of the block, and `weight` or `bias`."""
    _, number, rest = name.split(".", 2)
    part, _, kind = rest.rpartition(".")
    return f"model.layers.{number}.", part, kind


def _ours(name: str, taken: _Taken, settings: CausalSettings, shape: tuple[int, ...]) -> Tensor:
    """Return one of our tensors, put together from theirs."""
    if name in _WHOLE:
        return taken(_WHOLE[name], shape)
    layer, part, kind = _split(name)
    if part in _SAME:
        value = taken(f"{layer}{_SAME[part]}.{kind}", shape)
        return pairs(value, settings.head_width) if part.endswith(("query_norm", "key_norm")) else value
    widths = settings.parts if part == "attention.qkv" else (settings.hidden, settings.hidden)
    pieces = [taken(f"{layer}{other}.{kind}", (width, *shape[1:]))
              for other, width in zip(_FUSED[part], widths, strict=True)]  # fmt: skip
    if part == "attention.qkv":
        pieces[:2] = [pairs(piece, settings.head_width) for piece in pieces[:2]]
    return torch.cat(pieces)


def _theirs(name: str, value: Tensor, settings: CausalSettings) -> list[tuple[str, Tensor]]:
    """Return the tensors of theirs that one of ours is made of."""
    if name in _WHOLE:
        return [(_WHOLE[name], value)]
    layer, part, kind = _split(name)
    if part in _SAME:
        turned = part.endswith(("query_norm", "key_norm"))
        return [(f"{layer}{_SAME[part]}.{kind}", halves(value, settings.head_width) if turned else value)]
    fused = part == "attention.qkv"
    pieces = list(torch.split(value, list(settings.parts) if fused else settings.hidden))
    if fused:
        pieces[:2] = [halves(piece, settings.head_width) for piece in pieces[:2]]
    return [(f"{layer}{other}.{kind}", piece) for other, piece in zip(_FUSED[part], pieces, strict=True)]


def pairs(rows: Tensor, width: int) -> Tensor:
    """Bring the two numbers of a pair that lie half a head apart side by side: rows (H * width, ...)."""
    return torch.unflatten(rows, 0, (-1, 2, width // 2)).transpose(1, 2).flatten(0, 2)


def halves(rows: Tensor, width: int) -> Tensor:
    """Undo `pairs`."""
    return torch.unflatten(rows, 0, (-1, width // 2, 2)).transpose(1, 2).flatten(0, 2)
