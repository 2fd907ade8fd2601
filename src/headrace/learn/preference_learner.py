"""A policy that learns from preferences: what people chose becomes likelier, against a reference that stays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import nn
from torch.optim import Optimizer

from headrace.config import require, tree
from headrace.errors import CorruptSnapshot
from headrace.learn.dense_only import dense_learner
from headrace.learn.learner_config import LearnerConfig
from headrace.learn.policy_learner import described
from headrace.learn.references import digest, frozen_reference, learned_names
from headrace.learn.rollouts import mean_parts
from headrace.learn.several_steps import learned_in_steps
from headrace.nn import CausalModel
from headrace.objectives import DPO, with_reference
from headrace.types import Batch, Change, Loss, State, Version


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceConfig:
    """How a policy learns from preferences.

    Attributes:
        objective: The loss.
        epochs: How often a batch is learned.
        minibatch_rows: Pairs per step; None: all of a batch.
        seed: Seed of the order in which pairs are learned.

    Raises:
        ConfigError: If a value cannot work.
    """

    objective: DPO = field(default_factory=DPO)
    epochs: int = 2
    minibatch_rows: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "PreferenceConfig.epochs", got=self.epochs, expected="1 or more")
        rows = self.minibatch_rows
        require(rows is None or rows >= 1, "PreferenceConfig.minibatch_rows", got=rows, expected="1 or more, or None")
        require(0 <= self.seed < 1 << 31, "PreferenceConfig.seed", got=self.seed, expected="0 to 2^31 - 1")


class PreferenceLearner:
    """Learns a policy from pairs; implements the roles `Learner` and `Resumable`.

    A batch has the features `prompt`, `chosen` and `rejected`, and says in its labels how surely (`vote_batch` of
    `headrace.data` makes it of votes). The reference's log-probabilities are put in here, once per batch.

    What is published is the policy, under the names that it has by itself. Of a policy with adapters only the first
    version is whole, later ones are the adapters. A batch is learned whole or not at all.

    Args:
        policy: The model that writes.
        reference: The model that likelihood is measured against; it never learns. Usually a copy of the policy at the
            beginning.
        optimizer: Over the parameters of the policy that learn.
        config: How.

    Raises:
        ConfigError: If the reference is the policy itself, or has other tokens.

    Cost: one pass of the reference per batch, and `epochs` training passes.

    Thread-safety: none; one thread learns, publishes and saves.
    """

    def __init__(
        self, policy: CausalModel, reference: CausalModel, optimizer: Optimizer, config: PreferenceConfig | None = None
    ) -> None:
        self.config, self.model, self.reference = config or PreferenceConfig(), policy, reference
        frozen, learning = frozen_reference(reference, policy, "PreferenceLearner"), cast(nn.Module, policy)
        text: Mapping[str, str] = {"preferences": json.dumps(tree(self.config), sort_keys=True),
                                   "reference": digest(frozen)}  # fmt: skip
        settings = LearnerConfig(freshness=False, seed=self.config.seed)
        self._steps = dense_learner(learning, optimizer, described(self.config.objective, text), settings)
        self._learned = learned_names(learning)
        self._examples = self._batches = 0

    @property
    def examples(self) -> int:
        """Pairs learned so far."""
        return self._examples

    @property
    def version(self) -> int:
        """Number of the newest version that changes were told of; -1 before the first."""
        return self._steps.version

    def learn(self, batch: Batch) -> Loss:
        """Learn one batch of pairs.

        Returns:
            The mean loss of the steps, with the objective's parts.

        Raises:
            NonFiniteLoss: If a step is not finite; nothing was changed.
            DataError: If the batch is empty or lacks something; nothing was changed.
        """
        whole, config = with_reference(self.reference, batch), self.config
        losses = learned_in_steps(self._steps, whole, epochs=config.epochs, step_rows=config.minibatch_rows,
                                  seed=config.seed, turn=self._batches)  # fmt: skip
        self._examples, self._batches = self._examples + len(batch), self._batches + 1
        return Loss(torch.stack([loss.total for loss in losses]).mean(), mean_parts(losses))

    def changes(self, since: Version) -> Change:
        """Return the policy after version `since`; see `RankLearner.changes`. `example_offset` counts pairs."""
        change = self._steps.changes(since)
        dense = {name: value for name, value in change.dense.items() if change.full or name in self._learned}
        notes = {**change.notes, "example_offset": torch.tensor([self._examples])}
        return replace(change, dense=dense, notes=notes)

    def state(self) -> State:
        """Return all that is needed to continue exactly."""
        return {"steps": self._steps.state(), "examples": self._examples, "batches": self._batches}

    def restore(self, state: State) -> None:
        """Continue from what `state` returned.

        Raises:
            RowRuleMismatch: If it is of another configuration, reference or model; nothing was changed.
            CorruptSnapshot: If it is not the state of such a learner; nothing was changed.
        """
        steps, counts = state.get("steps"), [state.get(name) for name in ("examples", "batches")]
        if not isinstance(steps, dict) or not all(isinstance(count, int) for count in counts):
            raise CorruptSnapshot("Preference learner state", got=str(sorted(state)), expected="what state() returns",
                                  do="Restore what this kind of learner saved, or begin a new run.")  # fmt: skip
        self._steps.restore(steps)
        self._examples, self._batches = cast("list[int]", counts)
