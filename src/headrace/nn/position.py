"""Position bias: people click what stands on top, so a click says less about an item the higher it stood.

A tower of its own learns the effect of the place, and the rest of the model the relevance. The place is a feature with
`serve_as`: learners see the real one, servers the reference place, where the tower adds nothing, so what is served is
the relevance alone. One schema and one model do for both.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from headrace.config import known_name, require
from headrace.errors import DataError, nearest
from headrace.nn.fields import log_odds
from headrace.nn.probability import product_logit
from headrace.types import Batch

Form = Literal["additive", "examination"]
WHOLE = 1e-3
"""How far a place may be from a whole number: places travel as float32."""


class PositionTower(nn.Module):
    """A relevance model and, apart from it, the effect of the place at which an example was shown.

    - `additive`: `logit = relevance + bias[place]`, a shallow tower beside the model.
    - `examination`: `p = examined[place] * sigmoid(relevance)`: nobody clicks what they do not look at. The product is
      formed in logits.

    Both are pinned at the reference place (bias 0, examined 1), because a constant could otherwise move from one part
    into the other. In `examination` the reference has to be the place that is looked at most. The relevance model
    always sees the reference place, so it cannot learn the effect a second time.

    Places at which good items always stand, and others never, cannot be told from good items: a share of shuffled
    lists, or different lists for different people, is what this is learned from.

    Args:
        relevance: Maps a batch to logits (B,) or (B, T); every column gets the same effect.
        position: Where a batch has the place: the number of a dense column
            (`schema.dense_names.index("position")`, transform `identity`), or the name of an id feature of integers.
            The relevance model must not be built over such an id feature.
        places: Places that have an effect of their own: 1 to this; later ones share the last one's.
        form: See above.
        reference: The place that is served (`serve_as` of the feature).
        scenarios: Number of scenarios that have effects of their own (`Batch.extra["scenario"]`); 1: one for all.

    Shapes:
        Batch of B -> logits (B,) or (B, T), as the relevance model.

    Raises:
        ConfigError: If a setting cannot work.

    Source:
        Zhao et al. 2019, "Recommending What Video to Watch Next: A Multitask Ranking System" (additive); Guo et al.
        2019, "PAL: A Position-bias Aware Learning Framework for CTR Prediction in Live Recommender Systems"
        (examination; its second factor is served alone, as here).
    """

    def __init__(
        self, relevance: nn.Module, position: int | str, places: int = 20, *, form: Form = "examination",
        reference: int = 1, scenarios: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        known_name("form", form, get_args(Form))
        require(places >= 2, "places", got=places, expected="at least 2")
        require(1 <= reference <= places, "reference", got=reference, expected=f"a place from 1 to {places}")
        require(scenarios >= 1, "scenarios", got=scenarios, expected="a positive number")
        self.relevance, self.position, self.places = relevance, position, places
        self.form, self.reference, self.scenarios = form, reference, scenarios
        start = 0.0 if form == "additive" else log_odds(0.9)
        self.effects = nn.Parameter(torch.full((scenarios, places), start))

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B,) or (B, T)."""
        places_B = self._places(batch)
        logits: Tensor = self.relevance(self._at_reference(batch))
        rows_B = self._scenarios(batch)
        effects_B = self.effects[rows_B, places_B]
        elsewhere_B = places_B != self.reference - 1
        shape = (-1,) + (1,) * (logits.dim() - 1)
        effects, elsewhere = effects_B.reshape(shape), elsewhere_B.reshape(shape)
        if self.form == "additive":
            pinned = self.effects[rows_B, self.reference - 1].reshape(shape)
            return logits + (effects - pinned)
        return torch.where(elsewhere, product_logit(logits, effects), logits)

    @torch.no_grad()
    def effect(self) -> Tensor:
        """Return the learned effect of every place, (scenarios, places).

        For `additive` what a place adds to the logit, for `examination` the share of people who look there; both
        relative to the reference place, where they are 0 and 1.
        """
        if self.form == "additive":
            return self.effects - self.effects[:, self.reference - 1 : self.reference]
        examined = torch.sigmoid(self.effects)
        examined[:, self.reference - 1] = 1.0
        return examined

    def _places(self, batch: Batch) -> Tensor:
        """Return places from 0, (B,) int64."""
        if isinstance(self.position, str):
            if self.position not in batch.ids:
                raise DataError(f"Feature '{self.position}'", got="no such feature in the batch",
                                expected=nearest(self.position, batch.ids))  # fmt: skip
            values_B = batch.ids[self.position].values.to(torch.float64)
        else:
            if not 0 <= self.position < batch.dense.shape[1]:
                raise DataError("Position", got=f"dense column {self.position}",
                                expected=f"one of {batch.dense.shape[1]}")  # fmt: skip
            values_B = batch.dense[:, self.position]
        whole_B = values_B.round()
        wrong_B = ~(((values_B - whole_B).abs() <= WHOLE) & (whole_B >= 1))
        if len(values_B) != len(batch) or bool(wrong_B.any()):
            got = f"{float(values_B[wrong_B][0]):g}" if len(values_B) == len(batch) else f"{len(values_B)} places"
            raise DataError("Position", got=got, expected="one whole number from 1 per example",
                            do="Read it with transform='identity', and fill in missing ones.")  # fmt: skip
        return whole_B.to(torch.int64).clamp(max=self.places) - 1

    def _at_reference(self, batch: Batch) -> Batch:
        if isinstance(self.position, str):
            return batch
        dense = batch.dense.clone()
        dense[:, self.position] = float(self.reference)
        return replace(batch, dense=dense)

    def _scenarios(self, batch: Batch) -> Tensor:
        if self.scenarios == 1:
            return torch.zeros(len(batch), dtype=torch.int64)
        scenarios_B = batch.extra.get("scenario")
        if scenarios_B is None or bool(((scenarios_B < 0) | (scenarios_B >= self.scenarios)).any()):
            raise DataError("Batch.extra['scenario']", got="none, or a number out of range",
                            expected=f"numbers from 0 to {self.scenarios - 1}",
                            do="Give the schema a Scenario with as many values.")  # fmt: skip
        return scenarios_B
