from __future__ import annotations

import copy
from dataclasses import replace

import pyarrow as pa
import pytest
import torch

from headrace.data import jagged, token_column, vote_batch
from headrace.errors import ConfigError, NonFiniteLoss, SchemaError
from headrace.learn import BoundedStaleness, PreferenceConfig, PreferenceLearner
from headrace.nn import CausalSettings, CausalTransformer, LoRASettings, with_lora
from headrace.objectives import DPO
from headrace.testing import assert_same_state
from headrace.types import Batch, Events, Version

SIZES = CausalSettings(vocabulary=12, width=16, layers=1, heads=2, max_length=16)


def votes(labels, version: int = 0) -> Batch:
    """The first completion says 7, the other one 8."""
    rows = len(labels)
    return vote_batch(Events.from_columns({
        "key": [f"k{row}" for row in range(rows)], "kind": ["example"] * rows, "event_time": [0] * rows,
        "item": ["pair"] * rows, "prompt_ids": token_column(jagged([[3, 4]] * rows)),
        "first_ids": token_column(jagged([[7, 1]] * rows)), "second_ids": token_column(jagged([[8, 8, 1]] * rows)),
        "label": pa.array(labels, pa.float32()), "version": [version] * rows,
    }))  # fmt: skip


def learner(policy=None, **settings) -> PreferenceLearner:
    policy = CausalTransformer(SIZES, seed=1) if policy is None else policy
    adam = torch.optim.Adam([one for one in policy.parameters() if one.requires_grad], lr=0.01)
    return PreferenceLearner(policy, copy.deepcopy(policy), adam, PreferenceConfig(**settings))


def chance_of_seven(model) -> float:
    with torch.no_grad():
        return float(torch.softmax(model(jagged([[3, 4]])), -1)[-1, 7])


def test_a_vote_puts_what_was_preferred_first() -> None:
    batch = votes([1.0, 0.0, 0.5, 0.25])
    chosen = [
        part.tolist() for part in torch.split(batch.ids["chosen"].values, batch.ids["chosen"].offsets.diff().tolist())
    ]
    assert chosen == [[7, 1], [8, 8, 1], [7, 1], [8, 8, 1]]
    assert batch.labels.tolist() == [1.0, 1.0, 0.5, 0.75]
    with pytest.raises(SchemaError, match="0 to 1"):
        votes([1.5])


def test_what_is_preferred_becomes_likelier_and_ties_change_nothing_but_rounding() -> None:
    moved = []
    for labels in ([1.0] * 6, [0.0] * 6, [0.5] * 6):
        one = learner(epochs=4)
        before = chance_of_seven(one.model)
        loss = one.learn(votes(labels))
        moved.append(chance_of_seven(one.model) - before)
        assert loss.parts["accuracy"] >= 0.5
    assert one.examples == 6
    preferred, other, tied = moved
    assert preferred > 0 > other
    assert abs(tied) < 0.01 * min(preferred, -other)


def test_a_batch_is_learned_whole_or_not_at_all() -> None:
    one = learner(epochs=2, minibatch_rows=2)
    one.learn(votes([1.0, 0.0, 1.0]))
    before = one.state()
    bad = votes([1.0, 0.0, 1.0, 1.0])
    bad.weights[3] = float("inf")
    with pytest.raises(NonFiniteLoss):
        one.learn(bad)
    assert_same_state(one.state(), before)


def test_of_adapters_only_the_first_version_is_whole() -> None:
    adapted = with_lora(CausalTransformer(SIZES, seed=1), LoRASettings(rank=2))
    one = learner(adapted)
    first = one.changes(Version(-1))
    one.learn(votes([1.0] * 3))
    second = one.changes(first.version)
    assert set(second.dense) < set(first.dense)
    assert all("down" in name or "up" in name for name in second.dense if "rotation" not in name)


def test_the_reference_has_to_be_another_model() -> None:
    policy = CausalTransformer(SIZES)
    with pytest.raises(ConfigError, match="the policy itself"):
        PreferenceLearner(policy, policy, torch.optim.Adam(policy.parameters()))
    other = CausalTransformer(replace(SIZES, vocabulary=13))
    with pytest.raises(ConfigError, match="12 tokens"):
        PreferenceLearner(policy, other, torch.optim.Adam(policy.parameters()))
    with pytest.raises(ConfigError, match="epochs"):
        PreferenceConfig(objective=DPO(), epochs=0)


def test_what_is_too_old_is_left_out_and_counted() -> None:
    inside = learner()
    one = BoundedStaleness(inside, 1)
    version = Version(-1)
    for number in range(4):  # versions 0 to 3
        version = one.changes(version).version
        assert version.number == number
    mixed = replace(votes([1.0] * 5), versions=torch.tensor([3, 2, 1, -1, 3]))
    loss = one.learn(mixed)
    assert inside.examples == 3
    assert one.refused == 2
    assert loss.parts["refused"] == pytest.approx(0.4)
    assert loss.parts["behind"] == pytest.approx(1 / 3)
    before = one.state()
    loss = one.learn(replace(votes([1.0] * 2), versions=torch.tensor([0, 1])))
    assert float(loss.total) == 0.0
    assert inside.examples == 3
    assert_same_state(one.state()["inside"], before["inside"])
    again = BoundedStaleness(learner(), 1)
    again.restore(one.state())
    assert again.refused == 4
    with pytest.raises(ConfigError, match="0 or more"):
        BoundedStaleness(inside, -1)
