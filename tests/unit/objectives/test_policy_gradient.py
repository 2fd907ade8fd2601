"""PPO and REINFORCE: ratio 1 is the policy gradient, clips stop gradients, padding and splits change nothing."""

from __future__ import annotations

import pytest
import torch

from headrace.errors import ConfigError, DataError
from headrace.nn import ActorCritic, CausalSettings, CausalTransformer, ScoreModel
from headrace.objectives import PPO, Reinforce
from headrace.objectives.tokens import beside, completion_log_probs, joined
from headrace.types import Batch, Jagged

SIZES = CausalSettings(vocabulary=13, width=16, layers=1, heads=2, max_length=16)
PROMPTS, ANSWERS = [[1, 2], [3], [4, 5, 6]], [[4, 5, 6], [7], [8, 9]]


def jagged(rows: list[list[int]]) -> Jagged:
    offsets = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    return Jagged(torch.tensor([value for row in rows for value in row], dtype=torch.int64), offsets)


def model(seed: int = 1, *, own_critic: bool = False) -> ActorCritic:
    policy = CausalTransformer(SIZES, seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(3.0)
    made = ActorCritic(policy, ScoreModel(CausalTransformer(SIZES, 9)) if own_critic else None)
    if not own_critic:
        torch.nn.init.constant_(made.value.weight, 0.1)
    return made


def batch(made: ActorCritic, *, moved: float = 0.0, wider: int = 0, rows=slice(None)) -> Batch:
    """Completions with old log-probs `moved` away from the model's, and random advantages, returns and values."""
    prompts, answers = jagged(PROMPTS[rows]), jagged(ANSWERS[rows])
    draw = torch.Generator().manual_seed(5)
    noise = {name: torch.randn(3, 3, generator=draw) for name in ("log_probs", "advantages", "returns", "values")}
    old = beside(completion_log_probs(made, joined(prompts, answers)).detach(), answers)
    extra = {name: value[rows, : old.shape[1]] for name, value in noise.items()}
    extra["log_probs"] = old + moved * extra["log_probs"]
    if wider:  # what stands behind the end of a completion must not matter
        extra = {name: torch.cat((value, torch.full((len(value), wider), 7.0)), 1) for name, value in extra.items()}
    count = len(prompts)
    none = torch.zeros(count, dtype=torch.int64)
    return Batch(
        ids={"prompt": prompts, "completion": answers}, dense=torch.zeros(count, 0), labels=torch.ones(count),
        weights=torch.ones(count), event_times=none, accepted_times=none, example_ids=none,
        predictions=torch.full((count,), torch.nan), versions=none, sample_rates=torch.ones(count), extra=extra,
    )  # fmt: skip


def gradients(made: ActorCritic, loss) -> dict[str, torch.Tensor]:
    made.zero_grad()
    loss.total.backward()
    return {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}


def test_with_ratio_one_ppo_is_the_policy_gradient() -> None:
    made = model()
    rows = batch(made)
    clipped = gradients(made, PPO(value_weight=0.0)(made, rows))
    plain = gradients(made, Reinforce()(made, rows))
    assert set(clipped) == set(plain)
    for name, gradient in plain.items():
        torch.testing.assert_close(clipped[name], gradient, rtol=1e-4, atol=1e-7)


def test_truncated_importance_at_ratio_one_changes_nothing() -> None:
    made = model()
    torch.testing.assert_close(Reinforce(corrected=2.0)(made, batch(made)).total, Reinforce()(made, batch(made)).total)


@pytest.mark.parametrize("own_critic", [False, True])
def test_ppo_is_its_formula(own_critic) -> None:
    made = model(own_critic=own_critic)
    rows = batch(made, moved=0.4)
    settings = PPO(clip=0.2, value_clip=0.3, value_weight=0.5, entropy_weight=0.01, temperature=0.8)
    found = settings(made, rows)
    policy, value, entropy = [], [], []
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        whole = jagged([prompt + answer])
        logits = torch.log_softmax(made.logits(made.states(whole)) / 0.8, -1)
        values = made.states_and_values(whole)[1]
        for place, token in enumerate(answer):
            at = len(prompt) + place - 1
            extra = {name: float(tensor[row, place]) for name, tensor in rows.extra.items()}
            ratio = (logits[at, token] - extra["log_probs"]).exp()
            policy.append(torch.max(-extra["advantages"] * ratio, -extra["advantages"] * ratio.clamp(0.8, 1.2)))
            near = extra["values"] + (values[at] - extra["values"]).clamp(-0.3, 0.3)
            value.append(0.5 * torch.max((values[at] - extra["returns"]) ** 2, (near - extra["returns"]) ** 2))
            entropy.append(-(logits[at].exp() * logits[at]).sum())
    means = [torch.stack(terms).mean() for terms in (policy, value, entropy)]
    torch.testing.assert_close(found.total, means[0] + 0.5 * means[1] - 0.01 * means[2], rtol=1e-5, atol=1e-6)
    assert found.parts["policy"] == pytest.approx(float(means[0].detach()), abs=1e-5)
    assert found.parts["value"] == pytest.approx(float(means[1].detach()), abs=1e-5)


def test_what_stands_behind_a_completion_does_not_matter() -> None:
    made = model()
    torch.testing.assert_close(
        PPO()(made, batch(made, moved=0.3)).total, PPO()(made, batch(made, moved=0.3, wider=4)).total
    )


def test_a_mean_over_tokens_is_the_same_however_rows_are_split() -> None:
    made = model()
    whole = PPO()(made, batch(made, moved=0.3)).total * 6
    parts = [(slice(0, 1), 3), (slice(1, 2), 1), (slice(2, 3), 2)]
    torch.testing.assert_close(whole, sum(PPO()(made, batch(made, moved=0.3, rows=r)).total * n for r, n in parts))


def test_a_ratio_beyond_the_clip_has_no_gradient() -> None:
    made = model()
    rows = batch(made)
    rows.extra["log_probs"] -= 1.0  # all ratios are e
    rows.extra["advantages"].abs_()
    found = PPO(value_weight=0.0)(made, rows)
    assert found.parts["clipped"] == 1.0
    assert all(not bool(gradient.any()) for gradient in gradients(made, found).values())
    rows.extra["advantages"].neg_()  # a worse action that became likelier has to be unlearned
    found = PPO(value_weight=0.0)(made, rows)
    assert found.parts["clipped"] == 0.0
    assert any(bool(gradient.any()) for gradient in gradients(made, found).values())


def test_a_value_beyond_its_clip_has_no_gradient() -> None:
    made = model(own_critic=True)
    rows = batch(made)
    values = made.critic.scores(joined(rows.ids["prompt"], rows.ids["completion"]).tokens).detach()
    rows.extra["values"].fill_(float(values.max()) + 1.0)
    rows.extra["returns"].fill_(float(values.min()) - 9.0)
    rows.extra["advantages"].zero_()
    grads = gradients(made, PPO(value_weight=1.0)(made, rows))
    assert all(not bool(g.any()) for name, g in grads.items() if name.startswith("critic"))


def test_no_advantage_moves_nothing() -> None:
    made = model()
    rows = batch(made, moved=0.1)
    rows.extra["advantages"].zero_()
    assert all(not bool(g.any()) for g in gradients(made, PPO(value_weight=0.0)(made, rows)).values())


def test_what_is_missing_or_wrong_is_named() -> None:
    made = model()
    rows = batch(made)
    del rows.extra["values"]
    with pytest.raises(DataError, match="extra 'values'"):
        PPO()(made, rows)
    PPO(value_weight=0.0)(made, rows)
    rows.extra["log_probs"] = rows.extra["log_probs"][:, :2]
    with pytest.raises(DataError, match="extra 'log_probs'"):
        PPO(value_weight=0.0)(made, rows)
    for wrong in ({"clip": 0.0}, {"value_weight": -1.0}, {"temperature": 0.0}):
        with pytest.raises(ConfigError):
            PPO(**wrong)
