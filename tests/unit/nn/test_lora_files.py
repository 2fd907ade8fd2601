"""Adapters written by peft are ours, and ours are peft's: the same logits from both, and nothing else is read."""

from __future__ import annotations

import json

import pytest
import torch

from headrace.data import jagged
from headrace.errors import ConfigError, CorruptSnapshot
from headrace.nn import CausalSettings, CausalTransformer, LoRASettings, load_causal, merge_lora, save_causal, with_lora
from headrace.nn.lora_files import load_lora, save_lora

peft = pytest.importorskip("peft", reason="the extra 'language' is not installed")
SIZES = CausalSettings(vocabulary=40, width=32, layers=2, heads=4, key_heads=2, max_length=32)
TOKENS = [[3, 9, 27, 11, 4], [5, 6]]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_causal(CausalTransformer(SIZES, seed=4), tmp_path_factory.mktemp("base"))


def theirs(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()


def shaken(model) -> None:
    """Give every adapter something to add."""
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name or name.endswith(".down") or ".up." in name:
                value.normal_(0.0, 0.3, generator=draw)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        if isinstance(model, CausalTransformer):
            return model(jagged(TOKENS))
        return torch.cat([model(input_ids=torch.tensor([row])).logits[0] for row in TOKENS])


@pytest.mark.parametrize("targets", [ALL, ["q_proj", "k_proj", "v_proj"], ["o_proj", "down_proj"]])
def test_what_peft_wrote_is_read(folder, tmp_path, targets) -> None:
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(theirs(folder), config).eval()
    shaken(adapted)
    adapted.save_pretrained(str(tmp_path), safe_serialization=True)
    mine = load_lora(load_causal(folder), tmp_path)
    assert (logits(mine) - logits(load_causal(folder))).abs().max() > 0.01
    torch.testing.assert_close(logits(mine), logits(adapted), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits(merge_lora(mine)), logits(adapted), atol=1e-5, rtol=1e-5)


def test_what_we_wrote_peft_reads(folder, tmp_path) -> None:
    mine = with_lora(load_causal(folder), LoRASettings(rank=4, alpha=6.0))
    shaken(mine)
    save_lora(mine, tmp_path, base=str(folder))
    adapted = peft.PeftModel.from_pretrained(theirs(folder), str(tmp_path)).eval()
    torch.testing.assert_close(logits(mine), logits(adapted), atol=1e-5, rtol=1e-5)
    again = load_lora(load_causal(folder), tmp_path)
    torch.testing.assert_close(logits(again), logits(mine), atol=0.0, rtol=0.0)
    assert all(value.requires_grad == (".down" in name or ".up." in name) for name, value in again.named_parameters()
               if "units.down.layer" not in name)  # fmt: skip


def test_what_computes_something_else_is_refused(folder, tmp_path) -> None:
    mine = with_lora(load_causal(folder), LoRASettings(rank=2))
    save_lora(mine, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    wrong = [
        ({"use_dora": True}, "use_dora"), ({"use_rslora": True}, "use_rslora"), ({"bias": "all"}, "bias"),
        ({"peft_type": "IA3"}, "LoRA"), ({"target_modules": ["q_proj"]}, "go together"),
        ({"target_modules": "all-linear"}, "names of layers"), ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"alora_invocation_tokens": [5]}, "alora"), ({"target_modules": [["q_proj"]]}, "names of layers"),
        *(({"init_lora_weights": name}, "init_lora_weights") for name in ("pissa_niter_4", "olora", "corda", "loftq")),
    ]  # fmt: skip
    for change, said in wrong:
        (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ConfigError, match=said):
            load_lora(load_causal(folder), tmp_path)
    for change in ({"r": 3}, {"target_modules": ["o_proj"]}):
        (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(CorruptSnapshot, match="Adapters in"):
            load_lora(load_causal(folder), tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    whole = (tmp_path / "adapter_model.safetensors").read_bytes()
    (tmp_path / "adapter_model.safetensors").write_bytes(whole[:-9])
    with pytest.raises(CorruptSnapshot, match="whole safetensors"):
        load_lora(load_causal(folder), tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(ConfigError, match="no weights"):
        load_lora(load_causal(folder), tmp_path)
    with pytest.raises(ConfigError, match="no adapters"):
        save_lora(load_causal(folder), tmp_path)
    with pytest.raises(ConfigError, match="a CausalTransformer"):
        save_lora(theirs(folder), tmp_path)


def test_adapters_that_change_their_base_are_not_taken_for_plain_ones(folder, tmp_path) -> None:
    """What peft begins in its base model is not in the file of the adapters."""
    config = peft.LoraConfig(r=3, target_modules=["o_proj"], init_lora_weights="pissa", task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(theirs(folder), config).eval()
    torch.testing.assert_close(logits(adapted), logits(theirs(folder)), atol=1e-4, rtol=1e-4)  # base and adapters
    adapted.save_pretrained(str(tmp_path), safe_serialization=True)
    with pytest.raises(ConfigError, match="init_lora_weights"):
        load_lora(load_causal(folder), tmp_path)
