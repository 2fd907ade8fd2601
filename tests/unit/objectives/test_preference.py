"""Preferences: losses by the formula, where `every` looks, and the degenerate cases of DPO."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from headrace.errors import ConfigError, DataError
from headrace.nn import CausalSettings, CausalTransformer, ScoreModel
from headrace.objectives import DPO, BradleyTerry, with_reference
from headrace.objectives.tokens import completion_log_probs, joined, row_sums
from headrace.types import Batch, Jagged

SIZES = CausalSettings(vocabulary=13, width=16, layers=1, heads=2, max_length=16)
PROMPTS, CHOSEN, REJECTED = [[1, 2], [3]], [[4, 5, 6], [7]], [[4, 8], [9, 10, 11]]


def jagged(rows: list[list[int]]) -> Jagged:
    offsets = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    return Jagged(torch.tensor([value for row in rows for value in row], dtype=torch.int64), offsets)


def pairs(prompts=PROMPTS, chosen=CHOSEN, rejected=REJECTED, **changed) -> Batch:
    rows, none = len(prompts), torch.zeros(len(prompts), dtype=torch.int64)
    columns = {
        "ids": {"prompt": jagged(prompts), "chosen": jagged(chosen), "rejected": jagged(rejected)},
        "dense": torch.zeros(rows, 0), "labels": torch.ones(rows), "weights": torch.ones(rows), "event_times": none,
        "accepted_times": none, "example_ids": none, "predictions": torch.full((rows,), torch.nan), "versions": none,
        "sample_rates": torch.ones(rows),
    }  # fmt: skip
    return Batch(**{**columns, **changed})


class Scores(nn.Module):
    """Scores that depend on the token alone."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.linspace(-1.0, 2.0, 13) ** 2)

    def scores(self, tokens: Jagged) -> Tensor:
        return self.table[tokens.values]


def test_last_compares_the_last_tokens() -> None:
    model, value = Scores(), Scores().table.detach()
    found = BradleyTerry()(model, pairs())
    differences = torch.stack((value[6] - value[8], value[7] - value[11]))
    torch.testing.assert_close(found.total, -logsigmoid(differences).mean())
    torch.testing.assert_close(found.logits, differences)
    assert found.parts["accuracy"] == float((differences > 0).float().mean())


def test_every_compares_from_the_first_difference_to_the_end_of_the_longer() -> None:
    model, value = Scores(), Scores().table.detach()
    found = BradleyTerry(at="every")(model, pairs())
    first = torch.stack((value[5] - value[8], value[6] - value[8]))  # the shorter one's last score stands
    second = torch.stack((value[7] - value[9], value[7] - value[10], value[7] - value[11]))
    expected = -(logsigmoid(first).mean() + logsigmoid(second).mean()) / 2
    torch.testing.assert_close(found.total, expected)
    same = BradleyTerry(at="every")(model, pairs(prompts=[[1]], chosen=[[4, 5]], rejected=[[4, 5]]))
    assert float(same.total.detach()) == 0.0


def test_the_two_forms_are_one_for_completions_of_one_token() -> None:
    one = pairs(chosen=[[4], [7]], rejected=[[8], [9]])
    found = [BradleyTerry(at=at)(Scores(), one).total for at in ("last", "every")]
    assert torch.equal(*found)


def test_a_first_token_that_is_missing_counts_as_different() -> None:
    found = BradleyTerry(at="every")(Scores(), pairs(prompts=[[1]], chosen=[[4]], rejected=[[4, 6]]))
    value = Scores().table.detach()
    torch.testing.assert_close(found.total, -logsigmoid(value[4] - value[6]))


def test_labels_are_probabilities_and_swapping_a_pair_turns_them() -> None:
    model = ScoreModel(CausalTransformer(SIZES), seed=3)
    for at in ("last", "every"):
        loss = BradleyTerry(at=at)
        straight = loss(model, pairs(labels=torch.tensor([0.8, 0.3]))).total
        turned = loss(model, pairs(chosen=REJECTED, rejected=CHOSEN, labels=torch.tensor([0.2, 0.7]))).total
        torch.testing.assert_close(straight, turned)


def test_only_differences_matter_unless_centred() -> None:
    model = ScoreModel(CausalTransformer(SIZES), seed=3)
    before = [BradleyTerry(centred=c)(model, pairs()).total.detach() for c in (0.0, 0.1)]
    with torch.no_grad():
        model.head.bias.add_(3.0)
    after = [BradleyTerry(centred=c)(model, pairs()).total.detach() for c in (0.0, 0.1)]
    torch.testing.assert_close(before[0], after[0])
    assert float(after[1]) > float(before[1]) + 1.0


def test_a_reward_model_learns_what_is_preferred() -> None:
    model = ScoreModel(CausalTransformer(SIZES), seed=3)
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(40):
        adam.zero_grad()
        loss = BradleyTerry(at="every", centred=0.01)(model, pairs())
        loss.total.backward()
        adam.step()
    assert loss.parts["accuracy"] == 1.0
    assert float(loss.total.detach()) < 0.2


def test_scores_are_settled_on_samples() -> None:
    model = ScoreModel(CausalTransformer(SIZES), seed=3)
    samples = jagged([[1, 2, 3], [4, 5], [6, 7, 8, 9], [2]])
    raw = model.last_scores(samples).detach()
    model.settle(samples)
    settled = model.last_scores(samples).detach()
    assert float(settled.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(settled.std()) == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close((settled[0] - settled[1]) * raw.std(), raw[0] - raw[1])
    with pytest.raises(ConfigError, match="different scores"):
        model.settle(samples.slice(0, 1))


def test_a_policy_that_is_the_reference_has_no_margin() -> None:
    policy = CausalTransformer(SIZES)
    found = DPO()(policy, with_reference(policy, pairs()))
    assert float(found.total.detach()) == pytest.approx(math.log(2), abs=1e-6)
    assert found.parts["margin"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("per_token", [False, True])
def test_dpo_is_its_formula(per_token) -> None:
    policy, reference = CausalTransformer(SIZES, 1), CausalTransformer(SIZES, 2)
    with torch.no_grad():
        for model in (policy, reference):
            for parameter in model.parameters():
                parameter.mul_(3.0)
    found = DPO(beta=0.5, anchor=0.2, per_token=per_token)(policy, with_reference(reference, pairs()))
    sums = []
    for model in (policy, reference):
        for answers in (CHOSEN, REJECTED):
            whole = joined(jagged(PROMPTS), jagged(answers))
            sums.append(row_sums(completion_log_probs(model, whole), whole).detach())
    counts = [torch.tensor([3.0, 1.0]), torch.tensor([2.0, 3.0])] if per_token else [torch.ones(2)] * 2
    margins = 0.5 * ((sums[0] - sums[2]) / counts[0] - (sums[1] - sums[3]) / counts[1])
    anchor = sums[0] / torch.tensor([3.0, 1.0])
    torch.testing.assert_close(found.total, (-logsigmoid(margins) - 0.2 * anchor).mean())


def test_bad_pairs_are_refused() -> None:
    model = Scores()
    with pytest.raises(DataError, match="completion without tokens"):
        BradleyTerry()(model, pairs(chosen=[[4], []]))
    with pytest.raises(DataError, match="probabilities"):
        BradleyTerry()(model, pairs(labels=torch.tensor([1.0, torch.nan])))
    with pytest.raises(DataError, match="reference_chosen"):
        DPO()(CausalTransformer(SIZES), pairs())
    with pytest.raises(DataError, match="no pairs"):
        BradleyTerry()(model, pairs([], [], []))
    for wrong in ({"at": "first"}, {"centred": -1.0}):
        with pytest.raises(ConfigError):
            BradleyTerry(**wrong)
    with pytest.raises(ConfigError):
        DPO(beta=0.0)


def test_weights_weigh_pairs() -> None:
    model = Scores()
    whole = BradleyTerry()(model, replace(pairs(), weights=torch.tensor([0.0, 2.0]))).total
    torch.testing.assert_close(whole, BradleyTerry()(model, pairs([[3]], [[7]], [[9, 10, 11]])).total)
