"""Data with a planted answer: a stream whose signal only an embedding per id and their interaction can find.

Users and items carry sign patterns. Whether an example is positive depends on how well the two patterns agree, and on
nothing else: every user and every item, taken alone, is positive equally often, to the last digit. So a model of
popularity (or a logistic regression on the ids) is worth exactly a coin, AUC 0.5, while a model that multiplies
embeddings can reach `best_auc`, which is computed, not estimated. In the drifting version some items change their
pattern from time to time, so a model that stopped learning falls to the AUC that `frozen_auc` states.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from headrace.config import require
from headrace.types import Batch, Events, Jagged

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
MICROSECONDS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """A toy.

    Attributes:
        seed: Everything random follows from it.
        users: A multiple of 2**signs.
        items: A multiple of 2**signs.
        signs: Length of the sign patterns.
        strength: The logit of an example is strength * (agreeing signs - disagreeing signs) / sqrt(signs) + bias.
        bias: Moves the share of positives.
        rows_per_s: Examples per second of event time.
        start_us: Event time of the first example.
        drift_every_s: Time between two changes of patterns; None: nothing drifts.
        drift_share: Share of the items whose patterns are dealt anew at each change.
    """

    seed: int = 0
    users: int = 64
    items: int = 64
    signs: int = 3
    strength: float = 2.0
    bias: float = 0.0
    rows_per_s: float = 100.0
    start_us: int = 1_700_000_000 * MICROSECONDS
    drift_every_s: float | None = None
    drift_share: float = 0.25

    def __post_init__(self) -> None:
        require(1 <= self.signs <= 16, "signs", got=self.signs, expected="1 to 16")
        for name in ("users", "items"):
            value = getattr(self, name)
            require(
                value > 0 and value % 2**self.signs == 0, name, got=value,
                expected=f"a positive multiple of {2**self.signs}", do="Then no id has a signal of its own.",
            )  # fmt: skip
        require(self.rows_per_s > 0, "rows_per_s", got=self.rows_per_s, expected="a positive number")
        every = self.drift_every_s
        require(every is None or every > 0, "drift_every_s", got=every, expected="None or a positive number")
        require(0 <= self.drift_share <= 1, "drift_share", got=self.drift_share, expected="a share from 0 to 1")


class Toy:
    """A stream of examples with a planted answer; row n is a function of the seed, so any part can be made alone.

    Args:
        config: The toy.

    Example:
        >>> toy = Toy(ToyConfig())
        >>> round(toy.best_auc(), 3), toy.additive_auc()
        (0.852, 0.5)
        >>> toy.events(0, 3).names[3:6]
        ['item', 'user', 'label']
    """

    def __init__(self, config: ToyConfig) -> None:
        self.config = config
        patterns = (np.arange(2**config.signs)[:, None] >> np.arange(config.signs)) & 1
        self._patterns = 2.0 * patterns - 1.0
        deal = np.random.Generator(np.random.Philox(key=[config.seed, 1]))
        self._users = deal.permutation(np.arange(config.users) % len(patterns))
        self._items = [deal.permutation(np.arange(config.items) % len(patterns))]

    def probability(self, users: Ints, items: Ints, era: int = 0) -> Floats:
        """Return the exact probability of a positive for pairs of users and items in an era.

        Shapes: users (N,), items (N,); the result (N,).
        """
        config = self.config
        signs = self._patterns[self._users[users]], self._patterns[self._item_patterns(era)[items]]
        agree = np.einsum("nk,nk->n", *signs)
        return np.asarray(1.0 / (1.0 + np.exp(-config.strength * agree / config.signs**0.5 - config.bias)))

    def era(self, times: Ints) -> Ints:
        """Return how often patterns have changed by each event time (µs)."""
        if self.config.drift_every_s is None:
            return np.zeros(np.shape(times), dtype=np.int64)
        return np.asarray((times - self.config.start_us) // int(self.config.drift_every_s * MICROSECONDS))

    def _item_patterns(self, era: int) -> Ints:
        """Return the pattern of every item; a change permutes the patterns of some items, so the balance stays."""
        while len(self._items) <= era:
            count = len(self._items)
            deal = np.random.Generator(np.random.Philox(key=[self.config.seed, 2], counter=[0, 0, 0, count]))
            chosen = deal.permutation(self.config.items)[: round(self.config.drift_share * self.config.items)]
            patterns = self._items[-1].copy()
            patterns[chosen] = patterns[deal.permutation(chosen)]
            self._items.append(patterns)
        return self._items[era]

    def columns(self, first: int, rows: int) -> dict[str, npt.NDArray[np.generic]]:
        """Return users, items, times (µs) and labels of rows first .. first + rows. Shapes: each (rows,)."""
        parts = [self._block(block) for block in range(first // BLOCK, (first + rows - 1) // BLOCK + 1)] if rows else []
        if not parts:
            return {name: value[:0] for name, value in self._block(0).items()}
        offset = first - first // BLOCK * BLOCK
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return {name: value[offset : offset + rows] for name, value in joined.items()}

    def _block(self, block: int) -> dict[str, npt.NDArray[np.generic]]:
        draw = np.random.Generator(np.random.Philox(key=[self.config.seed, 3], counter=[0, 0, 0, block]))
        users, items = draw.integers(self.config.users, size=BLOCK), draw.integers(self.config.items, size=BLOCK)
        numbers = np.arange(block * BLOCK, (block + 1) * BLOCK)
        times = self.config.start_us + (numbers * (MICROSECONDS / self.config.rows_per_s)).astype(np.int64)
        chance, eras = draw.random(BLOCK), self.era(times)
        labels = np.zeros(BLOCK, dtype=np.float32)
        for era in np.unique(eras):
            rows = np.flatnonzero(eras == era)
            labels[rows] = chance[rows] < self.probability(users[rows], items[rows], int(era))
        return {"users": users, "items": items, "times": times, "labels": labels}

    def events(self, first: int, rows: int) -> Events:
        """Return rows of kind `example`, as a joiner writes them, with string columns `user` and `item`."""
        made = self.columns(first, rows)
        numbers = np.arange(first, first + rows)
        return Events.from_columns({
            "key": _named("r", numbers), "kind": pa.repeat(pa.scalar("example"), rows), "event_time": made["times"],
            "item": _named("i", made["items"]), "user": _named("u", made["users"]), "label": made["labels"],
            "example_id": numbers, "sample_rate": np.ones(rows, dtype=np.float32),
            "action_time": np.where(made["labels"] == 1.0, made["times"], 0), "accepted_time": made["times"],
        })  # fmt: skip

    def batch(self, first: int, rows: int) -> Batch:
        """Return rows as a batch with ids `user` and `item`; no dense features, no predictions."""
        made = self.columns(first, rows)
        times = torch.from_numpy(np.array(made["times"], dtype=np.int64))
        offsets = torch.arange(rows + 1)
        users, items = (torch.from_numpy(np.array(made[name], dtype=np.int64)) for name in ("users", "items"))
        return Batch(
            ids={"user": Jagged(users, offsets), "item": Jagged(items, offsets)}, dense=torch.zeros(rows, 0),
            labels=torch.from_numpy(np.array(made["labels"], dtype=np.float32)),
            weights=torch.ones(rows), event_times=times, accepted_times=times.clone(),
            example_ids=torch.arange(first, first + rows), predictions=torch.full((rows,), float("nan")),
            versions=torch.full((rows,), -1), sample_rates=torch.ones(rows),
        )  # fmt: skip

    def batches(self, rows: int, count: int, *, first: int = 0) -> Iterator[Batch]:
        """Yield `count` batches of `rows` consecutive examples."""
        for number in range(count):
            yield self.batch(first + number * rows, rows)

    def best_auc(self, era: int = 0) -> float:
        """Return the AUC of the true probabilities, exactly: over all pairs of users and items."""
        truth = self._grid(era)
        return _area(truth, truth)

    def additive_auc(self) -> float:
        """Return the AUC of the best score that is a sum of something of the user and something of the item: 0.5."""
        return 0.5

    def frozen_auc(self, learned: int, era: int) -> float:
        """Return the AUC in one era of a model that knows the truth of an earlier one and stopped learning."""
        return _area(self._grid(learned), self._grid(era))

    def _grid(self, era: int) -> Floats:
        users = np.repeat(np.arange(self.config.users), self.config.items)
        items = np.tile(np.arange(self.config.items), self.config.users)
        return self.probability(users, items, era)


BLOCK = 4096
"""Rows that are drawn together."""


def _named(letter: str, numbers: npt.NDArray[np.generic]) -> pa.Array:
    return pa.compute.binary_join_element_wise(letter, pa.array(numbers).cast(pa.string()), "")


def _area(scores: Floats, truth: Floats) -> float:
    """Return the probability that a positive scores above a negative, ties half, labels drawn from `truth`."""
    _, group = np.unique(np.round(scores, 12), return_inverse=True)
    above, below = np.bincount(group, weights=truth), np.bincount(group, weights=1.0 - truth)
    return float(np.dot(above, np.cumsum(below) - 0.5 * below) / (above.sum() * below.sum()))
