"""Why the reward is not learned from the harmlessness data: what a reward model of this size learns from it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from headrace.data import jagged, preference_batch, token_column
from headrace.data.datasets.dialogues import Choice, harmless_pairs
from headrace.data.text import BEGIN
from headrace.learn import fit_language
from headrace.nn import ScoreModel
from headrace.objectives import BradleyTerry
from headrace.online import Writing
from headrace.types import Events

HELD_OUT = 400


def pairs_of(choices: list[Choice], writing: Writing) -> Events:
    """Return choices as pairs: the end of what was asked, and as much of the answers as the model can take."""
    longest = writing.config.sizes.max_length
    share = longest // 4
    asked = [row[-share:] for row in _rows(writing, [one.asked for one in choices])]
    begin = writing.codec.token(BEGIN)
    columns = {"prompt_ids": [[begin, *row] for row in asked]}
    for name, texts in (("chosen_ids", [one.chosen for one in choices]),
                        ("rejected_ids", [one.rejected for one in choices])):  # fmt: skip
        columns[name] = [row[: longest - share - 1] for row in _rows(writing, texts)]
    count = len(choices)
    return Events.from_columns({"key": [f"choice/{row}" for row in range(count)], "kind": ["example"] * count,
                                "event_time": [0] * count,
                                **{name: token_column(jagged(rows)) for name, rows in columns.items()}})  # fmt: skip


@torch.no_grad()
def _accuracy(model: ScoreModel, pairs: Events) -> float:
    return BradleyTerry()(model, preference_batch(pairs)).parts["accuracy"]


def harmless_accuracy(writing: Writing, seed: int) -> float:
    """Return the share of held-out choices that a reward model, begun as the base model, orders rightly.

    Args:
        writing: Has the base model.
        seed: Draws which choices are held out.

    Raises:
        DataError: If the data are missing.
    """
    choices = harmless_pairs()
    order = np.random.default_rng(seed).permutation(len(choices)).tolist()
    held, learned = ([choices[row] for row in rows] for rows in (order[:HELD_OUT], order[HELD_OUT:]))
    model = ScoreModel(writing.base(), seed=seed)
    fit_language(model, pairs_of(learned, writing), preference_batch, BradleyTerry(centred=0.01),
                 writing.config.reward)  # fmt: skip
    return _accuracy(model, pairs_of(held, writing))


def _rows(writing: Writing, texts: list[str]) -> list[list[int]]:
    found = writing.codec.encode(texts)
    values, offsets = found.values.tolist(), found.offsets.tolist()
    return [values[start:end] for start, end in pairwise(offsets)]
