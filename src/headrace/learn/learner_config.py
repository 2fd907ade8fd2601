"""Settings of a learner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from headrace.config import known_name, require
from headrace.data.features import Schema
from headrace.protocols import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerConfig:
    """Settings of a learner.

    Attributes:
        seed: Seed of its own random numbers (dropout).
        audit: Keep a ledger that counts how often each example was learned (`headrace.learn.ledger`).
        row_gradients: What table rows learn from. `sum`: the gradient of the loss times the number of examples, so
            that an example moves its rows as far as it would alone, whatever the batch size: row rules as online
            learning knows them. `mean`: the gradient of the loss as it is, a mean over the batch, like the dense
            part; a row in one of 256 examples then takes a 256th of the step, and Adagrad's starting accumulator
            keeps it there for long. For rules made for that (large-batch scaling, CowClip).
        dense_schedule: What the rates of the dense optimiser's groups are multiplied with in step 1, 2, ...; None:
            always 1. The rates are those that the optimiser was built with; the step is part of the state.
        freshness: Publish the accepted times of the examples that each version learned. Switch it off for learners
            that never publish: their list would only grow.
        micro_batches: Slices of a batch whose gradients are added; 1: the batch is learned as a whole. Only for losses
            that are means over examples; the sums are then those of the whole, up to rounding.
        keep_versions: Published versions, before the newest, that changes can still be asked for.
        schema: The schema of the examples; it is stored with the state and published with every version.
        schema_fingerprint: Its fingerprint, when the schema itself is not at hand.

    Raises:
        ConfigError: If a value cannot work, or the fingerprint is not the schema's.
    """

    seed: int = 0
    audit: bool = False
    row_gradients: Literal["mean", "sum"] = "sum"
    dense_schedule: Schedule | None = None
    freshness: bool = True
    micro_batches: int = 1
    keep_versions: int = 8
    schema: Schema | None = None
    schema_fingerprint: str = ""

    def __post_init__(self) -> None:
        known_name("row_gradients", self.row_gradients, ["mean", "sum"])
        require(self.dense_schedule is None or callable(self.dense_schedule), "dense_schedule", got=self.dense_schedule,
                expected="a schedule, from step to factor, or None")  # fmt: skip
        for name in ("keep_versions", "micro_batches"):
            require(getattr(self, name) >= 1, name, got=getattr(self, name), expected="at least 1")
        if self.schema is None:
            return
        fingerprint = self.schema.fingerprint()
        require(self.schema_fingerprint in ("", fingerprint), "schema_fingerprint", got=self.schema_fingerprint,
                expected=f"{fingerprint}, the schema's", do="Leave it out.")  # fmt: skip
        object.__setattr__(self, "schema_fingerprint", fingerprint)
