"""A second loss that a model computes on the way, added to any objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from headrace.config import require
from headrace.errors import ConfigError
from headrace.protocols import Objective
from headrace.types import Batch, Loss


@dataclass(frozen=True, slots=True)
class WithAuxiliary:
    """`objective + weight x auxiliary`: for models that have a loss of their own inside, as DIEN does.

    The model is called once for both: its `forward_with_auxiliary(batch)` returns `(what forward returns, loss)`.

    Attributes:
        objective: The loss of the model's outputs; it calls the model as ever.
        weight: Weight of the auxiliary loss.

    Raises:
        ConfigError: If the weight is negative; or, when called, if the model has no `forward_with_auxiliary`, or the
            objective did not call it exactly once.

    Source:
        Zhou et al. 2019, "Deep Interest Evolution Network", `L = L_target + alpha L_aux`; 1 in the authors' code.
    """

    objective: Objective
    weight: float = 1.0

    def __post_init__(self) -> None:
        require(self.weight >= 0.0, "weight", got=self.weight, expected="0 or more")

    def spec(self) -> Mapping[str, str]:
        """Return what the objective inside says about itself."""
        own = getattr(self.objective, "spec", None)
        return own() if callable(own) else {}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the sum; `parts` has those of the objective and `auxiliary`, not weighted."""
        heard = _Heard(model)
        loss = self.objective(heard, batch)
        if len(heard.losses) != 1:
            raise ConfigError("WithAuxiliary", got=f"an objective that called the model {len(heard.losses)} times",
                              expected="once")  # fmt: skip
        auxiliary = heard.losses[0]
        parts = {**loss.parts, "auxiliary": float(auxiliary.detach())}
        return Loss(loss.total + self.weight * auxiliary, parts, loss.logits)


class _Heard(nn.Module):
    """The model, and what its auxiliary loss was each time it was called."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        call = getattr(model, "forward_with_auxiliary", None)
        if not callable(call):
            raise ConfigError("WithAuxiliary, model", got=f"a {type(model).__name__} without an auxiliary loss",
                              expected="a model with forward_with_auxiliary(batch)",
                              do="Use the objective as it is.")  # fmt: skip
        self._call = call
        self.losses: list[Tensor] = []

    def forward(self, batch: Batch) -> object:
        """Return what the model's own forward would."""
        outputs, loss = self._call(batch)
        self.losses.append(loss)
        return outputs
