"""Bounded staleness: what an older version drew is learned up to a bound, and left out beyond it."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch

from headrace.config import require
from headrace.errors import CorruptSnapshot
from headrace.learn.rollouts import rows_of
from headrace.types import Batch, Change, Loss, State, Version


class _Learner(Protocol):
    """A learner that knows its version, and can be resumed."""

    @property
    def version(self) -> int:
        """Number of the newest version that changes were told of."""
        ...

    def learn(self, batch: Batch) -> Loss:
        """Learn a batch."""
        ...

    def changes(self, since: Version) -> Change:
        """Return what changed."""
        ...

    def state(self) -> State:
        """Return its state."""
        ...

    def restore(self, state: State) -> None:
        """Continue."""
        ...


class BoundedStaleness:
    """A learner to which only what a recent version drew comes through; implements `Learner` and `Resumable`.

    What comes through is as many versions old as it is: the learner inside corrects for that by the log-probabilities
    that were logged (the ratio of PPO, or `Reinforce(corrected=...)`). What is older than the bound, or of a version
    that is not known, would need ratios that say nothing any more; it is left out, and counted.

    Args:
        inside: The learner.
        most: Versions that a completion may be behind the learner; 0: the newest only (synchronous).

    Attributes:
        refused: Completions left out so far.

    Raises:
        ConfigError: If the bound is negative.
    """

    def __init__(self, inside: _Learner, most: int) -> None:
        require(most >= 0, "BoundedStaleness, most", got=most, expected="0 or more versions")
        self.inside, self.most, self.refused = inside, most, 0

    @property
    def version(self) -> int:
        """Number of the newest version that changes were told of."""
        return self.inside.version

    def learn(self, batch: Batch) -> Loss:
        """Learn what is fresh enough; a loss of 0 where nothing is.

        Returns:
            The loss of the learner inside. Parts beside it: `behind` (mean versions of what was learned) and `refused`
            (share of the batch).
        """
        behind_B = self.inside.version - batch.versions
        fresh_B = (batch.versions >= 0) & (behind_B <= self.most)
        kept = int(fresh_B.sum())
        gone = len(batch) - kept
        if kept == 0:
            loss = Loss(torch.zeros(()), {})
        else:
            loss = self.inside.learn(batch if gone == 0 else rows_of(batch, torch.nonzero(fresh_B).squeeze(1)))
        self.refused += gone
        parts = {"refused": gone / len(batch) if len(batch) else 0.0}
        if kept:
            parts["behind"] = float(behind_B[fresh_B].float().mean())
        return replace(loss, parts={**loss.parts, **parts})

    def changes(self, since: Version) -> Change:
        """Return what changed since a version."""
        return self.inside.changes(since)

    def state(self) -> State:
        """Return the state of the learner inside, and how many were left out."""
        return {"inside": self.inside.state(), "refused": self.refused}

    def restore(self, state: State) -> None:
        """Continue from what `state` returned; see the learner inside.

        Raises:
            CorruptSnapshot: If it is not the state of such a learner; nothing was changed.
        """
        inside, refused = state.get("inside"), state.get("refused")
        if not isinstance(inside, dict) or not isinstance(refused, int):
            raise CorruptSnapshot("State of a bounded learner", got=str(sorted(state)), expected="what state() returns",
                                  do="It was saved without a bound, or by another; begin a new run.")  # fmt: skip
        self.inside.restore(inside)
        self.refused = refused
