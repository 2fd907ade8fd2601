"""Strong generalisation with side information: users that were never learned from show k likes, and are ranked for.

Each user's likes are dealt into two parts: a share that only makes the side information (its genres stand for what a
user wrote), and the rest, which is learned from or, for held-out users, folded in and looked for. An item of the first
part is never looked for, so side information cannot tell of a target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from headrace.evaluate.catalogue import catalogue_values, mean_over_users
from headrace.papers.vae_priors.recipe import Floats, Integers, Likes
from headrace.types import Jagged

SIDE_SHARE = 0.3
POOL = 10
"""Likes of a held-out user that may be folded in; they are no candidates, whether folded in or not."""
LEAST_TARGETS = 5

Lists = list[Integers]
Score = Callable[[Integers, Lists], Tensor]
"""From users (B,) and the likes they show, to scores (B, M)."""


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """Users dealt out.

    Attributes:
        likes: All likes.
        told: Per user, the items that only side information is made of.
        rest: Per user, the other items, in random order.
        train, valid, test: Users.
    """

    likes: Likes
    told: Lists
    rest: Lists
    train: Integers
    valid: Integers
    test: Integers

    def genres(self) -> Floats:
        """Return the share of each genre in what the users told, standardised over the training users: (U, G)."""
        kinds = self.likes.kinds
        shares = np.stack([kinds[items].sum(0) / max(len(items), 1) for items in self.told])
        return self._standard(shares)

    def people(self) -> Floats:
        """Return the numbers about the users, standardised over the training users: (U, C)."""
        return self._standard(self.likes.people)

    def _standard(self, values: Floats) -> Floats:
        mean, spread = values[self.train].mean(0), values[self.train].std(0)
        standard: Floats = (values - mean) / np.where(spread > 0, spread, 1.0)
        return standard


def cut(likes: Likes, *, valid: int, test: int, seed: int) -> Cut:
    """Deal out likes and users; held-out users are those of `valid` and `test`, drawn from all with likes enough."""
    draw = np.random.default_rng(seed)
    told, rest = [], []
    for user in range(likes.users):
        own = draw.permutation(likes.of(user))
        many = round(SIDE_SHARE * len(own))
        told.append(own[:many])
        rest.append(own[many:])
    sizes = np.array([len(items) for items in rest])
    held = draw.permutation(np.flatnonzero(sizes >= POOL + LEAST_TARGETS))[: valid + test]
    train = np.setdiff1d(np.flatnonzero(sizes > 0), held)
    return Cut(likes, told, rest, train, held[:valid], held[valid:])


def dealt_anew(side: Floats, seed: int) -> Floats:
    """Return side information of users dealt out anew among all of them: the permuted control."""
    return side[np.random.default_rng(1000 + seed).permutation(len(side))]


def judge(
    dealt: Cut, users: Integers, score: Score, *, folded: int, k: int, name: str, rows: int | None = None
) -> float:
    """Return the mean of a metric over users who show their first `folded` likes.

    Args:
        dealt: The users' likes.
        users: Held-out users.
        score: What is judged.
        folded: Likes shown, at most `POOL`.
        k: Places that count.
        name: One of `CATALOGUE_METRICS`.
        rows: Users scored at a time; None: all. The result does not depend on it.
    """
    step, parts = rows or len(users), list[Floats]()
    for start in range(0, len(users), step):
        some = users[start : start + step]
        scores = score(some, [dealt.rest[user][:folded] for user in some])
        targets = jagged([dealt.rest[user][POOL:] for user in some])
        out = jagged([np.concatenate([dealt.told[user], dealt.rest[user][:POOL]]) for user in some])
        parts.append(catalogue_values(scores, targets, k=k, seen=out, names=(name,))[name])
    return mean_over_users(parts)


def jagged(lists: Sequence[Integers]) -> Jagged:
    """Return lists of unequal length as one jagged column."""
    lengths = [0, *(len(items) for items in lists)]
    values = np.concatenate(lists) if lists else np.zeros(0, np.int64)
    return Jagged(torch.from_numpy(values.astype(np.int64)), torch.from_numpy(np.cumsum(lengths)))
