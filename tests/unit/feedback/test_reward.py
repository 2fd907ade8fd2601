"""Rewards: models, rules and sums of them; best-of-n; and what is no reward."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from headrace.errors import ConfigError, DataError, NumericError, SchemaError
from headrace.feedback import ModelReward, RewardFeedback, SumOfRewards, TextReward, best_of
from headrace.nn import CausalSettings, CausalTransformer, ScoreModel
from headrace.types import Events, Jagged


def completions(keys: list[str] | None = None) -> Events:
    keys = keys or ["a", "b", "c"]
    rows = len(keys)
    lists = pa.array([[1, 2], [3], [4, 5, 6]][:rows], pa.list_(pa.int32()))
    return Events.from_columns({
        "key": keys, "kind": ["prediction"] * rows, "event_time": list(range(rows)), "item": ["0"] * rows,
        "prompt_ids": lists, "completion_ids": lists, "prompt": ["x"] * rows,
        "completion": ["hm", "yes", "oh yes"][:rows],
    })  # fmt: skip


def test_an_answer_is_a_reward_at_the_time_of_its_request() -> None:
    rows = completions()
    answers = RewardFeedback(TextReward(lambda prompt, answer: float("yes" in answer))).collect(rows, rows)
    assert answers.column("reward").to_pylist() == [0.0, 1.0, 1.0]
    assert answers.column("kind").to_pylist() == ["reward"] * 3
    assert answers.times.tolist() == [0, 1, 2]
    assert RewardFeedback(TextReward(lambda *_: 0.0)).collect(rows.slice(0, 0), rows.slice(0, 0)) is None


def test_a_reward_model_scores_prompt_and_completion() -> None:
    model = ScoreModel(CausalTransformer(CausalSettings(vocabulary=9, width=8, layers=1, heads=2)), seed=1)
    rows = completions()
    tokens = Jagged(torch.tensor([1, 2, 1, 2, 3, 3, 4, 5, 6, 4, 5, 6]), torch.tensor([0, 4, 6, 12]))
    expected = model.last_scores(tokens).detach().numpy()
    for batch_rows in (1, 2, 64):
        np.testing.assert_allclose(ModelReward(model, batch_rows)(rows, rows), expected, atol=1e-5)
    assert len(ModelReward(model)(rows.slice(0, 0), rows.slice(0, 0))) == 0


def test_rewards_can_be_added() -> None:
    rows = completions()
    both = SumOfRewards((TextReward(lambda _, text: len(text)), 0.5), (lambda *_: [1.0, 2.0, 3.0], -1.0))
    assert both(rows, rows).tolist() == [0.0, -0.5, 0.0]


def test_the_best_of_every_key_is_found() -> None:
    rows = completions(["a", "b", "a"])
    assert best_of(rows, [1.0, 0.0, 2.0]).tolist() == [2, 1]
    assert best_of(rows, [2.0, 0.0, 2.0]).tolist() == [0, 1]


def test_what_is_no_reward_is_refused() -> None:
    rows = completions()
    with pytest.raises(NumericError, match="Reward of 'b'"):
        RewardFeedback(lambda *_: [0.0, float("nan"), 1.0]).collect(rows, rows)
    with pytest.raises(DataError, match="one per completion"):
        RewardFeedback(lambda *_: [0.0]).collect(rows, rows)
    with pytest.raises(ConfigError):
        SumOfRewards()
    with pytest.raises(ConfigError):
        ModelReward(ScoreModel(CausalTransformer(CausalSettings(vocabulary=9))), 0)
    with pytest.raises(SchemaError, match="completion_ids"):
        wrong = rows.with_columns({"completion_ids": pa.array(["a"] * 3)})
        ModelReward(ScoreModel(CausalTransformer(CausalSettings(vocabulary=9))))(wrong, wrong)
