"""Models of `transformers` from disk: the same logits, here and there, read and written; and what is refused."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from headrace.errors import ConfigError, CorruptSnapshot, DataError
from headrace.nn import (
    CausalModel,
    CausalSettings,
    CausalTransformer,
    LoRASettings,
    TransformersCausal,
    left_padded,
    load_causal,
    save_causal,
    with_lora,
)
from headrace.nn.causal_files import causal_settings
from headrace.types import Jagged

os.environ["HF_HUB_OFFLINE"] = "1"
if importlib.util.find_spec("transformers") is None:
    pytest.skip("the extra 'language' is not installed", allow_module_level=True)


class Transformers:
    """The package, imported when a test first asks for something in it: collecting tests should not take seconds."""

    def __getattr__(self, name: str):
        return getattr(importlib.import_module("transformers"), name)


transformers = Transformers()

SIZES = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 40}  # fmt: skip
OWN = {
    "llama": ("LlamaConfig", {"rope_theta": 5000.0}), "llama_tied": ("LlamaConfig", {"tie_word_embeddings": True}),
    "mistral": ("MistralConfig", {"sliding_window": 30, "head_dim": 12}),
    "qwen2": ("Qwen2Config", {"rms_norm_eps": 1e-6}), "qwen3": ("Qwen3Config", {"head_dim": 16}),
}  # fmt: skip
GPT2 = {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40}
TOKENS = Jagged(torch.tensor([5, 9, 2, 60, 0, 7, 7, 31, 12, 4, 8, 1]), torch.tensor([0, 5, 6, 12]))


def written(folder: Path, name: str, settings: dict) -> torch.nn.Module:
    """Write a model with random weights, norms and biases included, as `transformers` does."""
    config = getattr(transformers, name)(**settings)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    model.save_pretrained(folder)
    return model


def theirs(model: torch.nn.Module, tokens: Jagged) -> torch.Tensor:
    """Logits of each row, asked alone."""
    pieces = [tokens.values[a:b] for a, b in itertools.pairwise(tokens.offsets.tolist())]
    with torch.no_grad():
        return torch.cat([model(input_ids=one[None]).logits[0] for one in pieces])


@pytest.mark.parametrize("kind", OWN)
def test_our_own_implementation_has_the_logits_of_transformers(tmp_path, kind) -> None:
    name, changed = OWN[kind]
    reference = written(tmp_path, name, {**SIZES, **changed})
    model = load_causal(tmp_path)
    assert isinstance(model, CausalTransformer)
    assert isinstance(model, CausalModel)
    torch.testing.assert_close(model(TOKENS), theirs(reference, TOKENS), rtol=0, atol=1e-5)
    assert model.max_length == (30 if kind == "mistral" else 40)


@pytest.mark.parametrize("kind", ["llama", "llama_tied", "qwen2", "qwen3"])
def test_what_we_write_is_read_by_transformers(tmp_path, kind) -> None:
    settings = {"llama": {}, "llama_tied": {}, "qwen2": {"biased": True}, "qwen3": {"normed_heads": True}}[kind]
    sizes = CausalSettings(
        vocabulary=61, width=32, layers=2, heads=4, key_heads=2, tied=kind == "llama_tied", **settings
    )
    model = with_lora(CausalTransformer(sizes, seed=5), LoRASettings(rank=2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    save_causal(model, tmp_path)
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    torch.testing.assert_close(theirs(reference, TOKENS), model(TOKENS).detach(), rtol=0, atol=1e-5)
    again = load_causal(tmp_path)
    torch.testing.assert_close(again(TOKENS), model(TOKENS), rtol=0, atol=1e-5)
    assert not list(tmp_path.glob("*.unfinished"))


@pytest.mark.parametrize("name", ["GPT2Config", "LlamaConfig"])
def test_models_that_transformers_computes_have_the_same_face(tmp_path, name) -> None:
    reference = written(tmp_path, name, GPT2 if name == "GPT2Config" else SIZES)
    model = load_causal(tmp_path, own=False)
    assert isinstance(model, TransformersCausal)
    assert isinstance(model, CausalModel)
    torch.testing.assert_close(model(TOKENS), theirs(reference, TOKENS), rtol=0, atol=1e-5)
    assert torch.equal(model.train()(TOKENS), model.eval()(TOKENS))
    going = model.decoder().begin(TOKENS, 4)
    torch.testing.assert_close(going.logits, model(TOKENS)[TOKENS.offsets[1:] - 1], rtol=0, atol=1e-5)
    going.step(torch.tensor([3, 4, 5]))
    going.keep([2, 1])
    found = going.step(torch.tensor([6, 7]))
    longer = Jagged(torch.tensor([7, 31, 12, 4, 8, 1, 5, 6, 7, 4, 7]), torch.tensor([0, 8, 11]))
    torch.testing.assert_close(found, theirs(reference, longer)[[7, 10]], rtol=0, atol=1e-5)
    with pytest.raises(DataError, match="6 tokens and 35 to come"):
        model.decoder().begin(TOKENS, 35)


def test_adapters_of_peft_and_ours_are_the_same_function(tmp_path) -> None:
    peft = pytest.importorskip("peft", reason="the extra 'language' is not installed")
    reference = written(tmp_path, "LlamaConfig", SIZES)
    config = peft.LoraConfig(r=3, lora_alpha=6.0, target_modules=["q_proj", "k_proj", "v_proj"], task_type="CAUSAL_LM")
    peft.inject_adapter_in_model(config, reference)
    ours = with_lora(load_causal(tmp_path), LoRASettings(rank=3, alpha=6.0, layers=("qkv",)))
    draw = torch.Generator().manual_seed(0)
    for layer, block in zip(reference.model.layers, ours.blocks, strict=True):
        adapter = block.attention.qkv
        for place, part in enumerate((layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)):
            up = 0.3 * torch.randn(adapter.parts[place], 3, generator=draw)
            with torch.no_grad():
                part.lora_B["default"].weight.copy_(up)
                part.lora_A["default"].weight.copy_(adapter.down[place])
                # Our rows lie in pairs: number i of a pair and its partner, half a head apart, are neighbours.
                paired = up.unflatten(0, (-1, 2, 4)).transpose(1, 2).flatten(0, 2) if place < 2 else up
                adapter.up[place].copy_(paired)
    assert not torch.allclose(ours(TOKENS), load_causal(tmp_path)(TOKENS), atol=1e-3)
    torch.testing.assert_close(ours(TOKENS), theirs(reference, TOKENS), rtol=0, atol=1e-5)
    wrapped = TransformersCausal(reference)
    torch.testing.assert_close(wrapped(TOKENS), ours(TOKENS), rtol=0, atol=1e-5)
    learned = [name for name, parameter in wrapped.named_parameters() if parameter.requires_grad]
    assert learned
    assert all("lora_" in name for name in learned)


def test_weights_in_several_files_are_one_model(tmp_path) -> None:
    reference = written(tmp_path, "LlamaConfig", SIZES)
    reference.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    torch.testing.assert_close(load_causal(tmp_path / "parts")(TOKENS), theirs(reference, TOKENS), rtol=0, atol=1e-5)
    index = json.loads((tmp_path / "parts" / "model.safetensors.index.json").read_text())
    index["weight_map"]["lm_head.weight"] = "../elsewhere.safetensors"
    (tmp_path / "parts" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CorruptSnapshot, match="names of files beside it"):
        load_causal(tmp_path / "parts")


def test_only_safetensors_are_read(tmp_path) -> None:
    written(tmp_path, "LlamaConfig", SIZES)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    for own in (True, False):
        with pytest.raises(ConfigError, match=r"pytorch_model.bin.*Only safetensors"):
            load_causal(tmp_path, own=own)
    with pytest.raises(ConfigError, match=r"config.json"):
        load_causal(tmp_path / "nowhere")


def test_damaged_and_foreign_files_are_refused(tmp_path) -> None:
    written(tmp_path, "LlamaConfig", SIZES)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptSnapshot, match="whole safetensors file"):
        load_causal(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole)
    tensors = safetensors.torch.load_file(str(tmp_path / "model.safetensors"))
    del tensors["model.layers.1.mlp.up_proj.weight"]
    safetensors.torch.save_file(tensors, str(tmp_path / "model.safetensors"))
    with pytest.raises(CorruptSnapshot, match=r"model.layers.1.mlp.up_proj.weight.*no such tensor"):
        load_causal(tmp_path)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "rope_type 'llama3'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type 'linear'"),
        ({"mlp_bias": True}, "biases of the gated units"), ({"attention_bias": True}, "bias of the attention's output"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"), ({"model_type": "gemma"}, "model_type 'gemma'"),
    ],
)  # fmt: skip
def test_what_our_own_implementation_cannot_compute_is_named(changed, why) -> None:
    config = {"model_type": "llama", "rms_norm_eps": 1e-5, **SIZES, **changed}
    found = causal_settings(config)
    assert isinstance(found, str)
    assert why in found


def test_padding_stands_on_the_left() -> None:
    tokens, mask = left_padded(TOKENS, fill=50)
    assert tokens.tolist() == [[50, 5, 9, 2, 60, 0], [50, 50, 50, 50, 50, 7], [7, 31, 12, 4, 8, 1]]
    assert mask.sum(1).tolist() == [5, 1, 6]


def test_the_core_needs_no_extra() -> None:
    code = (
        "import sys; [sys.modules.__setitem__(name, None) for name in ('transformers', 'tokenizers', 'peft')];"
        "import headrace.nn, headrace.data, headrace.objectives, headrace.serve, headrace.learn;"
        "from headrace.nn import CausalSettings, CausalTransformer;"
        "CausalTransformer(CausalSettings(vocabulary=9)).decoder()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
