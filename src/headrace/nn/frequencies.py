"""How likely an item is to be in a batch: what a softmax over the items of a batch has to be corrected by."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from headrace.config import require
from headrace.errors import DataError

_ODD = (-7046029254386353131, -4417276706812531889, 1609587929392839161, -8796714831421723037)
"""Multipliers of the hashes, as signed 64-bit numbers; each row of buckets has its own."""


class StreamingFrequencies(nn.Module):
    """Chance of each item to be in a batch, learned from a stream of batches in memory that does not grow.

    For each bucket it keeps the batch at which an item was last seen and the mean number of batches from one sight to
    the next; the chance is one over that. The mean is over all sights at first and over about `1 / rate` later, so
    that it follows a change. Items that share a bucket look more frequent than they are; of several rows of buckets
    the longest interval counts. It learns when it is called in training mode, once per batch.

    Its numbers are buffers: they are saved, restored and published with the model (20 bytes for each bucket).

    Args:
        buckets: Buckets in each row; several times as many as there are items.
        rows: Rows of buckets with hashes of their own, 1 to 4.
        rate: Share of the newest interval in the mean once there are many.

    Shapes:
        distinct ids (N,) int64 -> log of the chance (N,) float32, at most 0.

    Raises:
        ConfigError: If a setting cannot work.

    Source:
        Yi et al. 2019, "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", algorithm 2.
        We differ in the first intervals, which are averaged, where the paper starts from a given one.

    Example:
        >>> seen = StreamingFrequencies(64)
        >>> for batch in range(6):
        ...     log_chance = seen(torch.tensor([1, 2]) if batch % 3 == 2 else torch.tensor([1]))
        >>> [round(chance, 3) for chance in log_chance.exp().tolist()]
        [1.0, 0.333]
    """

    def __init__(self, buckets: int = 16_384, *, rows: int = 2, rate: float = 0.01) -> None:
        super().__init__()
        require(buckets >= 1, "buckets", got=buckets, expected="1 or more")
        require(1 <= rows <= len(_ODD), "rows", got=rows, expected=f"1 to {len(_ODD)}")
        require(0.0 < rate <= 1.0, "rate", got=rate, expected="a share in (0, 1]")
        self.rate = rate
        self.step: Tensor
        self.last: Tensor
        self.sights: Tensor
        self.interval: Tensor
        self.register_buffer("step", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("last", torch.zeros(rows, buckets, dtype=torch.int64))
        self.register_buffer("sights", torch.zeros(rows, buckets, dtype=torch.int64))
        self.register_buffer("interval", torch.zeros(rows, buckets))

    @torch.no_grad()
    def forward(self, ids_N: Tensor) -> Tensor:
        """Return the log of every id's chance to be in a batch; in training mode, first take note that they were."""
        places = self._places(ids_N)
        if self.training:
            self.step += 1
            for row, place_N in enumerate(places):
                self._note(row, place_N)
        step = self.step.clamp(min=1)
        intervals_RN = torch.stack([self.interval[row, place_N] for row, place_N in enumerate(places)])
        unseen_RN = torch.stack([self.sights[row, place_N] == 0 for row, place_N in enumerate(places)])
        return -torch.where(unseen_RN, step.float(), intervals_RN).amax(0).clamp(min=1.0).log()

    def _note(self, row: int, place_N: Tensor) -> None:
        # Ids that share a bucket write the same numbers to it, so their order does not matter.
        sights = self.sights[row, place_N] + 1
        gap = (self.step - self.last[row, place_N]).float()
        before = self.interval[row, place_N]
        self.interval[row, place_N] = before + (gap - before) * (1.0 / sights).clamp(min=self.rate)
        self.sights[row, place_N], self.last[row, place_N] = sights, self.step.expand_as(place_N)

    def _places(self, ids_N: Tensor) -> list[Tensor]:
        found = []
        for odd in _ODD[: len(self.last)]:
            mixed = (ids_N ^ (ids_N >> 32)) * odd
            found.append(torch.remainder(mixed ^ (mixed >> 29), self.last.shape[1]))
        return found


class KnownFrequencies(nn.Module):
    """Chance of each item to be in a batch, from counts: one minus that of being in none of the other examples.

    Args:
        ids: The items.
        counts: How often each is drawn, relative to one another.
        batch_rows: Examples per batch, at least 2.

    Shapes:
        ids (M,) int64, counts (M,) positive; called with ids (N,) -> log of the chance (N,) float32.

    Raises:
        ConfigError: If ids repeat, a count is not positive, or `batch_rows` is below 2.

    Example:
        >>> known = KnownFrequencies(torch.tensor([7, 8]), torch.tensor([1.0, 3.0]), batch_rows=2)
        >>> known(torch.tensor([8, 7])).exp()
        tensor([0.7500, 0.2500])
    """

    def __init__(self, ids: Tensor, counts: Tensor, *, batch_rows: int) -> None:
        super().__init__()
        require(batch_rows >= 2, "batch_rows", got=batch_rows, expected="2 or more")
        require(ids.shape == counts.shape and bool((counts > 0).all()), "counts", got=f"shape {tuple(counts.shape)}",
                expected="one positive count for each id")  # fmt: skip
        known, order = ids.sort()
        require(bool((known[1:] > known[:-1]).all()), "ids", got="repeated ids", expected="distinct ones")
        share = counts[order].double() / counts.double().sum()
        self.ids: Tensor
        self.log_chance: Tensor
        self.register_buffer("ids", known, persistent=False)
        log_chance = torch.log(-torch.expm1((batch_rows - 1) * torch.log1p(-share.clamp(max=1 - 1e-12))))
        self.register_buffer("log_chance", log_chance.float(), persistent=False)

    def forward(self, ids_N: Tensor) -> Tensor:
        """Return the log of every id's chance to be in a batch.

        Raises:
            DataError: If an id has no count.
        """
        places = torch.searchsorted(self.ids, ids_N).clamp(max=len(self.ids) - 1)
        unknown = ids_N[self.ids[places] != ids_N]
        if len(unknown):
            raise DataError("Item frequencies", got=f"id {int(unknown[0])} and {len(unknown) - 1} more without a count",
                            expected="a count for each item",
                            do="Use StreamingFrequencies where items are new.")  # fmt: skip
        return self.log_chance[places]
