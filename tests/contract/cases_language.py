"""Language models: objectives, learners, collators, rewards, and the predictor that writes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import torch

from headrace.data import TokenCollator, completion_batch, jagged, number_column, token_column
from headrace.feedback import RewardFeedback, TextReward
from headrace.learn import (
    BoundedStaleness,
    GroupCredit,
    KLControl,
    PolicyConfig,
    PolicyLearner,
    PreferenceConfig,
    PreferenceLearner,
    dense_learner,
)
from headrace.learn.learner import RankLearner
from headrace.nn import ActorCritic, CausalSettings, CausalTransformer, ScoreModel
from headrace.objectives import DPO, PPO, BradleyTerry, NextToken, Reinforce, with_reference
from headrace.optim import clip_norm
from headrace.publish import Replica
from headrace.serve import GenerateConfig, LanguagePredictor
from headrace.testing import Verdict, check_feedback, check_joiner, check_learner, check_objective, check_predictor
from headrace.types import Batch, Change, Events, Version

SIZES = CausalSettings(vocabulary=20, width=16, layers=2, heads=2, key_heads=1, max_length=24)


def requests() -> Events:
    rows = 11
    return Events.from_columns({
        "key": [f"k{row // 2}" for row in range(rows)], "kind": ["impression"] * rows, "event_time": list(range(rows)),
        "item": [str(row % 2) for row in range(rows)],
        "prompt_ids": token_column(jagged([[3 + row % 5] * (1 + row % 3) for row in range(rows)])),
    })  # fmt: skip


def predictors() -> Iterator[tuple]:
    def make() -> LanguagePredictor:
        model = CausalTransformer(SIZES, seed=7)
        return LanguagePredictor(model, Replica({}, model), GenerateConfig(max_tokens=6, ends=(1, 2, 3)))

    def run(_: Path) -> Verdict:
        models = [CausalTransformer(SIZES, seed=seed).state_dict() for seed in range(4)]
        changes = [Change(version=Version(n, n - 1), dense=dense, full=n == 0) for n, dense in enumerate(models)]
        return check_predictor(make, requests(), changes, full=replace(changes[-1], full=True), absolute=1e-5)

    yield "Predictor", LanguagePredictor, run


def batch(seed: int) -> Batch:
    """Rows that any of the objectives can read."""
    rows, none = 5, torch.zeros(5, dtype=torch.int64)
    names = ("prompt", "completion", "chosen", "rejected")
    lists = {name: jagged([[(seed + 3 * row + place + len(name)) % 20 for place in range(1 + (row + seed) % 4)]
                           for row in range(rows)]) for name in names}  # fmt: skip
    lists["tokens"] = jagged([[(seed + row + place) % 20 for place in range(2 + row)] for row in range(rows)])
    draw = torch.Generator().manual_seed(seed)
    extra = {name: torch.randn(rows, 4, generator=draw) for name in ("advantages", "returns", "values")}
    extra["log_probs"] = -torch.rand(rows, 4, generator=draw)
    return Batch(
        ids=lists, dense=torch.zeros(rows, 0), labels=torch.ones(rows), weights=torch.ones(rows), event_times=none,
        accepted_times=none, example_ids=torch.arange(rows), predictions=torch.full((rows,), torch.nan), versions=none,
        sample_rates=torch.ones(rows), extra=extra,
    )  # fmt: skip


def objectives() -> Iterator[tuple]:
    policy = CausalTransformer(SIZES, seed=1)
    scorer, actor = ScoreModel(CausalTransformer(SIZES, seed=2)), ActorCritic(CausalTransformer(SIZES, seed=3))
    parts = [
        (NextToken(), policy, ""), (NextToken(completions=True), policy, "completions"),
        (BradleyTerry(), scorer, "last"), (BradleyTerry(at="every", centred=0.1), scorer, "every"),
        (DPO(), policy, ""), (PPO(entropy_weight=0.1), actor, ""), (Reinforce(corrected=2.0), policy, ""),
    ]  # fmt: skip
    for objective, model, label in parts:

        def run(_: Path, objective=objective, model=model) -> Verdict:
            two = [batch(seed) for seed in (1, 2)]
            if isinstance(objective, DPO):
                two = [with_reference(CausalTransformer(SIZES, seed=9), one) for one in two]
            return check_objective(objective, model, two[0], other=two[1])

        yield "Objective", type(objective), run, (), label


def policy_learner(seed: int = 0, **settings) -> PolicyLearner:
    policy = CausalTransformer(SIZES, seed=1)
    model = ActorCritic(policy)
    adam = clip_norm(torch.optim.Adam(model.parameters(), lr=0.01), 1.0)
    config = PolicyConfig(epochs=2, minibatch_rows=3, reward_norm="running", seed=seed,
                          kl=KLControl(coefficient=0.1, target=1.0, horizon=50))  # fmt: skip
    if settings.get("groups"):
        config = PolicyConfig(epochs=1, credit=GroupCredit(), seed=seed)
        return PolicyLearner(model, copy.deepcopy(policy), adam, PPO(value_weight=0.0), config)
    return PolicyLearner(model, copy.deepcopy(policy), adam, PPO(), config)


def learners() -> Iterator[tuple]:
    def rows(seed: int) -> Batch:
        one = batch(seed)
        return replace(one, labels=torch.linspace(-1.0, seed, 5), extra={**one.extra, "groups": torch.arange(5) // 2})

    def text(seed: int = 0) -> RankLearner:
        model = CausalTransformer(SIZES, seed=seed)
        return dense_learner(model, torch.optim.AdamW(model.parameters(), lr=0.01), NextToken())

    for label in ("critic", "groups"):

        def run(_: Path, label=label) -> Verdict:
            others = [lambda: policy_learner(seed=3), lambda: policy_learner(groups=label == "critic")]
            return check_learner(
                lambda: policy_learner(groups=label == "groups"), [rows(seed) for seed in range(1, 6)], others=others
            )

        yield "Learner", PolicyLearner, run, (5,), label

    def plain(_: Path) -> Verdict:
        sgd = torch.optim.SGD
        models = [CausalTransformer(SIZES) for _ in range(2)]
        others = [lambda: dense_learner(models[0], sgd(models[0].parameters(), lr=0.1), NextToken())]
        return check_learner(text, [batch(seed) for seed in range(1, 6)], others=others)

    yield "Learner", RankLearner, plain, (5,), "dense"

    def preferring(seed: int = 0) -> PreferenceLearner:
        policy = CausalTransformer(SIZES, seed=1)
        adam = clip_norm(torch.optim.Adam(policy.parameters(), lr=0.01), 1.0)
        config = PreferenceConfig(epochs=2, minibatch_rows=3, seed=seed)
        return PreferenceLearner(policy, copy.deepcopy(policy), adam, config)

    def preferences(_: Path) -> Verdict:
        others = [lambda: preferring(seed=3)]
        return check_learner(preferring, [batch(seed) for seed in range(1, 6)], others=others)

    yield "Learner", PreferenceLearner, preferences, (5,)

    def bounded(_: Path) -> Verdict:
        fresh = [replace(batch(seed), versions=torch.zeros(5, dtype=torch.int64)) for seed in range(1, 6)]
        others = [lambda: BoundedStaleness(preferring(seed=3), 9)]
        return check_learner(lambda: BoundedStaleness(preferring(), 9), fresh, others=others)

    yield "Learner", BoundedStaleness, bounded, (5,)


def joiners() -> Iterator[tuple]:
    def rows(start: int, stop: int) -> Events:
        asked = requests().slice(start, stop - start)
        lists = jagged([[5] * (1 + (row % 3)) for row in range(start, stop)])
        count = stop - start
        return asked.with_columns({
            "completion_ids": token_column(lists), "ended": pa.array([True] * count), "label": pa.array([0.5] * count),
            "log_probs": number_column(-torch.rand(int(lists.offsets[-1])), lists.offsets),
        })  # fmt: skip

    def run(_: Path) -> Verdict:
        torch.manual_seed(0)
        chunks = [(rows(start, min(start + 4, 11)), None, None) for start in (0, 4, 8)]
        other = TokenCollator(completion_batch, 3)
        return check_joiner(
            lambda: TokenCollator(completion_batch, 2),
            chunks,
            others=[lambda: other],
            repeats=False,
            shuffled=chunks[::-1],
        )

    yield "Joiner", TokenCollator, run, (4, 7, 8)


def feedback() -> Iterator[tuple]:
    def run(_: Path) -> Verdict:
        asked = requests().with_columns({"completion": pa.array([f"text {row}" for row in range(11)])})
        chunks = [(asked.slice(0, 6), asked.slice(0, 6)), (asked.slice(6), asked.slice(6))]
        return check_feedback(lambda: RewardFeedback(TextReward(lambda _, answer: float(len(answer)))), chunks)

    yield "Feedback", RewardFeedback, run, (5,)


CASES = [objectives, learners, joiners, feedback, predictors]
