"""Our own PPO iteration: requests, completions, rewards, the join, the learner, and the next version in place."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from headrace.data import EventJoin, EventJoiner, JoinConfig, TokenCollator, completion_batch, jagged, token_column
from headrace.feedback import ModelReward, RewardFeedback
from headrace.learn import KLControl, PolicyConfig, PolicyLearner
from headrace.nn import ActorCritic, CausalSettings, CausalTransformer, ScoreModel
from headrace.objectives import PPO
from headrace.optim import clip_norm
from headrace.publish import Replica
from headrace.serve import GenerateConfig, LanguagePredictor
from headrace.types import Events, Version


def iteration(
    settings: CausalSettings, rows: int, prompt: int, new: int, *, epochs: int, shared: bool
) -> Callable[[], None]:
    """Return what takes one iteration after another.

    Args:
        settings: Sizes of every model.
        rows: Completions of an iteration.
        prompt: Tokens of a prompt.
        new: Tokens of a completion.
        epochs: How often a rollout is learned.
        shared: Whether the critic is a head on the policy's states; else it is a model of its own, as the peer's is.
    """
    policy = CausalTransformer(settings, seed=1)
    critic = None if shared else ScoreModel(CausalTransformer(settings, seed=2), zero=True)
    model = ActorCritic(policy, critic)
    adam = clip_norm(torch.optim.AdamW(model.parameters(), lr=3e-6, weight_decay=0.0), 1.0)
    config = PolicyConfig(epochs=epochs, kl=KLControl(coefficient=0.05))
    learner = PolicyLearner(model, copy.deepcopy(policy), adam, PPO(), config)
    served = CausalTransformer(settings, seed=3)
    predictor = LanguagePredictor(served, Replica({}, served), GenerateConfig(max_tokens=new), batch_rows=rows)
    predictor.apply(learner.changes(Version(-1)))
    rewarder = RewardFeedback(ModelReward(ScoreModel(CausalTransformer(settings, seed=4))))
    join = EventJoin(JoinConfig(window_s=60.0, lateness_s=0.0, positive=("reward",), value="reward"))
    joiner, count = EventJoiner(join, TokenCollator(completion_batch, rows)), [0]
    draw = torch.Generator().manual_seed(0)

    def one() -> None:
        first, asked = count[0] * rows, torch.randint(0, settings.vocabulary - 2, (rows, prompt), generator=draw)
        count[0] += 1
        requests = Events.from_columns({
            "key": [f"k{first + row}" for row in range(rows)], "kind": ["impression"] * rows,
            "event_time": [(first + row) * 1000 for row in range(rows)], "item": ["0"] * rows,
            "prompt_ids": token_column(jagged(asked.tolist())),
        })  # fmt: skip
        predictions = predictor.predict(requests)
        batch = joiner.add(requests, predictions, rewarder.collect(requests, predictions))
        assert batch is not None
        learner.learn(batch)
        predictor.apply(learner.changes(predictor.version))

    return one
