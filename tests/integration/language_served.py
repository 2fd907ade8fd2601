"""A small language model that is served and learns: recipes for tests, and as a program one that is asked over HTTP.

The base model writes sentences of two moods, as often one as the other; whoever votes or rewards likes the kind one.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch

from headrace.data import TextCodec, jagged, text_batch, token_column, tokens_of
from headrace.learn import GroupCredit, KLControl, PolicyConfig, PreferenceConfig, dense_learner
from headrace.nn import CausalSettings, CausalTransformer, save_causal
from headrace.objectives import DPO, PPO, NextToken
from headrace.online.language_config import LanguageConfig, Rewards, Rollouts
from headrace.optim import clip_norm
from headrace.serve import GenerateConfig
from headrace.serve.language_settings import LanguageSettings
from headrace.types import Events

KIND, GRIM = ("kind", "bright", "calm", "merry"), ("cruel", "dark", "angry", "weary")
ROWS = 16


def sentences(count: int) -> list[tuple[str, str]]:
    """Questions, and answers of either mood."""
    draw = random.Random(0)
    return [(f"how was the {draw.choice(('king', 'fox', 'sea'))}?",
             f"{draw.choice(KIND + GRIM)} and {draw.choice(KIND + GRIM)}") for _ in range(count)]  # fmt: skip


def mood(text: str) -> int:
    """One for every kind word, minus one for every grim one."""
    return sum(text.count(word) for word in KIND) - sum(text.count(word) for word in GRIM)


def make_base(folder: Path) -> Path:
    """Train the model that everything begins with, once."""
    if (folder / "model.safetensors").exists():
        return folder
    torch.set_num_threads(1)
    pairs = sentences(320)
    codec = TextCodec.trained([text for pair in pairs for text in pair], 300)
    sizes = CausalSettings(vocabulary=codec.vocabulary, width=32, layers=1, heads=2, max_length=48)
    model = CausalTransformer(sizes, seed=0)
    adam = clip_norm(torch.optim.AdamW(model.parameters(), lr=1.5e-2), 1.0)
    learner = dense_learner(model, adam, NextToken())
    rows = [codec.conversation([{"role": "user", "content": asked}, {"role": "assistant", "content": said}],
                               answer=False) for asked, said in pairs]  # fmt: skip
    events = Events.from_columns({
        "key": [f"t{row}" for row in range(len(rows))], "kind": ["example"] * len(rows),
        "event_time": [0] * len(rows), "item": ["0"] * len(rows),
        "tokens": token_column(jagged([tokens for tokens, _ in rows])),
        "taught": token_column(jagged([taught for _, taught in rows])),
    })  # fmt: skip
    for _ in range(5):
        for part in text_batch(events).split(32):
            learner.learn(part)
    codec.write(folder)
    save_causal(model, folder)
    return folder


def voted(*, base: Path, batch_rows: int = 8, lr: float = 2e-3, seed: int = 0) -> LanguageConfig:
    """A model that is voted on."""
    return LanguageConfig(
        name="moods", base=base, learn=PreferenceConfig(objective=DPO(beta=0.1, anchor=0.1), epochs=2), lr=lr,
        batch_rows=batch_rows, prompts=tuple(sorted({asked for asked, _ in sentences(50)})), seed=seed,
        serving=LanguageSettings(usual_tokens=10, max_tokens=20), window_s=3600.0, checkpoint_every=2,
    )  # fmt: skip


class Kindness:
    """The reward: how many kind words a completion has; dies now and then, if it is told to."""

    def __init__(self, codec: TextCodec) -> None:
        self.codec = codec

    def __call__(self, _: Events, predictions: Events) -> list[float]:
        return [float(mood(text)) for text in self.codec.decode(tokens_of(predictions, "completion_ids"))]


def asked_of(base: Path, rollouts: int) -> Events:
    """Prompts of some rollouts."""
    codec, count = TextCodec.read(base), rollouts * ROWS
    prompts = [codec.conversation([{"role": "user", "content": asked}])[0] for asked, _ in sentences(count)]
    return Events.from_columns({
        "key": [f"k{row}" for row in range(count)], "kind": ["impression"] * count,
        "event_time": [row * 1000 for row in range(count)], "item": ["0"] * count,
        "prompt_ids": token_column(jagged(prompts)),
    })  # fmt: skip


def rewarded(*, base: Path, rollouts: int = 8, behind: int = 0, seed: int = 0) -> LanguageConfig:
    """A model that is rewarded, by a rule."""
    codec = TextCodec.read(base)
    return LanguageConfig(
        name="kindness", base=base, batch_rows=ROWS, lr=2e-3, window_s=60.0, checkpoint_every=2, snapshot_every=4,
        seed=seed, learn=Rewards(
            objective=PPO(value_weight=0.0), rollouts=Rollouts(
                prompts=lambda: asked_of(base, rollouts), rewarder=lambda: Kindness(codec), behind=behind,
                config=GenerateConfig(max_tokens=10, ends=(codec.end,))),
            policy=PolicyConfig(credit=GroupCredit(baseline="none"), reward_norm="running", epochs=1,
                                kl=KLControl(coefficient=0.02))),
    )  # fmt: skip


def main(folder: Path, base: Path, rollouts: int, behind: int, role: str) -> None:
    """Run a part of a rewarded run, or all of it."""
    from headrace.online import RunFolder, run_joiner
    from headrace.online.language_roles import run_generator, run_language_learner, run_language_publisher
    from headrace.online.language_server import run_rollouts

    if role == "serve":
        from headrace.online.language_server import run_language_server

        run_language_server(voted(base=base), RunFolder(folder), port=0, learning=True,
                            on_ready=lambda url: print(url, flush=True))  # fmt: skip
        return
    config = rewarded(base=base, rollouts=rollouts, behind=behind)
    roles = {"all": run_rollouts, "generator": run_generator, "learner": run_language_learner, "joiner": run_joiner,
             "publisher": run_language_publisher}  # fmt: skip
    roles[role](config, RunFolder(folder), lambda: False)


if __name__ == "__main__":
    import sys

    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
