"""Language models: the predictor that writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from headrace.data import jagged, token_column
from headrace.nn import CausalSettings, CausalTransformer
from headrace.publish import Replica
from headrace.serve import GenerateConfig, LanguagePredictor
from headrace.testing import Verdict, check_predictor
from headrace.types import Change, Events, Version

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


CASES = [predictors]
