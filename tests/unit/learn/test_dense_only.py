"""A learner without tables is the learner: checkpoints, refused steps and versions as ever."""

from __future__ import annotations

import pytest
import torch

from headrace.errors import NonFiniteLoss, RowRuleMismatch
from headrace.learn import LearnerConfig, ManifestCheckpoint, dense_learner
from headrace.nn import CausalSettings, CausalTransformer, ScoreModel
from headrace.objectives import BradleyTerry, NextToken
from headrace.optim import clip_norm
from headrace.testing import first_difference
from headrace.types import Batch, Jagged, Version

SIZES = CausalSettings(vocabulary=9, width=8, layers=1, heads=2, max_length=8)


def texts(seed: int = 0, rows: int = 4) -> Batch:
    draw, none = torch.Generator().manual_seed(seed), torch.zeros(rows, dtype=torch.int64)
    values = torch.randint(0, 9, (rows * 5,), generator=draw)
    two = {name: Jagged(values + shift, torch.arange(rows + 1) * 5) for name, shift in (("tokens", 0),)}
    return Batch(
        ids=two, dense=torch.zeros(rows, 0), labels=torch.ones(rows), weights=torch.ones(rows), event_times=none,
        accepted_times=none, example_ids=torch.arange(rows), predictions=torch.full((rows,), torch.nan), versions=none,
        sample_rates=torch.ones(rows),
    )  # fmt: skip


def learner(max_norm: float = 1.0):
    model = CausalTransformer(SIZES)
    adam = clip_norm(torch.optim.AdamW(model.parameters(), lr=0.05), max_norm)
    return dense_learner(model, adam, NextToken(), LearnerConfig(freshness=False))


def test_it_learns_and_publishes_the_model_under_its_own_names() -> None:
    one = learner()
    assert set(one.changes(Version(-1)).dense) == set(CausalTransformer(SIZES).state_dict())
    losses = [float(one.learn(texts()).total) for _ in range(40)]
    assert losses[-1] < losses[0] / 2
    change = one.changes(Version(0, -1))
    assert not change.full
    assert not change.tables
    assert change.notes["example_offset"].tolist() == [160]


def test_a_checkpoint_goes_on_to_the_bit(tmp_path) -> None:
    straight, first = learner(), learner()
    for step in range(6):
        straight.learn(texts(step))
    for step in range(3):
        first.learn(texts(step))
    ManifestCheckpoint(tmp_path).save(first.state())
    second = learner()
    second.restore(ManifestCheckpoint(tmp_path).load())
    for step in range(3, 6):
        second.learn(texts(step))
    assert first_difference(straight.state(), second.state()) is None
    with pytest.raises(RowRuleMismatch, match="max_norm"):
        learner(max_norm=2.0).restore(second.state())


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    one = learner()
    one.learn(texts())
    state, bad = one.state(), texts(1)
    bad.weights[0] = float("inf")
    with pytest.raises(NonFiniteLoss):
        one.learn(bad)
    assert first_difference(state, one.state()) is None


def test_a_reward_model_is_learned_the_same_way() -> None:
    model = ScoreModel(CausalTransformer(SIZES))
    one = dense_learner(model, torch.optim.Adam(model.parameters(), lr=0.02), BradleyTerry())
    rows, pairs = texts(), texts()
    prompts, tokens = Jagged(torch.arange(4), torch.arange(5)), rows.ids["tokens"]
    pairs.ids.clear()
    pairs.ids.update({"prompt": prompts, "chosen": tokens, "rejected": Jagged(8 - tokens.values, tokens.offsets)})
    for _ in range(30):
        loss = one.learn(pairs)
    assert loss.parts["accuracy"] == 1.0
