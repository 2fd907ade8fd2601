"""A small language model learns to write what is rewarded, through the same loop that learns from clicks.

    python examples/writer_with_rewards.py [rollouts]

It learns to write from a few thousand generated sentences, then a rule rewards sentences of the mood that is asked for.
Versions and checkpoints lie in the folder `writer`: stop the program and start it again, and it goes on.
"""

from __future__ import annotations

import copy
import random
import sys
from pathlib import Path

import torch

from headrace.data import (
    EmbeddedLog,
    EventJoin,
    EventJoiner,
    JoinConfig,
    TextCodec,
    TokenCollator,
    completion_batch,
    text_batch,
    text_examples,
)
from headrace.feedback import RewardFeedback, TextReward
from headrace.learn import KLControl, ManifestCheckpoint, PolicyConfig, PolicyLearner, dense_learner
from headrace.loop import EveryExamples, Loop, run
from headrace.nn import ActorCritic, CausalSettings, CausalTransformer
from headrace.objectives import PPO, NextToken
from headrace.optim import clip_norm
from headrace.publish import LogPublisher, Replica
from headrace.serve import GenerateConfig, LanguagePredictor
from headrace.testing import ListSource
from headrace.types import Events, Version

GOOD, BAD = ["kind", "bright", "calm", "merry"], ["cruel", "dark", "angry", "weary"]
ROWS = 64


def sentences(count: int) -> list[str]:
    """Sentences of either mood, as often as the other."""
    draw = random.Random(0)
    who, what = ["the king", "a fox", "the sea", "my friend"], ["was", "seemed", "grew"]
    return [f"{draw.choice(who)} {draw.choice(what)} {draw.choice(GOOD + BAD)} and {draw.choice(GOOD + BAD)}."
            for _ in range(count)]  # fmt: skip


def mood(prompt: str, sentence: str) -> float:
    """The reward: one for every good word, minus one for every bad one."""
    return float(sum(word in sentence for word in GOOD) - sum(word in sentence for word in BAD))


def rows(kind: str, count: int, **columns: object) -> Events:
    """Rows with keys and times."""
    return Events.from_columns({"key": [f"{kind}{row}" for row in range(count)], "kind": [kind] * count,
                                "event_time": [row * 1000 for row in range(count)], **columns})  # fmt: skip


def base_model(codec: TextCodec, texts: list[str]) -> CausalTransformer:
    """Learn to write at all."""
    model = CausalTransformer(CausalSettings(vocabulary=codec.vocabulary, width=48, layers=2, heads=3, max_length=48))
    adam = clip_norm(torch.optim.AdamW(model.parameters(), lr=5e-3), 1.0)
    learner = dense_learner(model, adam, NextToken())
    for batch in text_batch(text_examples(texts, codec, 48)).split(64):
        loss = learner.learn(batch)
    print(f"base model: perplexity {loss.parts['perplexity']:.2f}")
    return model


def writing_loop(base: CausalTransformer, codec: TextCodec, folder: Path, rollouts: int) -> Loop:
    """Prompts are requests, completions are predictions, moods are feedback."""
    folder.mkdir(parents=True, exist_ok=True)
    publisher = LogPublisher(EmbeddedLog(folder / "changes.db"), folder / "snapshots")
    served, model = CausalTransformer(base.settings), ActorCritic(copy.deepcopy(base))
    replica, config = Replica({}, served), PolicyConfig(epochs=2, minibatch_rows=32, kl=KLControl(coefficient=0.05))
    replica.catch_up(publisher)
    adam = clip_norm(torch.optim.Adam(model.parameters(), lr=2e-3, eps=1e-5), 1.0)
    asked = rows("impression", rollouts * ROWS, item=["0"] * (rollouts * ROWS), prompt=[""] * (rollouts * ROWS))
    rewarded = JoinConfig(window_s=60.0, lateness_s=0.0, positive=("reward",), value="reward")
    return Loop(
        source=ListSource([asked]),
        predictor=LanguagePredictor(served, replica, GenerateConfig(max_tokens=16, ends=(codec.token("<|end|>"),)),
                                    codec=codec),
        feedback=RewardFeedback(TextReward(mood)),
        joiner=EventJoiner(EventJoin(rewarded), TokenCollator(completion_batch, ROWS)),
        learner=PolicyLearner(model, base, adam, PPO(), config),
        publisher=publisher, cadence=EveryExamples(ROWS), read_rows=ROWS,
        checkpoint=ManifestCheckpoint(folder / "checkpoints"), checkpoint_every=5,
    )  # fmt: skip


def look(predictor: LanguagePredictor) -> tuple[float, list[str]]:
    """Mean mood of many completions, and three of them."""
    many = rows("look", 128, item=["0"] * 128, prompt=[""] * 128)
    written = predictor.predict(many).column("completion").to_pylist()
    return sum(mood("", text) for text in written) / len(written), written[:3]


def main(rollouts: int) -> None:
    """Learn to write, then to write what is rewarded."""
    torch.set_num_threads(1)
    texts = sentences(4000)
    codec = TextCodec.trained(texts, 320)
    loop = writing_loop(base_model(codec, texts), codec, Path("writer"), rollouts)
    writer = loop.predictor
    assert isinstance(writer, LanguagePredictor)
    if writer.version.number < 0:
        writer.apply(loop.publisher.publish(loop.learner.changes(Version(-1))))
    print("version {:3}: mood {:+.2f}  {}".format(writer.version.number, *look(writer)))
    run(loop)
    print("version {:3}: mood {:+.2f}  {}".format(writer.version.number, *look(writer)))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
