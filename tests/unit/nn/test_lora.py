"""Adapters: nothing changes at first, only they learn, and merged they do the same."""

from __future__ import annotations

import pytest
import torch

from headrace.errors import ConfigError
from headrace.nn import CausalSettings, CausalTransformer, LoRASettings, merge_lora, with_lora
from headrace.types import Jagged

TOKENS = Jagged(torch.tensor([1, 2, 3, 4, 5, 6]), torch.tensor([0, 4, 6]))


def adapted(**settings) -> CausalTransformer:
    made = CausalTransformer(CausalSettings(vocabulary=9, width=16, layers=2, heads=4, key_heads=2))
    return with_lora(made, LoRASettings(rank=3, **settings))


def trained(made: CausalTransformer) -> CausalTransformer:
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    return made


def test_nothing_changes_at_first() -> None:
    plain = CausalTransformer(CausalSettings(vocabulary=9, width=16, layers=2, heads=4, key_heads=2))
    assert torch.equal(plain(TOKENS), adapted()(TOKENS))


def test_only_adapters_learn() -> None:
    made = adapted()
    learned = {name for name, parameter in made.named_parameters() if parameter.requires_grad}
    assert learned
    assert all(".down" in name or ".up." in name for name in learned)
    made(TOKENS).sum().backward()
    assert {name for name, parameter in made.named_parameters() if parameter.grad is not None} == learned


def test_merged_weights_do_the_same() -> None:
    made = trained(adapted())
    before, decoded = made(TOKENS), made.decoder().begin(TOKENS, 0).logits
    assert not torch.allclose(before, adapted()(TOKENS), atol=1e-3)
    torch.testing.assert_close(decoded, before[[3, 5]], rtol=0, atol=1e-5)
    torch.testing.assert_close(merge_lora(made)(TOKENS), before, rtol=0, atol=1e-5)
    assert all(parameter.requires_grad for parameter in made.parameters())


def test_queries_keys_and_values_are_adapted_apart() -> None:
    layer = adapted(layers=("qkv",)).blocks[0].attention.qkv
    assert layer.parts == (16, 8, 8)
    with torch.no_grad():
        layer.up[1].fill_(1.0)
    changed = (layer.merged() - layer.layer.weight).abs().sum(1) > 0
    assert changed.tolist() == [False] * 16 + [True] * 8 + [False] * 8


def test_what_cannot_be_adapted_is_refused() -> None:
    with pytest.raises(ConfigError, match="names of linear layers"):
        adapted(layers=("nothing",))
    with pytest.raises(ConfigError, match="adapters"):
        with_lora(adapted())
    with pytest.raises(ConfigError, match="rank"):
        LoRASettings(rank=0)
