"""Rewards to advantages: the definition in a double loop, the degenerate cases, and padding that changes nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import ConfigError, DataError
from headrace.objectives import generalised_advantages, kl_per_token, leave_one_out, token_rewards, whitened


def case(lengths: list[int], wider: int = 0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    there = torch.arange(max(lengths) + wider) < torch.tensor(lengths).unsqueeze(1)
    rewards, values = (torch.randn(there.shape, generator=draw, dtype=torch.float64) for _ in range(2))
    return rewards, values, there


def by_definition(rewards, values, length: int, gamma: float, lam: float) -> list[float]:
    """A_t = sum over l of (gamma lam)^l delta_{t+l}."""
    ahead = [*values[:length].tolist(), 0.0]
    deltas = [float(rewards[t]) + gamma * ahead[t + 1] - ahead[t] for t in range(length)]
    return [sum((gamma * lam) ** (s - t) * deltas[s] for s in range(t, length)) for t in range(length)]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=4), st.floats(0, 1), st.floats(0, 1), st.integers(0, 3),
    st.integers(0, 99),
)  # fmt: skip
def test_advantages_are_those_of_the_definition_whatever_the_padding(lengths, gamma, lam, wider, seed) -> None:
    rewards, values, there = case(lengths, wider, seed)
    found, returns = generalised_advantages(rewards, values, there, gamma=gamma, lam=lam)
    for row, length in enumerate(lengths):
        expected = torch.tensor(by_definition(rewards[row], values[row], length, gamma, lam), dtype=torch.float64)
        torch.testing.assert_close(found[row, :length], expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(returns, (found + values) * there)
    assert not bool(found[~there].any())
    assert not bool(returns[~there].any())


def test_with_gamma_and_lambda_one_returns_are_sums() -> None:
    rewards, values, there = case([4, 2, 6])
    _, returns = generalised_advantages(rewards, values, there, gamma=1.0, lam=1.0)
    expected = (rewards * there).flip(1).cumsum(1).flip(1) * there
    torch.testing.assert_close(returns, expected)


def test_with_lambda_zero_advantages_are_one_step_errors() -> None:
    rewards, values, there = case([3])
    found, _ = generalised_advantages(rewards, values, there, gamma=0.5, lam=0.0)
    ahead = torch.cat((values[:, 1:], torch.zeros(1, 1, dtype=torch.float64)), 1)
    torch.testing.assert_close(found, rewards + 0.5 * ahead - values)


def test_a_perfect_critic_leaves_no_advantage() -> None:
    rewards, _, there = case([5, 3])
    values = (rewards * there).flip(1).cumsum(1).flip(1)
    found, _ = generalised_advantages(rewards, values, there, gamma=1.0, lam=0.7)
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-12)


def test_the_reward_stands_at_the_last_token_and_penalties_at_every_one() -> None:
    _, penalties, there = case([3, 1], wider=2)
    found = token_rewards(torch.tensor([10.0, 20.0]), penalties, there)
    expected = -(penalties * there)
    expected[0, 2] += 10.0
    expected[1, 0] += 20.0
    torch.testing.assert_close(found, expected)
    with pytest.raises(DataError, match="Completion 1"):
        token_rewards(torch.zeros(2), torch.zeros(2, 2), torch.tensor([[True, False], [False, False]]))


@pytest.mark.parametrize("shift", [True, False])
def test_whitening_looks_at_tokens_only(shift) -> None:
    values, _, there = case([6, 2, 5], wider=3)
    found = whitened(values + 4.0, there, shift=shift)
    kept = found[there]
    mean = 0.0 if shift else float((values + 4.0)[there].mean())
    assert float(kept.mean()) == pytest.approx(mean, abs=1e-9)
    assert float(kept.std()) == pytest.approx(1.0, abs=1e-6)
    assert not bool(found[~there].any())


def test_a_constant_is_whitened_to_nothing() -> None:
    there = torch.ones(2, 3, dtype=torch.bool)
    assert not bool(whitened(torch.full((2, 3), 7.0), there).any())


def test_distances_from_the_reference() -> None:
    draw = torch.Generator().manual_seed(0)
    policy, reference = (torch.log_softmax(torch.randn(6, generator=draw, dtype=torch.float64), 0) for _ in range(2))
    exact = float((policy.exp() * (policy - reference)).sum())
    for estimator in ("k1", "k3"):
        mean = float((policy.exp() * kl_per_token(policy, reference, estimator)).sum())
        assert mean == pytest.approx(exact, abs=1e-12)
    assert bool((kl_per_token(policy, reference, "k3") >= 0).all())
    assert not bool(kl_per_token(policy, policy, "k2").any())
    with pytest.raises(ConfigError, match="got 'k4'"):
        kl_per_token(policy, reference, "k4")


def test_baselines_leave_the_completion_itself_out() -> None:
    rewards, groups = torch.tensor([1.0, 2.0, 6.0, 4.0, 9.0]), torch.tensor([3, 5, 3, 3, 5])
    assert leave_one_out(rewards, groups).tolist() == [-4.0, -7.0, 3.5, 0.5, 7.0]
    assert not bool(leave_one_out(torch.full((4,), 2.5), torch.tensor([1, 1, 1, 1])).any())
