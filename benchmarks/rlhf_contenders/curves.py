"""Learning curves of our PPO and of TRL's: one tiny model, one reward, several seeds each.

The reward is the share of a completion's tokens that are among the first `GOOD` of the vocabulary; prompts have none of
them. Both begin with the same weights, take the same number of steps of the same size, and have the same settings.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

from headrace.data import (
    EventJoin,
    EventJoiner,
    JoinConfig,
    MemorySource,
    TokenCollator,
    completion_batch,
    prompts,
    tokens_of,
)
from headrace.feedback import RewardFeedback
from headrace.learn import KLControl, PolicyConfig, PolicyLearner
from headrace.loop import EveryExamples, Loop, run
from headrace.nn import ActorCritic, CausalSettings, CausalTransformer, ScoreModel, save_causal
from headrace.objectives import PPO
from headrace.optim import clip_norm
from headrace.publish import Replica
from headrace.serve import GenerateConfig, LanguagePredictor
from headrace.testing import DictPublisher
from headrace.types import Batch, Events, Loss

SIZES = CausalSettings(vocabulary=64, width=32, layers=2, heads=2, hidden=64, max_length=32, tied=False)
ROWS, PROMPT, NEW, EPOCHS, ITERATIONS = 64, 4, 12, 2, 25
LR, KL, GOOD = 1e-3, 0.05, 6


def asked(seed: int, iterations: int) -> torch.Tensor:
    """Return the prompts of one run."""
    draw = torch.Generator().manual_seed(100 + seed)
    return torch.randint(GOOD, SIZES.vocabulary, (iterations * ROWS, PROMPT), generator=draw)


def share_of_good(_: Events, predictions: Events) -> list[float]:
    """Return the rewards."""
    made = tokens_of(predictions, "completion_ids")
    return (made.values.view(-1, NEW) < GOOD).float().mean(1).tolist()


class _Noted(PolicyLearner):
    """Keeps the mean reward of every rollout."""

    rewards: list[float]

    def learn(self, batch: Batch) -> Loss:
        """Learn, and keep it."""
        loss = super().learn(batch)
        self.rewards.append(float(loss.parts["reward"]))
        return loss


def our_curve(policy: CausalTransformer, seed: int, iterations: int = ITERATIONS) -> list[float]:
    """Return the mean reward of every rollout of our run."""
    policy = copy.deepcopy(policy)
    model = ActorCritic(policy, ScoreModel(copy.deepcopy(policy), zero=True))
    adam = clip_norm(torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0), 1.0)
    config = PolicyConfig(epochs=EPOCHS, kl=KLControl(coefficient=KL), seed=seed)
    learner = _Noted(model, copy.deepcopy(policy), adam, PPO(), config)
    learner.rewards = []
    served = CausalTransformer(SIZES)
    predictor = LanguagePredictor(served, Replica({}, served), GenerateConfig(max_tokens=NEW), seed=seed,
                                  batch_rows=ROWS)  # fmt: skip
    join = EventJoin(JoinConfig(window_s=3600.0, lateness_s=0.0, positive=("reward",), value="reward"))
    run(Loop(source=MemorySource([prompts(asked(seed, iterations))]), predictor=predictor,
             feedback=RewardFeedback(share_of_good), joiner=EventJoiner(join, TokenCollator(completion_batch, ROWS)),
             learner=learner, publisher=DictPublisher(), cadence=EveryExamples(ROWS), read_rows=ROWS))  # fmt: skip
    return learner.rewards


def their_curves(python: Path, policy: CausalTransformer, folder: Path, seeds: Sequence[int],
                 iterations: int = ITERATIONS) -> list[list[float]]:  # fmt: skip
    """Return the mean reward of every rollout of TRL's runs, from weights that are written into the folder.

    Raises:
        CalledProcessError: If TRL's process failed.
    """
    save_causal(policy, folder)
    settings = {"folder": str(folder), "seeds": list(seeds), "rows": ROWS, "prompt": PROMPT, "new": NEW,
                "epochs": EPOCHS, "iterations": iterations, "lr": LR, "kl": KL, "good": GOOD,
                "vocabulary": SIZES.vocabulary,
                "asked": {str(seed): asked(seed, iterations).tolist() for seed in seeds}}  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    script = Path(__file__).with_name("trl_curve.py")
    done = subprocess.run([str(python), str(script), str(folder / "settings.json")], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True, check=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})  # fmt: skip
    found: list[list[float]] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def first_policy() -> CausalTransformer:
    """Return the weights that all runs begin with: large enough that completions differ from prompt to prompt."""
    policy = CausalTransformer(SIZES, seed=5)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.0)
    return policy
