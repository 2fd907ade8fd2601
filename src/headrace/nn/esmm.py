"""ESMM: a chain of labels, click and conversion, learned over all impressions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from headrace.nn.fields import FlatInputs
from headrace.nn.layers import InputLayout, generator
from headrace.nn.probability import product_logit
from headrace.nn.tasks import Tasks
from headrace.types import Batch


class ESMM(nn.Module):
    """Entire-space model of a chain of labels: click, and conversion after a click, over all impressions.

    A tower per step says how probable the step is once all earlier ones have happened; column t of the output is the
    logit of steps 0 to t all having happened, the product of the towers' probabilities: for two steps pCTR and
    pCTCVR = pCTR * pCVR. Both can be learned on every impression, so pCVR is learned without ever being trained on
    clicked impressions alone, and its embeddings learn from all of them.

    Args:
        embed: Maps a batch to `{feature: (B, D)}`; all D columns are inputs; the steps share them and nothing else.
        features: Names of the id features, in the order of the inputs.
        dense_dim: Number of dense columns; they follow the features.
        hidden: Hidden widths of every tower.
        priors: Rate that each step starts from, given the steps before; as many as there are steps.
        dropout: Share of each hidden layer dropped in training.
        seed: Seed of the initial weights.

    Shapes:
        Batch of B -> logits (B, T).

    Raises:
        ConfigError: If there is no input or no step.

    Source:
        Ma et al. 2018, "Entire Space Multi-Task Model: An Effective Approach for Estimating Post-Click Conversion
        Rate". We multiply in logits (`product_logit`); the paper multiplies probabilities.
    """

    def __init__(
        self, embed: nn.Module, features: Sequence[str], dense_dim: int, hidden: Sequence[int] = (64, 32), *,
        priors: Sequence[float] = (0.5, 0.5), dropout: float = 0.0, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embed, self.features = embed, tuple(features)
        self.inputs = FlatInputs(embed, features, dense_dim)
        tasks = Tasks(priors=tuple(priors), towers=hidden)
        self.towers = tasks.build(self.inputs.width, generator(seed), dropout)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B, T) of every step together with all earlier ones."""
        steps_BT = self.steps(batch)
        columns = [steps_BT[:, 0]]
        for step in range(1, steps_BT.shape[1]):
            columns.append(product_logit(columns[-1], steps_BT[:, step]))
        return torch.stack(columns, dim=1)

    def steps(self, batch: Batch) -> Tensor:
        """Return logits (B, T) of every step given that all earlier ones happened: pCTR, pCVR."""
        inputs_BI = self.inputs(self.embed, batch)
        return torch.cat([tower(inputs_BI) for tower in self.towers], dim=1)

    def input_axes(self) -> dict[str, InputLayout]:
        """Return how parameters are laid out over the inputs; see `InputAxis`."""
        return self.inputs.axes(*(f"towers.{task}.layers.0.weight" for task in range(len(self.towers))))
