"""The loss of a ranker and the loss of the towers before it, from one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from torch import nn

from headrace.config import require
from headrace.errors import ConfigError
from headrace.objectives.retrieval import SampledSoftmax
from headrace.objectives.supervised import LogLoss
from headrace.protocols import Objective
from headrace.types import Batch, Loss


@dataclass(frozen=True, slots=True)
class TwoStageLoss:
    """`rank + weight x find`: the ranker learns what is clicked, the towers which item it was, from one batch.

    Attributes:
        rank: The loss of the ranker's logits; corrected for sampling as it says.
        find: The loss of the towers.
        weight: Weight of the towers' loss.

    Raises:
        ConfigError: If the weight is negative; or, when called, if the model has no two stages.

    Shapes:
        The model is a `headrace.nn.TwoStage`; `logits` (B,) are the ranker's.
    """

    rank: Objective = field(default_factory=LogLoss)
    find: Objective = field(default_factory=SampledSoftmax)
    weight: float = 1.0

    def __post_init__(self) -> None:
        require(self.weight >= 0.0, "weight", got=self.weight, expected="0 or more")

    def spec(self) -> Mapping[str, str]:
        """Return what the ranker's loss says about itself."""
        own = getattr(self.rank, "spec", None)
        return own() if callable(own) else {}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the sum; `parts` has those of both, not weighted."""
        towers, forget = getattr(model, "retrieval", None), getattr(model, "forget", None)
        if not isinstance(towers, nn.Module) or not callable(forget):
            raise ConfigError("TwoStageLoss, model", got=f"a {type(model).__name__} without two stages",
                              expected="headrace.nn.TwoStage", do="Use the ranker's objective as it is.")  # fmt: skip
        try:
            ranked, found = self.rank(model, batch), self.find(towers, batch)
        finally:
            cast("Callable[[], None]", forget)()
        return Loss(ranked.total + self.weight * found.total, {**ranked.parts, **found.parts}, ranked.logits)
