"""A language model that learns from rewards, as one process that can be killed: `language_loop.py FOLDER READS`.

The policy, its reference, the reward and everything random are made from fixed seeds; what is durable lies in the
folder: a change log, snapshots and checkpoints. At the end the learner's state is written there.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch

from headrace.data import (
    EmbeddedLog,
    EventJoin,
    EventJoiner,
    JoinConfig,
    TokenCollator,
    completion_batch,
    jagged,
    token_column,
    tokens_of,
)
from headrace.feedback import RewardFeedback
from headrace.learn import KLControl, ManifestCheckpoint, PolicyConfig, PolicyLearner
from headrace.loop import EveryExamples, Loop, run
from headrace.nn import ActorCritic, CausalSettings, CausalTransformer
from headrace.objectives import PPO
from headrace.optim import clip_norm
from headrace.publish import LogPublisher, Replica
from headrace.serve import GenerateConfig, LanguagePredictor
from headrace.testing import ListSource
from headrace.types import Events

SIZES = CausalSettings(vocabulary=16, width=32, layers=2, heads=2, max_length=32)
ROWS = 32


def requests(reads: int) -> Events:
    count = reads * ROWS
    return Events.from_columns({
        "key": [f"k{row}" for row in range(count)], "kind": ["impression"] * count,
        "event_time": [row * 1000 for row in range(count)], "item": ["0"] * count,
        "prompt_ids": token_column(jagged([[3 + row % 5, 4] for row in range(count)])),
    })  # fmt: skip


def share_of_sevens(_: Events, predictions: Events) -> list[float]:
    """The reward: how many of a completion's tokens are 7."""
    made = tokens_of(predictions, "completion_ids")
    owners = torch.repeat_interleave(torch.arange(len(made)), made.offsets.diff())
    sums = torch.zeros(len(made)).index_add_(0, owners, (made.values == 7).float())
    return (sums / made.offsets.diff()).tolist()


def policy_learner() -> PolicyLearner:
    policy = CausalTransformer(SIZES, seed=0)
    model = ActorCritic(policy)
    adam = clip_norm(torch.optim.Adam(model.parameters(), lr=3e-3, eps=1e-5), 1.0)
    config = PolicyConfig(epochs=2, minibatch_rows=16, reward_norm="running",
                          kl=KLControl(coefficient=0.05, target=4.0, horizon=400))  # fmt: skip
    return PolicyLearner(model, copy.deepcopy(policy), adam, PPO(), config)


def loop(folder: Path, reads: int) -> Loop:
    """Return the loop of this folder, its predictor caught up with what was published."""
    log = EmbeddedLog(folder / "changes.db")
    publisher = LogPublisher(log, folder / "snapshots", snapshot_every=5)
    served = CausalTransformer(SIZES, seed=99)
    replica = Replica({}, served)
    if publisher.last().number >= 0:
        replica.catch_up(publisher)
    join = EventJoin(JoinConfig(window_s=60.0, lateness_s=0.0, positive=("reward",), value="reward"))
    return Loop(
        source=ListSource([requests(reads)]), joiner=EventJoiner(join, TokenCollator(completion_batch, ROWS)),
        learner=policy_learner(), predictor=LanguagePredictor(served, replica, GenerateConfig(max_tokens=8, ends=(1,))),
        feedback=RewardFeedback(share_of_sevens), publisher=publisher, cadence=EveryExamples(ROWS), read_rows=ROWS,
        checkpoint=ManifestCheckpoint(folder / "checkpoints"), checkpoint_every=2,
    )  # fmt: skip


def main(folder: Path, reads: int) -> None:
    torch.set_num_threads(1)
    made = loop(folder, reads)
    run(made)
    ManifestCheckpoint(folder / "end").save(made.learner.state())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
