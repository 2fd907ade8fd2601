"""A policy learns from rewards: degenerate cases first, then what is refused, published and resumed."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from headrace.errors import ConfigError, CorruptSnapshot, DataError, NonFiniteLoss, RowRuleMismatch
from headrace.learn import BoundedStaleness, CriticCredit, GroupCredit, KLControl, PolicyConfig, PolicyLearner
from headrace.learn.rollouts import credited, reward_statistics, rows_of, scaled
from headrace.nn import ActorCritic, CausalSettings, CausalTransformer, LoRASettings, ScoreModel, with_lora
from headrace.objectives import PPO, Reinforce
from headrace.objectives.tokens import completion_log_probs, joined
from headrace.serve import GenerateConfig, generate
from headrace.testing import first_difference
from headrace.types import Batch, Jagged, Version

SIZES = CausalSettings(vocabulary=12, width=16, layers=1, heads=2, max_length=24)
ROWS = 24


def rollout(policy, rewards=None, seed: int = 0, rows: int = ROWS) -> Batch:
    """Completions that the policy draws now; by default each is worth the share of its tokens that are 7."""
    prompts = Jagged(torch.arange(rows) // 2 % 5 + 3, torch.arange(rows + 1))
    made = generate(
        policy.decoder(), prompts, GenerateConfig(max_tokens=6, ends=(1,)), [seed * 1000 + r for r in range(rows)]
    )
    there = torch.arange(6) < made.tokens.offsets.diff().unsqueeze(1)
    owners = torch.repeat_interleave(torch.arange(rows), made.tokens.offsets.diff())
    share = torch.zeros(rows).index_add_(0, owners, (made.tokens.values == 7).float()) / made.tokens.offsets.diff()
    none = torch.zeros(rows, dtype=torch.int64)
    return Batch(
        ids={"prompt": prompts, "completion": made.tokens}, dense=torch.zeros(rows, 0),
        labels=share if rewards is None else torch.as_tensor(rewards, dtype=torch.float32).expand(rows).clone(),
        weights=torch.ones(rows), event_times=none, accepted_times=none, example_ids=torch.arange(rows),
        predictions=torch.full((rows,), torch.nan), versions=none, sample_rates=torch.ones(rows),
        extra={"log_probs": torch.zeros(rows, 6).masked_scatter(there, made.log_probs), "ended": made.ended.float(),
               "groups": torch.arange(rows) // 2},
    )  # fmt: skip


def learner(
    config: PolicyConfig | None = None, objective=None, *, critic=None, lr: float = 5e-3, policy=None
) -> PolicyLearner:
    policy = policy or CausalTransformer(SIZES, seed=0)
    model = ActorCritic(policy, critic)
    adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    return PolicyLearner(model, copy.deepcopy(policy), adam, objective or PPO(), config)


def weights(one: PolicyLearner) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in one.model.policy.state_dict().items()}


GROUPS = PolicyConfig(credit=GroupCredit(), kl=KLControl(coefficient=0.0), epochs=1)


def test_a_constant_reward_moves_nothing() -> None:
    one = learner(GROUPS, PPO(value_weight=0.0))
    before = weights(one)
    for step in range(3):
        one.learn(rollout(one.model.policy, rewards=2.5, seed=step))
    assert first_difference(before, weights(one)) is None


def test_without_rewards_a_huge_price_keeps_the_policy_at_the_reference() -> None:
    far = CausalTransformer(SIZES, seed=0)
    one = learner(PolicyConfig(kl=KLControl(coefficient=50.0), epochs=2), lr=2e-3)
    with torch.no_grad():  # start somewhere else than the reference
        for parameter in one.model.policy.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    first = one.learn(rollout(one.model.policy, seed=0)).parts["kl"]
    for step in range(1, 60):
        last = one.learn(rollout(one.model.policy, seed=step)).parts["kl"]
    assert first > 0.5
    assert last < first / 4
    prompts = Jagged(torch.tensor([3, 4, 5]), torch.tensor([0, 1, 2, 3]))
    gap = (torch.log_softmax(one.model.policy(prompts), -1) - torch.log_softmax(far(prompts), -1)).abs().mean()
    assert float(gap.detach()) < 0.5


@pytest.mark.parametrize(
    ("config", "objective"),
    [
        (PolicyConfig(epochs=2, minibatch_rows=12), PPO()),
        (PolicyConfig(credit=GroupCredit(), epochs=1, minibatch_rows=12), Reinforce()),
        (PolicyConfig(epochs=2, reward_norm="running", reward_clip=5.0), PPO()),
    ],
)
def test_rewards_rise(config, objective) -> None:
    one = learner(config, objective, lr=1e-2)
    found = [one.learn(rollout(one.model.policy, seed=step)).parts["reward"] for step in range(25)]
    assert sum(found[-3:]) / 3 > sum(found[:3]) / 3 + 0.25


def test_what_a_run_should_watch_is_there() -> None:
    one = learner(critic=ScoreModel(CausalTransformer(SIZES, seed=4), zero=True))
    rows = rollout(one.model.policy)
    parts = one.learn(rows).parts
    assert parts["kl"] == pytest.approx(0.0, abs=1e-4)
    assert parts["reward"] == pytest.approx(float(rows.labels.mean()))
    assert parts["ended"] == pytest.approx(float(rows.extra["ended"].mean()))
    assert parts["length"] == pytest.approx(float(rows.ids["completion"].offsets.diff().float().mean()))
    assert {"policy", "value", "ratio_max", "clipped", "advantage_std", "explained", "kl_coefficient"} <= set(parts)


def test_advantages_are_credited_as_the_settings_say() -> None:
    one = learner()
    rows, zero = rollout(one.model.policy), [0.0, 0.0, 0.0]

    def found(config: PolicyConfig) -> dict[str, torch.Tensor]:
        return dict(credited(one.model, one.reference, rows, config, config.kl.coefficient, zero).batch.extra)

    there = torch.arange(6) < rows.ids["completion"].offsets.diff().unsqueeze(1)
    free = KLControl(coefficient=0.0)
    raw = found(PolicyConfig(kl=free, credit=CriticCredit(lam=1.0, advantages="raw")))
    expected = rows.labels.unsqueeze(1) * there  # the critic is 0 everywhere, so every token has the reward
    torch.testing.assert_close(raw["advantages"], expected)
    torch.testing.assert_close(raw["returns"], expected)
    white = found(PolicyConfig(kl=free, credit=CriticCredit(lam=1.0)))["advantages"][there]
    assert float(white.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(white.std()) == pytest.approx(1.0, abs=1e-3)
    centred = found(PolicyConfig(kl=free, credit=CriticCredit(lam=1.0, advantages="centred")))["advantages"][there]
    torch.testing.assert_close(centred, expected[there] - expected[there].mean())
    others = found(PolicyConfig(kl=free, credit=GroupCredit()))["advantages"]
    pair = rows.labels[0] - rows.labels[1]
    torch.testing.assert_close(others[:2, 0], torch.stack((pair, -pair)))


def test_the_price_of_distance_is_paid_per_token_and_by_the_whole() -> None:
    one, other = learner(), CausalTransformer(SIZES, seed=8)
    rows = rollout(other)
    config = PolicyConfig(kl=KLControl(coefficient=0.3), credit=CriticCredit(lam=1.0, advantages="raw"))
    found = credited(one.model, one.reference, rows, config, 0.3, [0.0] * 3)
    whole = joined(rows.ids["prompt"], rows.ids["completion"])
    gaps = completion_log_probs(other, whole).detach() - completion_log_probs(one.reference, whole)
    row = whole.owners == 0
    expected = rows.labels[0] - 0.3 * gaps[row].flip(0).cumsum(0).flip(0)
    torch.testing.assert_close(found.batch.extra["returns"][0, : int(row.sum())], expected, rtol=0, atol=1e-5)
    assert found.parts["kl"] == pytest.approx(float(gaps.sum()) / ROWS, abs=1e-5)


def test_completions_that_were_cut_pay_for_it() -> None:
    one = learner()
    rows = rollout(one.model.policy, rewards=1.0)
    config = PolicyConfig(
        missing_end=0.5, kl=KLControl(coefficient=0.0), credit=CriticCredit(lam=1.0, advantages="raw")
    )
    found = credited(one.model, one.reference, rows, config, 0.0, [0.0] * 3).batch.extra["returns"][:, 0]
    torch.testing.assert_close(found, 0.5 + 0.5 * rows.extra["ended"])


def test_rewards_are_scaled_normed_and_cut() -> None:
    rewards = [torch.tensor([1.0, 2.0, 6.0]), torch.tensor([4.0, -3.0])]
    statistics = [0.0, 0.0, 0.0]
    for some in rewards:
        statistics = reward_statistics(statistics, some)
    every = torch.cat(rewards).double()
    assert statistics == pytest.approx([5.0, float(every.mean()), float(((every - every.mean()) ** 2).sum())])
    normed = scaled(rewards[1], PolicyConfig(reward_norm="running"), statistics)
    torch.testing.assert_close(normed, (rewards[1] - every.mean()).float() / every.std(unbiased=False).float())
    for factor in (0.1, 10.0):  # a scale that is wrong is taken out
        again = [0.0, 0.0, 0.0]
        for some in rewards:
            again = reward_statistics(again, some * factor)
        torch.testing.assert_close(scaled(rewards[1] * factor, PolicyConfig(reward_norm="running"), again), normed)
    cut = scaled(rewards[0], PolicyConfig(reward_scale=2.0, reward_clip=5.0), statistics)
    assert cut.tolist() == [2.0, 4.0, 5.0]


def test_the_price_follows_its_target() -> None:
    control = KLControl(coefficient=0.1, target=5.0, horizon=100)
    assert control.moved(0.1, 5.0, 10) == 0.1
    assert control.moved(0.1, 50.0, 10) == pytest.approx(0.102)
    assert control.moved(0.1, 0.0, 10) == pytest.approx(0.098)
    assert KLControl().moved(0.05, 50.0, 10) == 0.05
    one = learner(PolicyConfig(kl=KLControl(coefficient=0.1, target=5.0, horizon=100)))
    one.learn(rollout(one.model.policy))
    assert one.coefficient == pytest.approx(0.1 * (1 - 0.2 * ROWS / 100))


def test_a_price_stays_positive_however_short_its_horizon() -> None:
    price, control = 0.2, KLControl(coefficient=0.2, target=2.0, horizon=8)
    for _ in range(20):
        assert (price := control.moved(price, 0.0, 64)) > 0
    assert control.moved(0.2, 0.0, 64) == 0.1
    assert control.moved(0.2, 0.0, 10) == 0.2 * (1.0 - 0.2 * 10 / 8)  # as it was, where it does not halve


def test_prompts_that_were_asked_once_have_nothing_to_be_compared_with() -> None:
    one = learner(GROUPS, PPO(value_weight=0.0))
    rows, before = rollout(one.model.policy), one.state()
    alone = replace(rows, extra={**rows.extra, "groups": torch.arange(ROWS)})
    with pytest.raises(DataError, match=f"{ROWS} completions of {ROWS} prompts"):
        one.learn(alone)
    assert first_difference(before, one.state()) is None
    one.learn(rows_of(rows, torch.tensor([0])))  # the rest of a group that a batch has cut


def test_a_rollout_is_learned_whole_or_not_at_all() -> None:
    one = learner(PolicyConfig(epochs=2, minibatch_rows=6))
    one.learn(rollout(one.model.policy))
    state, rows = one.state(), rollout(one.model.policy, seed=1)
    calls, inner = [0], one._steps.learn

    def failing(batch: Batch):
        calls[0] += 1
        if calls[0] == 4:
            raise NonFiniteLoss("a step in the middle", got="NaN")
        return inner(batch)

    one._steps.learn = failing
    with pytest.raises(NonFiniteLoss, match="in the middle"):
        one.learn(rows)
    assert calls[0] == 4
    assert first_difference(state, one.state()) is None
    one._steps.learn = inner
    twin = learner(PolicyConfig(epochs=2, minibatch_rows=6))
    twin.learn(rollout(twin.model.policy))
    assert torch.equal(one.learn(rows).total, twin.learn(rows).total)


def test_a_reward_that_is_no_number_is_refused_and_named() -> None:
    one = learner()
    state, rows = one.state(), rollout(one.model.policy)
    rows.labels[3] = float("nan")
    with pytest.raises(NonFiniteLoss, match=r"row 3 \(example 3\), reward"):
        one.learn(rows)
    with torch.no_grad():
        one.reference.embedding.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteLoss, match="reference"):
        one.learn(rollout(one.model.policy))
    assert first_difference(state, one.state()) is None
    lacking = rollout(one.model.policy)
    del lacking.extra["log_probs"]
    with pytest.raises(DataError, match="log_probs"):
        one.learn(lacking)


def test_only_the_policy_is_published() -> None:
    one = learner(critic=ScoreModel(CausalTransformer(SIZES, seed=4)))
    first = one.changes(Version(-1))
    assert first.full
    assert set(first.dense) == set(CausalTransformer(SIZES).state_dict())
    one.learn(rollout(one.model.policy))
    second = one.changes(Version(0, -1))
    assert set(second.dense) == set(first.dense)
    assert second.notes["example_offset"].tolist() == [ROWS]
    assert first_difference(dict(second.dense), weights(one)) is None


def test_of_a_policy_with_adapters_later_versions_are_the_adapters() -> None:
    one = learner(policy=with_lora(CausalTransformer(SIZES, seed=0), LoRASettings(rank=2)))
    first = one.changes(Version(-1))
    before = weights(one)
    one.learn(rollout(one.model.policy))
    second = one.changes(Version(0, -1))
    assert len(second.dense) < len(first.dense)
    assert all(".up." in name or ".down" in name for name in second.dense)
    assert first_difference({**first.dense, **second.dense}, weights(one)) is None
    frozen = {name: value for name, value in before.items() if name not in second.dense}
    assert first_difference(frozen, {name: weights(one)[name] for name in frozen}) is None


def test_states_of_others_are_refused() -> None:
    one = learner()
    one.learn(rollout(one.model.policy))
    state = one.state()
    for other in (
        learner(PolicyConfig(epochs=3)), learner(objective=PPO(clip=0.1)),
        learner(policy=CausalTransformer(SIZES, seed=1)),
    ):  # fmt: skip
        with pytest.raises(RowRuleMismatch):
            other.restore(state)
    fresh = learner()
    before = fresh.state()
    for lacking in ({"steps": state["steps"]}, {**state, "rewards": {"count": 1.0}}, {"inside": state, "refused": 0}):
        with pytest.raises(CorruptSnapshot, match="begin a new run"):
            fresh.restore(lacking)
        assert first_difference(before, fresh.state()) is None
    with pytest.raises(CorruptSnapshot, match="bound"):
        BoundedStaleness(fresh, 2).restore(state)
    assert first_difference(before, fresh.state()) is None


def test_parts_that_do_not_go_together_are_refused() -> None:
    for config, objective in (
        (PolicyConfig(), PPO(value_weight=0.0)), (PolicyConfig(), Reinforce()), (GROUPS, PPO())
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="PolicyLearner, objective"):
            learner(config, objective)
    policy = CausalTransformer(SIZES)
    model = ActorCritic(policy)
    with pytest.raises(ConfigError, match="a copy of it"):
        PolicyLearner(model, policy, torch.optim.Adam(model.parameters()), PPO())
    for wrong in (
        {"epochs": 0}, {"minibatch_rows": 0}, {"reward_scale": 0.0}, {"reward_norm": "running", "reward_scale": 2.0},
        {"reward_clip": 0.0}, {"missing_end": -1.0},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            PolicyConfig(**wrong)
    for wrong in (
        {"target": 3.0},
        {"horizon": 9},
        {"coefficient": 0.0, "target": 3.0, "horizon": 9},
        {"estimator": "k9"},
    ):
        with pytest.raises(ConfigError):
            KLControl(**wrong)
    for wrong in ({"lam": 1.5}, {"advantages": "none"}):
        with pytest.raises(ConfigError):
            CriticCredit(**wrong)


def test_weights_weigh_completions() -> None:
    one, twin = learner(GROUPS, PPO(value_weight=0.0)), learner(GROUPS, PPO(value_weight=0.0))
    rows = rollout(one.model.policy)
    one.learn(replace(rows, weights=torch.zeros(ROWS)))
    assert first_difference(weights(one), weights(twin)) is None
