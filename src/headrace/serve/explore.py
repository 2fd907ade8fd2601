"""Which candidates are shown, and with what probability: greedy, epsilon-greedy and Thompson sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from headrace.config import require

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
NEGLIGIBLE = 1e-300


@dataclass(frozen=True, slots=True)
class Slate:
    """What is shown, and how likely that was.

    Attributes:
        chosen: Numbers of the candidates, in the order in which they are shown.
        propensities: Probability of each to be shown in this very place, over the policy's own chance alone.
        error: Largest standard error of a propensity; 0 where they are exact.

    Shapes:
        chosen (n,) int64; propensities (n,) in (0, 1].
    """

    chosen: Ints
    propensities: Floats
    error: float = 0.0


class Policy(Protocol):
    """Chooses what is shown among candidates that have scores."""

    @property
    def name(self) -> str:
        """What the log calls the policy."""
        ...

    def choose(self, logits: Floats, n: int, draw: np.random.Generator, spread: Floats | None = None) -> Slate:
        """Return at most `n` of M candidates.

        Args:
            logits: Scores as log-odds (M,).
            n: How many are wanted.
            draw: The chance.
            spread: (M, R), where a model knows how sure it is: `logits + spread @ z` with standard normal z (R,) is
                one draw of what the scores may be.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Greedy:
    """The best ones, in order; nothing is left to chance, so nothing can be learned about the others.

    Example:
        >>> Greedy().choose(np.array([0.1, 0.9, 0.5]), 2, np.random.default_rng(0)).chosen.tolist()
        [1, 2]
    """

    @property
    def name(self) -> str:
        """What the log calls the policy."""
        return "greedy"

    def choose(self, logits: Floats, n: int, draw: np.random.Generator, spread: Floats | None = None) -> Slate:
        """Return the best `n`."""
        chosen = best_first(logits)[:n]
        return Slate(chosen, np.ones(len(chosen)))


@dataclass(frozen=True, slots=True, kw_only=True)
class EpsilonGreedy:
    """Place by place: with probability epsilon any of those left, all alike; otherwise the best of them.

    The logged propensity is the exact probability that this candidate stands in this place, over the chance of this
    place and of all before it. Every candidate may come to every place, so any other policy over the same candidates
    can be judged on the log.

    Attributes:
        epsilon: Share of places that are given away by chance.

    Cost:
        Probabilities depend on (M, n, epsilon) alone and are kept; making them takes O(n²) where M is large.
    """

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        require(0.0 < self.epsilon <= 1.0, "epsilon", got=self.epsilon, expected="a share in (0, 1]",
                do="Greedy() leaves nothing to chance.")  # fmt: skip

    @property
    def name(self) -> str:
        """What the log calls the policy."""
        return f"epsilon-greedy {self.epsilon:g}"

    def choose(self, logits: Floats, n: int, draw: np.random.Generator, spread: Floats | None = None) -> Slate:
        """Return `n` candidates, or all there are."""
        n = min(n, len(logits))
        order, left, ranks = best_first(logits), list(range(len(logits))), list[int]()
        for coin in draw.random(n):
            ranks.append(left.pop(int(draw.integers(len(left))) if coin < self.epsilon else 0))
        table = place_probabilities(len(logits), n, self.epsilon)
        chances = [table[place, min(rank, n)] for place, rank in enumerate(ranks)]
        return Slate(order[np.array(ranks, dtype=np.int64)], np.array(chances))


@dataclass(frozen=True, slots=True, kw_only=True)
class Thompson:
    """The best ones under weights drawn from what is believed of them: uncertain candidates are shown more often.

    Needs a model that knows how sure it is of its last layer (`headrace.nn.LastLayerPosterior`). Propensities are
    counted over `draws` draws, the one that is shown among them. So none is 0; and since the mean of 1 / propensity
    is then (1 - (1 - p)^draws) / p for a true probability p, importance weights are unbiased but for that tiny part.

    Attributes:
        scale: Multiplies the standard deviation of the draws; below 1 explores less.
        draws: Draws that a propensity is counted over. Its standard error is sqrt(p (1 - p) / draws).

    Cost:
        O(draws M R) for M candidates and R weights.

    Source:
        Riquelme, Tucker and Snoek 2018, "Deep Bayesian Bandits Showdown" (neural linear). We differ in the logistic
        last layer with a Laplace approximation.
    """

    scale: float = 1.0
    draws: int = 256

    def __post_init__(self) -> None:
        require(0.0 < self.scale < math.inf, "scale", got=self.scale, expected="a positive number")
        require(2 <= self.draws <= 100_000, "draws", got=self.draws, expected="from 2 to 100000")

    @property
    def name(self) -> str:
        """What the log calls the policy."""
        return f"thompson {self.scale:g} of {self.draws} draws"

    def choose(self, logits: Floats, n: int, draw: np.random.Generator, spread: Floats | None = None) -> Slate:
        """Return the best `n` of one draw; the best as they are where the model does not know how sure it is."""
        n = min(n, len(logits))
        if spread is None or not n:
            return Greedy().choose(logits, n, draw)
        noise = draw.standard_normal((self.draws, spread.shape[1]), dtype=np.float32)
        moves = torch.from_numpy(noise) @ torch.from_numpy(np.asarray(spread, dtype=np.float32)).T
        drawn_SM = torch.from_numpy(np.asarray(logits, dtype=np.float32)) + self.scale * moves
        slates_SN = drawn_SM.topk(n, dim=1).indices.numpy()
        shown = slates_SN[0].astype(np.int64)
        shares = (slates_SN == shown).mean(axis=0)
        return Slate(shown, shares, float(np.sqrt(shares * (1 - shares) / self.draws).max()))


def best_first(scores: npt.NDArray[np.floating]) -> Ints:
    """Return the numbers of scores from the highest to the lowest; equal ones keep their order."""
    return np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")


@lru_cache(maxsize=512)
def place_probabilities(candidates: int, places: int, epsilon: float) -> Floats:
    """Return how likely epsilon-greedy puts the candidate of each rank into each place, exactly.

    After p places the state is one number t, the length of the run of best ranks that are gone: the p - t others that
    are gone are any of the ranks behind t, all subsets alike, because chance treats those ranks alike.

    Shapes:
        (places, places + 1): row place, column rank 0 (best) to places - 1; the last column is that of every rank
        behind these, which are alike.

    Example:
        >>> place_probabilities(4, 1, 0.4)
        array([[0.7, 0.1]])
    """
    table = np.zeros((places, places + 1))
    runs = np.zeros(places + 2)
    runs[0] = 1.0
    ranks = np.arange(places + 1)
    for place in range(places):
        left, following = candidates - place, np.zeros(places + 2)
        any_of_them = epsilon / left
        for run in range(place + 1):
            chance = runs[run]
            if chance <= NEGLIGIBLE:
                continue
            gone, behind = place - run, candidates - run - 1
            best = 1.0 - epsilon + any_of_them
            table[place] += chance * np.where(ranks == run, best, 0.0)
            if behind:
                table[place] += chance * np.where(ranks > run, any_of_them * (1.0 - gone / behind), 0.0)
            following[run] += chance * any_of_them * (left - 1)
            _spread_runs(following, run, gone, behind, chance * best)
        runs = following
    table.setflags(write=False)
    return table


def _spread_runs(following: Floats, run: int, gone: int, behind: int, chance: float) -> None:
    """Add the chance that the run grows by its next rank, and by those behind it that happen to be gone already."""
    further = 0
    while chance > NEGLIGIBLE:
        gone_next = (gone - further) / (behind - further) if behind > further else 0.0
        following[run + 1 + further] += chance * (1.0 - gone_next)
        chance *= gone_next
        further += 1
