"""Writes what crowd-kit finds on small crowds, for a unit test: majority vote, Dawid-Skene and GLAD.

Runs where crowd-kit is installed (`pip install crowd-kit`), not in this project's environment:

    python scripts/expected_annotators.py
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from crowdkit.aggregation.classification.dawid_skene import DawidSkene
from crowdkit.aggregation.classification.glad import GLAD
from crowdkit.aggregation.classification.majority_vote import MajorityVote

OUTPUT = Path(__file__).resolve().parents[1] / "tests" / "unit" / "feedback" / "expected" / "crowdkit.json"
CROWDS = {"two": (30, 6, 4, 2), "three": (40, 8, 5, 3)}
"""Items, annotators, answers per item, classes."""


def crowd(items: int, annotators: int, each: int, classes: int) -> pd.DataFrame:
    """Draw answers of annotators of different skill, each item having a class."""
    draw = np.random.default_rng(items)
    truth, skill = draw.integers(0, classes, items), draw.uniform(0.45, 0.95, annotators)
    rows = []
    for item in range(items):
        for person in draw.choice(annotators, each, replace=False):
            right = draw.random() < skill[person]
            said = truth[item] if right else (truth[item] + draw.integers(1, classes)) % classes
            rows.append((item, int(person), int(said)))
    return pd.DataFrame(rows, columns=["task", "worker", "label"])


def plain(frame: pd.DataFrame) -> list[list[float]]:
    """Return probabilities by item and class, both sorted, rounded."""
    ordered = frame.sort_index().sort_index(axis=1)
    return [[round(float(value), 7) for value in row] for row in ordered.to_numpy()]


def main() -> None:
    """Write the file."""
    found: dict[str, object] = {"crowdkit": version("crowd-kit")}
    for name, shape in CROWDS.items():
        data = crowd(*shape)
        skene = DawidSkene(n_iter=300, tol=-1.0)
        glad = GLAD(n_iter=60, tol=-1.0, m_step_max_iter=25, m_step_tol=1e-5)
        abilities = glad.fit(data.copy()).alphas_
        found[name] = {
            "rows": data.to_numpy().tolist(), "classes": shape[3],
            "majority": plain(MajorityVote().fit_predict_proba(data)),
            "dawid-skene": plain(skene.fit_predict_proba(data)),
            "glad": plain(glad.probas_),
            "ability": [round(float(value), 5) for value in abilities.sort_index()],
        }  # fmt: skip
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
