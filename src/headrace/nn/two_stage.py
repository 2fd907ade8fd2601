"""Both stages of a recommender as one model: towers that find candidates, and a ranker that orders them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from headrace.config import require
from headrace.nn.two_tower import TwoTower
from headrace.types import Batch


class TwoStage(nn.Module):
    """A ranker and two towers over the same embeddings, learned together and published as one version.

    Called, it is the ranker. The towers are `retrieval`; `headrace.objectives.TwoStageLoss` learns both from one batch,
    which is embedded once.

    Args:
        embed: Maps a batch to `{feature: (B, D)}`.
        rank: Builds the ranker over an embedding module.
        find: Builds the towers over an embedding module.

    Shapes:
        Batch of B -> logits (B,) of the ranker.

    Raises:
        ConfigError: If `find` returns something else than towers.
    """

    def __init__(
        self, embed: nn.Module, rank: Callable[[nn.Module], nn.Module], find: Callable[[nn.Module], TwoTower]
    ) -> None:
        super().__init__()
        once = _Once(embed)
        ranker, retrieval = rank(once), find(once)
        require(isinstance(retrieval, TwoTower), "TwoStage, find", got=type(retrieval).__name__, expected="a TwoTower")
        self.ranker, self.retrieval, self._once = ranker, retrieval, once

    def forward(self, batch: Batch) -> Tensor:
        """Return the ranker's logits (B,)."""
        logits: Tensor = self.ranker(batch)
        return logits

    def forget(self) -> None:
        """Let go of the embeddings of the last batch that was learned from."""
        self._once.forget()


class _Once(nn.Module):
    """Embeds a batch once where gradients are wanted, however many parts of the model ask."""

    def __init__(self, embed: nn.Module) -> None:
        super().__init__()
        self.embed = embed
        self._last: tuple[Batch, object] | None = None

    def forward(self, batch: Batch) -> object:
        """Return the embeddings of the batch."""
        if not torch.is_grad_enabled():  # serving: many threads, and nothing is kept
            return self.embed(batch)
        if self._last is None or self._last[0] is not batch:
            self._last = (batch, self.embed(batch))
        return self._last[1]

    def forget(self) -> None:
        self._last = None
