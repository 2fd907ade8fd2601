"""A policy that learns from rewards: rollouts become advantages once, and are then learned in several small steps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import nn
from torch.optim import Optimizer

from headrace.config import require, tree
from headrace.errors import CorruptSnapshot, DataError, NonFiniteLoss
from headrace.learn.dense_only import dense_learner
from headrace.learn.learner_config import LearnerConfig
from headrace.learn.policy_config import CriticCredit, PolicyConfig
from headrace.learn.references import digest, frozen_reference, learned_names
from headrace.learn.rollouts import Rollout, credited, mean_parts, reward_statistics
from headrace.learn.several_steps import learned_in_steps
from headrace.nn import ActorCritic, CausalModel
from headrace.objectives import PPO, Reinforce
from headrace.protocols import Objective
from headrace.types import Batch, Change, Loss, State, Version

POLICY = "policy."
STATISTICS = ("count", "mean", "squares")
"""Of rewards, in the order of `reward_statistics`."""


@dataclass(frozen=True, slots=True)
class _Described:
    """An objective that says what it was made of."""

    objective: Objective
    text: Mapping[str, str]

    def spec(self) -> Mapping[str, str]:
        return self.text

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        return self.objective(model, batch)


def described(objective: Objective, text: Mapping[str, str]) -> Objective:
    """Return an objective that says what it was made of, so that another learner's state is refused.

    Args:
        objective: The objective.
        text: What is published with every version, and compared.
    """
    return _Described(objective, text)


class PolicyLearner:
    """Learns a policy from completions with rewards; implements the roles `Learner` and `Resumable`.

    A batch is a rollout: features `prompt` and `completion`, rewards as labels, and the extras `log_probs` (of every
    token as it was drawn, which are the old ones of PPO: no second pass is needed for them) and `ended`. Completions
    that an earlier version drew are corrected for by their own log-probabilities.

    What is published is the policy alone, under the names that it has by itself; the critic stays here. Of a policy
    with adapters only the first version is whole, later ones are the adapters.

    Learning is deterministic, and a rollout is learned whole or not at all: when a step in the middle is not finite,
    the learner goes back to where it stood before the rollout.

    Args:
        model: Policy and critic; the critic is not asked for with `GroupCredit`.
        reference: The model that distance is measured from; it never learns. Usually a copy of the policy at the
            beginning.
        optimizer: Over the parameters of policy and critic that learn.
        objective: `PPO`, or `Reinforce`.
        config: How rewards become steps.

    Raises:
        ConfigError: If objective and credit do not go together, or a model has other tokens than the other.

    Cost: one pass of the reference and of the critic per rollout, and `epochs` training passes.

    Thread-safety: none; one thread learns, publishes and saves.
    """

    def __init__(
        self, model: ActorCritic, reference: CausalModel, optimizer: Optimizer, objective: PPO | Reinforce,
        config: PolicyConfig | None = None,
    ) -> None:  # fmt: skip
        self.config, self.objective = config or PolicyConfig(), objective
        critic = isinstance(self.config.credit, CriticCredit)
        weight = objective.value_weight if isinstance(objective, PPO) else 0.0
        require(critic == (weight > 0), "PolicyLearner, objective", got=f"{objective}, {self.config.credit}",
                expected="a PPO whose critic learns exactly with CriticCredit",
                do="Set value_weight=0 with GroupCredit; use PPO with CriticCredit.")  # fmt: skip
        frozen = frozen_reference(reference, model, "PolicyLearner")
        self.model, self.reference = model, reference
        if model.critic is not None and not critic:
            model.critic.requires_grad_(False)
        text = {"policy": json.dumps(tree((self.config, objective)), sort_keys=True), "reference": digest(frozen)}
        settings = LearnerConfig(freshness=False, seed=self.config.seed)
        self._steps = dense_learner(model, optimizer, described(objective, text), settings)
        self._coefficient, self._examples, self._rollouts = self.config.kl.coefficient, 0, 0
        self._rewards = [0.0, 0.0, 0.0]
        self._learned = learned_names(model)

    @property
    def examples(self) -> int:
        """Completions learned so far."""
        return self._examples

    @property
    def version(self) -> int:
        """Number of the newest version that changes were told of; -1 before the first."""
        return self._steps.version

    @property
    def coefficient(self) -> float:
        """The present price of distance from the reference."""
        return self._coefficient

    def learn(self, batch: Batch) -> Loss:
        """Learn one rollout.

        Returns:
            The mean loss of the steps. Parts, beside those of the objective: `reward` (as given), `scaled_reward`,
            `kl` (distance from the reference, summed over a completion), `kl_coefficient`, `ended` (share), `length`,
            `advantage_std` (before whitening) and `explained` (share of the returns' variance that the critic knew).

        Raises:
            NonFiniteLoss: If rewards, the reference or a step are not finite; nothing was changed.
            DataError: If the rollout is empty or lacks something; nothing was changed.
        """
        rollout, rewards = self._rollout(batch)
        config = self.config
        losses = learned_in_steps(self._steps, rollout.batch, epochs=config.epochs, step_rows=config.minibatch_rows,
                                  seed=config.seed, turn=self._rollouts)  # fmt: skip
        self._rewards = rewards
        self._coefficient = self.config.kl.moved(self._coefficient, rollout.parts["kl"], len(batch))
        self._examples, self._rollouts = self._examples + len(batch), self._rollouts + 1
        total = torch.stack([loss.total for loss in losses]).mean()
        return Loss(total, {**mean_parts(losses), **rollout.parts})

    @torch.no_grad()
    def _rollout(self, batch: Batch) -> tuple[Rollout, list[float]]:
        """Return the batch with advantages, and the statistics of rewards with it in them. Changes nothing."""
        if not len(batch):
            raise DataError("Rollout", got="no completions", expected="at least one", do="Skip empty batches.")
        for name, values in (("reward", batch.labels), ("weight", batch.weights)):
            if not bool(torch.isfinite(values).all()):
                row = int(torch.nonzero(~torch.isfinite(values))[0])
                raise NonFiniteLoss(f"Rollout, row {row} (example {int(batch.example_ids[row])}), {name}",
                                    got=float(values[row]), expected="a finite number",
                                    do="Nothing was changed. Look at who gave the reward.")  # fmt: skip
        rewards = reward_statistics(self._rewards, batch.labels)
        self.model.eval()
        rollout = credited(self.model, self.reference, batch, self.config, self._coefficient, rewards,
                           self.objective.temperature)  # fmt: skip
        return rollout, rewards

    def changes(self, since: Version) -> Change:
        """Return the policy after version `since`; see `RankLearner.changes`. `example_offset` counts completions."""
        change = self._steps.changes(since)
        dense = {
            name.removeprefix(POLICY): value for name, value in change.dense.items()
            if name.startswith(POLICY) and (change.full or name in self._learned)
        }  # fmt: skip
        notes = {**change.notes, "example_offset": torch.tensor([self._examples])}
        return replace(change, dense=dense, notes=notes)

    def state(self) -> State:
        """Return all that is needed to continue exactly: policy, critic, optimiser, price, statistics and counts."""
        rewards: State = dict(zip(STATISTICS, self._rewards, strict=True))
        return {"steps": self._steps.state(), "coefficient": self._coefficient, "examples": self._examples,
                "rollouts": self._rollouts, "rewards": rewards}  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue from what `state` returned.

        Raises:
            RowRuleMismatch: If it is of another configuration, reference or model; nothing was changed.
            CorruptSnapshot: If it is not the state of such a learner; nothing was changed.
        """
        steps, rewards = state.get("steps"), state.get("rewards")
        counts, price = [state.get(name) for name in ("examples", "rollouts")], state.get("coefficient")
        whole = isinstance(steps, dict) and isinstance(rewards, dict) and isinstance(price, float)
        seen = [rewards.get(name) for name in STATISTICS] if isinstance(rewards, dict) else []
        numbers = all(isinstance(value, (int, float)) for value in seen)
        if not whole or not numbers or not all(isinstance(count, int) for count in counts):
            raise CorruptSnapshot("Policy learner state", got=str(sorted(state)), expected="what state() returns",
                                  do="Restore what this kind of learner saved, or begin a new run.")  # fmt: skip
        self._steps.restore(cast(State, steps))
        self._coefficient = cast(float, price)
        self._examples, self._rollouts = cast("list[int]", counts)
        self._rewards = [float(cast(float, value)) for value in seen]
