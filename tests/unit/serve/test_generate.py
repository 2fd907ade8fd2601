"""Generation: what was drawn is what teacher forcing says, drawn as often as it should be, and cut where it should."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from headrace.errors import ConfigError, DataError, NumericError
from headrace.nn import CausalSettings, CausalTransformer
from headrace.objectives.tokens import completion_log_probs, joined
from headrace.serve import Completions, GenerateConfig, generate
from headrace.serve.generate import closed_up, draw, uniforms
from headrace.types import Jagged


def model(seed: int = 0, **changed) -> CausalTransformer:
    settings = {"vocabulary": 31, "width": 32, "layers": 2, "heads": 4, "key_heads": 2, "max_length": 64, **changed}
    made = CausalTransformer(CausalSettings(**settings), seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(4.0)
    return made


def prompts(*lengths: int) -> Jagged:
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return Jagged(torch.randint(0, 31, (int(offsets[-1]),), generator=torch.Generator().manual_seed(1)), offsets)


def listed(tokens: Jagged) -> list[list[int]]:
    return [tokens.values[a:b].tolist() for a, b in itertools.pairwise(tokens.offsets.tolist())]


@pytest.mark.parametrize("lengths", [(4, 4, 4), (1, 9, 3, 6)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_teacher_forcing(lengths, temperature) -> None:
    made, asked = model(), prompts(*lengths)
    config = GenerateConfig(max_tokens=20, temperature=temperature, ends=(3, 5, 8))
    found = generate(made.decoder(), asked, config, seeds=range(len(lengths)))
    forced = completion_log_probs(made, joined(asked, found.tokens), temperature).detach()
    assert float((forced - found.log_probs).abs().max()) < 1e-4
    assert int(found.ended.sum()) > 0


def test_a_completion_does_not_depend_on_the_others() -> None:
    made, asked, config = model(), prompts(2, 7, 3, 5, 4), GenerateConfig(max_tokens=16, ends=(1, 2))
    together = listed(generate(made.decoder(), asked, config, seeds=[11, 12, 13, 14, 15]).tokens)
    for row in range(5):
        alone = generate(made.decoder(), asked.slice(row, row + 1), config, seeds=[11 + row])
        assert listed(alone.tokens) == [together[row]]


def test_seeds_decide() -> None:
    made, asked, config = model(), prompts(3, 3), GenerateConfig(max_tokens=12)
    first, same, other = (listed(generate(made.decoder(), asked, config, s).tokens) for s in ([1, 2], [1, 2], [2, 3]))
    assert first == same
    assert first != other


def test_completions_end_at_an_end_or_at_the_limit() -> None:
    made, asked = model(), prompts(*[3] * 24)
    found = generate(made.decoder(), asked, GenerateConfig(max_tokens=9, ends=(3, 7)), seeds=range(24))
    for tokens, ended in zip(listed(found.tokens), found.ended.tolist(), strict=True):
        assert not set(tokens[:-1]) & {3, 7}
        assert (tokens[-1] in (3, 7)) == ended
        assert ended or len(tokens) == 9
    assert 0 < int(found.ended.sum()) < 24
    free = generate(made.decoder(), asked, GenerateConfig(max_tokens=9), seeds=range(24))
    for short, long in zip(listed(found.tokens), listed(free.tokens), strict=True):
        assert long[: len(short)] == short


def test_rows_that_have_ended_cost_nothing() -> None:
    steps: list[int] = []

    class Counting:
        """Logits that give token 0 to the first row at once, and token 1 to all others."""

        def begin(self, asked: Jagged, room: int) -> Counting:
            self.logits = torch.tensor([[9.0, -9.0]] + [[-9.0, 9.0]] * (len(asked) - 1)) * 5
            return self

        def step(self, tokens: Tensor) -> Tensor:
            steps.append(len(tokens))
            return self.logits

        def keep(self, rows: list[int]) -> None:
            self.logits = self.logits[rows]

    found = generate(Counting(), prompts(1, 1, 1), GenerateConfig(max_tokens=4, ends=(0,)), seeds=[0, 1, 2])
    assert steps == [2, 2, 2]
    assert listed(found.tokens) == [[0], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert found.ended.tolist() == [True, False, False]


def test_tokens_are_drawn_as_often_as_the_model_says() -> None:
    logits = torch.tensor([[1.0, -0.5, 0.3, -3.0]])
    count = 20_000
    picked, found = draw(logits.expand(count, 4), uniforms([7], count)[0], GenerateConfig())
    shares = torch.bincount(picked, minlength=4) / count
    expected = torch.softmax(logits[0], 0)
    assert bool(((shares - expected).abs() < 4 * (expected * (1 - expected) / count).sqrt()).all())
    torch.testing.assert_close(found, torch.log_softmax(logits[0], 0)[picked])


def test_filters_leave_out_what_they_say_and_log_probs_know_it() -> None:
    logits = torch.log(torch.tensor([[0.4, 0.3, 0.2, 0.1]])).expand(5000, 4)
    draws = uniforms([1], 5000)[0]
    picked, found = draw(logits, draws, GenerateConfig(top_k=2))
    assert set(picked.tolist()) == {0, 1}
    assert found.exp().unique().tolist() == pytest.approx([3 / 7, 4 / 7], abs=1e-6)
    picked, _ = draw(logits, draws, GenerateConfig(top_p=0.75))
    assert set(picked.tolist()) == {0, 1, 2}
    picked, _ = draw(logits, draws, GenerateConfig(top_p=0.3))
    assert set(picked.tolist()) == {0}
    picked, found = draw(logits, draws, GenerateConfig(top_p=1e-320))  # less than any float32, and more than nothing
    assert set(picked.tolist()) == {0}
    assert bool((found == 0.0).all())
    for edge in (0.0, 1.0 - 2.0**-23):
        picked, found = draw(logits[:1], torch.tensor([edge]), GenerateConfig(top_k=1))
        assert picked.tolist() == [0]
        assert found.tolist() == pytest.approx([0.0], abs=1e-6)


def test_temperature_zero_takes_the_likeliest() -> None:
    made, asked = model(), prompts(4, 2)
    found = generate(made.decoder(), asked, GenerateConfig(max_tokens=6, temperature=0.0), seeds=[0, 0])
    whole = joined(asked, found.tokens)
    states = made.states(whole.tokens)[whole.before]
    assert torch.equal(made.logits(states).argmax(-1), found.tokens.values)
    assert float((completion_log_probs(made, whole).detach() - found.log_probs).abs().max()) < 1e-4


def test_random_numbers_are_even_and_apart() -> None:
    numbers = uniforms(range(200), 500)
    assert float(numbers.min()) >= 0.0
    assert float(numbers.max()) < 1.0
    assert abs(float(numbers.mean()) - 0.5) < 0.005
    assert abs(float(torch.corrcoef(numbers[:2])[0, 1])) < 0.15
    assert len(numbers.unique()) > 99_000
    assert torch.equal(uniforms([-1], 3), uniforms([2**64 - 1], 3))


def test_few_rows_move() -> None:
    assert closed_up([True, True]) == [0, 1]
    assert closed_up([False, True, True, False, True]) == [4, 1, 2]
    assert closed_up([False, False]) == []


def test_completions_can_be_taken_and_put_together() -> None:
    asked = prompts(3, 3, 3)
    made = generate(model().decoder(), asked, GenerateConfig(max_tokens=5, ends=(3, 5, 8, 2)), seeds=[3, 4, 5])
    back = made.take(torch.tensor([2, 0, 1])).take(torch.tensor([1, 2, 0]))
    assert torch.equal(back.tokens.values, made.tokens.values)
    both = Completions.concat([made.take(torch.tensor([0])), made.take(torch.tensor([1, 2]))])
    assert torch.equal(both.log_probs, made.log_probs)
    assert torch.equal(both.tokens.offsets, made.tokens.offsets)
    assert len(Completions.concat([])) == 0


def test_what_cannot_work_is_refused() -> None:
    made = model()
    with pytest.raises(ConfigError, match="one per prompt"):
        generate(made.decoder(), prompts(2), GenerateConfig(), seeds=[])
    with pytest.raises(DataError, match="in all"):
        generate(made.decoder(), prompts(2), GenerateConfig(max_tokens=64), seeds=[0])
    for wrong in ({"max_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"temperature": 0.0, "top_k": 3}):
        with pytest.raises(ConfigError):
            GenerateConfig(**wrong)
    with torch.no_grad():
        made.embedding.weight[0, 0] = float("nan")
    with pytest.raises(NumericError, match="NaN"):
        generate(made.decoder(), prompts(2), GenerateConfig(max_tokens=4), seeds=[0])
