"""From rewards to advantages: penalties for leaving the reference, generalised advantages, baselines, whitening.

All tensors are (B, T), one row per completion, zeros behind its end; `there` says where there is a token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from headrace.config import known_name
from headrace.errors import DataError

ESTIMATORS = ("k1", "k2", "k3")
"""How the distance from the reference is estimated from one token: `k1` the log-ratio l, unbiased and of either sign;
`k2` l²/2; `k3` exp(-l) - 1 + l, unbiased and never negative."""


def kl_per_token(log_probs_BT: Tensor, reference_BT: Tensor, estimator: str = "k1") -> Tensor:
    """Return an estimate of the distance from the reference at each token, from tokens that the policy drew.

    Example:
        >>> kl_per_token(torch.tensor([-1.0]), torch.tensor([-1.5])).tolist()
        [0.5]
    """
    known_name("KL estimator", estimator, ESTIMATORS)
    ratio_BT = log_probs_BT - reference_BT
    if estimator == "k1":
        return ratio_BT
    return 0.5 * ratio_BT.square() if estimator == "k2" else (-ratio_BT).exp() - 1.0 + ratio_BT


def token_rewards(rewards_B: Tensor, penalties_BT: Tensor, there_BT: Tensor) -> Tensor:
    """Return rewards per token: minus its penalty at every token, and the reward of the whole at the last one.

    Raises:
        DataError: If a completion has no token.
    """
    lengths_B = there_BT.sum(1)
    if len(lengths_B) and int(lengths_B.min()) == 0:
        raise DataError(f"Completion {int(lengths_B.argmin())}", got="no tokens", expected="at least one")
    rewards_BT = -penalties_BT * there_BT
    last_B = lengths_B - 1
    return rewards_BT.scatter_add(1, last_B.unsqueeze(1), rewards_B.unsqueeze(1).to(rewards_BT.dtype))


def generalised_advantages(
    rewards_BT: Tensor, values_BT: Tensor, there_BT: Tensor, *, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Return generalised advantages and returns (advantage plus value), both (B, T).

    `A_t = delta_t + gamma lam A_{t+1}` with `delta_t = r_t + gamma V_{t+1} - V_t`; behind the last token both are 0.
    With `gamma = lam = 1` the returns are the sums of the rewards still to come.

    Source:
        Schulman et al. 2015, "High-Dimensional Continuous Control Using Generalized Advantage Estimation".

    Example:
        >>> ones = torch.ones(1, 3)
        >>> generalised_advantages(ones, torch.zeros(1, 3), ones > 0, gamma=1.0, lam=1.0)[1].tolist()
        [[3.0, 2.0, 1.0]]
    """
    rewards_BT, values_BT = rewards_BT * there_BT, values_BT * there_BT
    found_BT = torch.zeros_like(values_BT)
    ahead_B, value_B = torch.zeros_like(values_BT[:, 0]), torch.zeros_like(values_BT[:, 0])
    for place in range(values_BT.shape[1] - 1, -1, -1):
        delta_B = rewards_BT[:, place] + gamma * value_B - values_BT[:, place]
        ahead_B = (delta_B + gamma * lam * ahead_B) * there_BT[:, place]
        value_B = values_BT[:, place]
        found_BT[:, place] = ahead_B
    return found_BT, (found_BT + values_BT) * there_BT


def whitened(values_BT: Tensor, there_BT: Tensor, *, shift: bool = True) -> Tensor:
    """Return values with deviation 1 over all tokens, and mean 0 unless `shift` is off; zeros behind the ends.

    The variance is the unbiased one, with 1e-8 added, as in TRL.
    """
    count = there_BT.sum().clamp(min=1)
    mean = (values_BT * there_BT).sum() / count
    variance = ((values_BT - mean).square() * there_BT).sum() / (count - 1).clamp(min=1)
    return ((values_BT - mean) * torch.rsqrt(variance + 1e-8) + (0.0 if shift else mean)) * there_BT


def leave_one_out(rewards_B: Tensor, groups_B: Tensor) -> Tensor:
    """Return each reward minus the mean of the other rewards of its group, (B,); 0 in a group of one.

    Args:
        rewards_B: Rewards.
        groups_B: Which completions answer the same prompt: equal numbers, int64.

    Source:
        Ahmadian et al. 2024, "Back to Basics" (RLOO).

    Example:
        >>> leave_one_out(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([7, 7, 9])).tolist()
        [-2.0, 2.0, 0.0]
    """
    _, places_B, counts = torch.unique(groups_B, return_inverse=True, return_counts=True)
    sums_B = rewards_B.new_zeros(len(counts)).index_add(0, places_B, rewards_B)[places_B]
    others_B = (counts[places_B] - 1).to(rewards_B.dtype)
    return torch.where(others_B > 0, rewards_B - (sums_B - rewards_B) / others_B.clamp(min=1), 0.0)
