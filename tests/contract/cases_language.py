"""Language models: their objectives, and the predictor that writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from headrace.data import jagged, token_column
from headrace.nn import ActorCritic, CausalSettings, CausalTransformer, ScoreModel
from headrace.objectives import DPO, PPO, BradleyTerry, NextToken, Reinforce, with_reference
from headrace.publish import Replica
from headrace.serve import GenerateConfig, LanguagePredictor
from headrace.testing import Verdict, check_objective, check_predictor
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
    lists = {name: jagged([[(seed + 3 * row + place + len(name)) % 20 for place in range(1 + (row + seed) % 4)]
                           for row in range(rows)]) for name in ("prompt", "completion", "chosen", "rejected")}  # fmt: skip
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


CASES = [objectives, predictors]
