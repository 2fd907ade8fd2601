"""Rewards as feedback: a reward model, a rule or a classifier is a user who answers every completion at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from headrace.config import require
from headrace.errors import DataError, NumericError, SchemaError
from headrace.types import Events, Jagged

REWARD = "reward"
"""Kind of an answer that is a reward, and the column that holds it (`JoinConfig.value`)."""
PROMPT_IDS, COMPLETION_IDS, PROMPT, COMPLETION = "prompt_ids", "completion_ids", "prompt", "completion"

Rewarder: TypeAlias = Callable[[Events, Events], Sequence[float] | npt.NDArray[np.floating]]
"""Says what completions are worth: (requests, predictions) to one number per row."""


class RewardFeedback:
    """The `Feedback` that rewards every completion as soon as it is made.

    An answer is a row of kind `reward`, at the time of its request, with the reward in the column `reward`. A rewarder
    that fails, or says something that is no finite number, stops the loop before anything was learned from that
    read: what asked the questions stands where it stood, and goes on from there.

    Args:
        rewarder: `ModelReward`, `TextReward`, a weighted sum of several (`SumOfRewards`), or any function.

    Raises:
        NumericError: When asked, if a reward is not finite.
        DataError: When asked, if there is not one reward per row.
    """

    def __init__(self, rewarder: Rewarder) -> None:
        self.rewarder = rewarder

    def collect(self, requests: Events, predictions: Events) -> Events | None:
        """Return one reward per row; None when there is no row."""
        if not len(predictions):
            return None
        rewards = _checked(self.rewarder(requests, predictions), predictions)
        return Events.from_columns({
            "key": requests.column("key"), "kind": pa.array([REWARD] * len(requests), pa.string()),
            "event_time": requests.column("event_time"), "item": requests.column("item"),
            REWARD: pa.array(rewards, pa.float64()),
        })  # fmt: skip


class _Scorer(Protocol):
    """What a reward model has; `headrace.nn.ScoreModel` does."""

    def last_scores(self, tokens: Jagged) -> Tensor:
        """Return the score of each whole sequence, (B,)."""
        ...


class ModelReward:
    """Rewards with a reward model's score of prompt and completion.

    Args:
        model: The reward model; it is not changed.
        batch_rows: Sequences scored at a time.
    """

    def __init__(self, model: _Scorer, batch_rows: int = 64) -> None:
        require(batch_rows >= 1, "ModelReward, batch_rows", got=batch_rows, expected="1 or more")
        self.model, self.batch_rows = model, batch_rows

    @torch.no_grad()
    def __call__(self, requests: Events, predictions: Events) -> npt.NDArray[np.float64]:
        """Return one score per row."""
        prompts, answers = (_lists(predictions, name) for name in (PROMPT_IDS, COMPLETION_IDS))
        rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        found = [self.model.last_scores(_jagged(rows[at : at + self.batch_rows]))
                 for at in range(0, len(rows), self.batch_rows)]  # fmt: skip
        return np.asarray(torch.cat(found).double().numpy()) if found else np.zeros(0)


class TextReward:
    """Rewards with a function of texts: a rule, or a classifier.

    Args:
        judge: (prompt, completion) to a number. The prompt is empty where requests have none as text.
    """

    def __init__(self, judge: Callable[[str, str], float]) -> None:
        self.judge = judge

    def __call__(self, requests: Events, predictions: Events) -> list[float]:
        """Return one number per row.

        Raises:
            SchemaError: If completions have no text; give the predictor a codec.
        """
        answers = predictions.column(COMPLETION).to_pylist()
        asked = requests.column(PROMPT).to_pylist() if PROMPT in requests.names else [""] * len(answers)
        return [float(self.judge(prompt, answer)) for prompt, answer in zip(asked, answers, strict=True)]


class SumOfRewards:
    """Several rewarders, weighted and added.

    Args:
        parts: Rewarders with their weights.

    Raises:
        ConfigError: If there is none, or a weight is not finite.
    """

    def __init__(self, *parts: tuple[Rewarder, float]) -> None:
        finite = all(math.isfinite(weight) for _, weight in parts)
        require(bool(parts) and finite, "SumOfRewards", got=parts, expected="rewarders with finite weights")
        self.parts = parts

    def __call__(self, requests: Events, predictions: Events) -> npt.NDArray[np.float64]:
        """Return one number per row."""
        total = np.zeros(len(predictions))
        for rewarder, weight in self.parts:
            total += weight * _checked(rewarder(requests, predictions), predictions)
        return total


def best_of(predictions: Events, rewards: npt.NDArray[np.floating] | Sequence[float]) -> npt.NDArray[np.int64]:
    """Return the row of the best completion of every key, in order of the keys' first rows (best-of-n).

    Equal rewards: the first of them.

    Raises:
        NumericError: If a reward is not finite.
        DataError: If there is not one reward per row.
    """
    values = _checked(rewards, predictions)
    best: dict[str, int] = {}
    for row, key in enumerate(predictions.column("key").to_pylist()):
        if key not in best or values[row] > values[best[key]]:
            best[key] = row
    return np.array(list(best.values()), dtype=np.int64)


def _checked(rewards: object, predictions: Events) -> npt.NDArray[np.float64]:
    values = np.asarray(rewards, dtype=np.float64)
    if values.shape != (len(predictions),):
        raise DataError("Rewards", got=f"shape {values.shape}", expected=f"({len(predictions)},), one per completion")
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise NumericError(f"Reward of '{predictions.column('key')[row]}'", got=values[row], expected="a finite number",
                           do="Nothing was learned from this read. Look at who rewards.")  # fmt: skip
    return values


def _lists(events: Events, name: str) -> list[list[int]]:
    column = events.column(name)
    if not pa.types.is_list(column.type) or column.null_count:
        raise SchemaError(f"Column '{name}'", got=column.type, expected="a list of tokens in every row")
    rows: list[list[int]] = column.to_pylist()
    return rows


def _jagged(rows: Sequence[Sequence[int]]) -> Jagged:
    offsets = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    return Jagged(torch.tensor([token for row in rows for token in row], dtype=torch.int64), offsets)
