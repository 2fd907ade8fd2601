"""The causal transformer: sequences apart, positions relative, and what it writes is what it would read."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from headrace.errors import ConfigError, DataError
from headrace.nn import CausalSettings, CausalTransformer
from headrace.nn.token_layout import Layout, taken
from headrace.types import Jagged

KINDS = {
    "plain": {}, "grouped": {"key_heads": 2}, "one_key": {"key_heads": 1}, "untied": {"tied": False},
    "biased": {"biased": True}, "normed": {"normed_heads": True, "key_heads": 2}, "wide": {"head_width": 6},
}  # fmt: skip


def model(seed: int = 0, **changed) -> CausalTransformer:
    """A small model with weights large enough for every part to matter."""
    settings = {"vocabulary": 29, "width": 16, "layers": 2, "heads": 4, "max_length": 24, **changed}
    made = CausalTransformer(CausalSettings(**settings), seed)
    draw = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    return made


def sequences(*lengths: int, seed: int = 0) -> Jagged:
    draw = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return Jagged(torch.randint(0, 29, (int(offsets[-1]),), generator=draw), offsets)


def rows(tokens: Jagged) -> list[torch.Tensor]:
    return [tokens.values[a:b] for a, b in zip(tokens.offsets[:-1].tolist(), tokens.offsets[1:].tolist(), strict=True)]


def alone(values: torch.Tensor) -> Jagged:
    return Jagged(values, torch.tensor([0, len(values)]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_does_not_see_the_others(kind) -> None:
    made, several = model(**KINDS[kind]), sequences(5, 9, 1, 3)
    whole = made(several)
    parts = torch.cat([made(alone(one)) for one in rows(several)])
    torch.testing.assert_close(whole, parts, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_does_not_see_what_comes_after_it(kind) -> None:
    made, one = model(**KINDS[kind]), sequences(8).values
    torch.testing.assert_close(made(alone(one))[:5], made(alone(one[:5])), rtol=0, atol=2e-5)
    other = one.clone()
    other[6] = (other[6] + 1) % 29
    assert not torch.allclose(made(alone(one))[7], made(alone(other))[7])


def test_equal_lengths_and_unequal_ones_go_the_same_way() -> None:
    made, even = model(), sequences(6, 6)
    uneven = Jagged(torch.cat((even.values, even.values[:2])), torch.tensor([0, 6, 12, 14]))
    torch.testing.assert_close(made(uneven)[:12], made(even), rtol=0, atol=2e-5)


def test_attention_is_the_textbook_one() -> None:
    made = model(layers=1, key_heads=2)
    sizes, one, attention = made.settings, sequences(5).values, made.blocks[0].attention
    states = made.blocks[0].attention_norm(made.embedding(one))
    layout = Layout(alone(one))
    found = attention(states, layout, made.rotation[layout.positions])
    qkv = attention.qkv(states).view(5, -1, 4)
    heads = []
    for head in range(4):
        query, key, value = qkv[:, head], qkv[:, 4 + head // 2], qkv[:, 6 + head // 2]
        spun = [torch.zeros(5, 4), torch.zeros(5, 4)]
        for vector, out in zip((query, key), spun, strict=True):
            for place in range(5):
                for pair in range(2):
                    angle = place * sizes.rotary_period ** (-pair / 2)
                    x, y = vector[place, 2 * pair], vector[place, 2 * pair + 1]
                    out[place, 2 * pair] = x * math.cos(angle) - y * math.sin(angle)
                    out[place, 2 * pair + 1] = x * math.sin(angle) + y * math.cos(angle)
        heads.append(scaled_dot_product_attention(spun[0][None], spun[1][None], value[None], is_causal=True)[0])
    torch.testing.assert_close(found, attention.out(torch.cat(heads, 1)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [(3, 3), (1, 4, 2)])
def test_decoding_gives_the_logits_of_reading(kind, lengths) -> None:
    made, prompts = model(**KINDS[kind]), sequences(*lengths)
    more = sequences(*([5] * len(lengths)), seed=1)
    whole = [made(alone(torch.cat(pair))) for pair in zip(rows(prompts), rows(more), strict=True)]
    going = made.decoder().begin(prompts, 5)
    for step in range(6):
        expected = torch.stack([logits[length - 1 + step] for logits, length in zip(whole, lengths, strict=True)])
        torch.testing.assert_close(going.logits, expected, rtol=0, atol=5e-5)
        if step < 5:
            going.step(torch.stack([one[step] for one in rows(more)]))
    with pytest.raises(DataError, match="one more token"):
        going.step(torch.zeros(len(lengths), dtype=torch.int64))


def test_rows_can_leave_and_move() -> None:
    made, prompts = model(), sequences(2, 5, 3, 4)
    going, decoder = made.decoder().begin(prompts, 6), made.decoder()
    going.step(torch.tensor([1, 2, 3, 4]))
    going.keep([0, 3, 2])
    going.step(torch.tensor([5, 6, 7]))
    going.keep([2, 1])
    found = going.step(torch.tensor([8, 9]))
    for row, (prompt, added) in enumerate([(2, [3, 7, 8]), (3, [4, 6, 9])]):
        straight = decoder.begin(alone(torch.cat((rows(prompts)[prompt], torch.tensor(added)))), 0)
        torch.testing.assert_close(found[row], straight.logits[0], rtol=0, atol=5e-5)


def test_a_decoder_keeps_the_weights_of_its_moment() -> None:
    made = model()
    decoder, prompt = made.decoder(), sequences(4)
    before = decoder.begin(prompt, 0).logits
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.5)
    assert torch.equal(before, decoder.begin(prompt, 0).logits)
    assert not torch.equal(before, made.decoder().begin(prompt, 0).logits)


def test_gradients_reach_every_parameter() -> None:
    made = model(tied=False, biased=True, normed_heads=True)
    torch.nn.functional.cross_entropy(made(sequences(6, 3)), sequences(9, seed=2).values).backward()
    assert [name for name, parameter in made.named_parameters() if parameter.grad is None] == []
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in made.parameters())


def test_the_same_seed_gives_the_same_model_and_another_seed_another() -> None:
    first, same, other = (CausalTransformer(CausalSettings(vocabulary=9), seed) for seed in (3, 3, 4))
    assert torch.equal(first.embedding.weight, same.embedding.weight)
    assert not torch.equal(first.embedding.weight, other.embedding.weight)


def test_what_cannot_be_read_is_refused() -> None:
    made = model()
    with pytest.raises(DataError, match="25 tokens"):
        made(sequences(25))
    with pytest.raises(DataError, match="token 29"):
        made(alone(torch.tensor([1, 29])))
    with pytest.raises(DataError, match="token -1"):
        made(alone(torch.tensor([-1])))
    with pytest.raises(DataError, match="20 tokens and 5 to come"):
        made.decoder().begin(sequences(20), 5)
    with pytest.raises(DataError, match="no tokens"):
        made.decoder().begin(sequences(3, 0), 2)
    assert made(Jagged(torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))).shape == (0, 29)


@pytest.mark.parametrize(
    "wrong", [{"heads": 3}, {"key_heads": 3}, {"head_width": 5}, {"vocabulary": 0}, {"rotary_period": 0.0}]
)
def test_sizes_that_do_not_fit_are_refused(wrong) -> None:
    with pytest.raises(ConfigError):
        CausalSettings(**{"vocabulary": 9, "width": 16, "heads": 4, **wrong})


def test_sequences_can_be_taken() -> None:
    tokens = sequences(2, 0, 4)
    some, places = taken(tokens, torch.tensor([2, 1, 0, 2]))
    assert [one.tolist() for one in rows(some)] == [rows(tokens)[row].tolist() for row in (2, 1, 0, 2)]
    assert torch.equal(tokens.values[places], some.values)
