"""ICE-GRT's claims: the toy size in full, what was recorded, and the recipe's pieces."""

from __future__ import annotations

import json
import os
from importlib.resources import files

import pytest

from headrace.errors import ConfigError
from headrace.evaluate import ClaimRecord
from headrace.online.rewarded_trial import Trial
from headrace.papers.ice_grt.claim import ARMS, FREE, MAIN, gained, kl_control, midway, render, run
from headrace.papers.ice_grt.recipe import REWARD_SIZES, small, toy

TOY = {"gold_gain", "reward_gain", "kl_at_gold", "kl_at_gold/no_price", "kl_control/gold_at_matched_kl",
       "kl_control/gold_kept_at_the_end", "kl_control/gold_lost_with", "kl_control/gold_lost_without"}  # fmt: skip
SMALL = TOY | {
    "advantage_normalisation/rewards_x_1", "advantage_normalisation/rewards_x_10", "reward_size/triple_over_third",
    "appropriate_data/domain_prompts", "appropriate_data/general_prompts",
    *(f"reward_accuracy/{size}" for size in REWARD_SIZES),
}  # fmt: skip


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> dict:
    pytest.importorskip("tokenizers", reason="the extra 'language' is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_CACHE", str(tmp_path_factory.mktemp("cache")))  # nothing fitted by other code
        return run("toy")


def test_gold_and_reward_both_rise(result) -> None:
    assert result["figures"]["gold_gain"]["value"] > 0.05
    assert result["figures"]["reward_gain"]["value"] > 0.2


def test_without_a_price_gold_is_lost_and_with_one_it_is_kept(result) -> None:
    figures = result["figures"]
    assert figures["kl_control/gold_kept_at_the_end"]["value"] > 0.05
    assert figures["kl_control/gold_lost_with"]["value"] < figures["kl_control/gold_lost_without"]["value"]


def test_all_goals_of_the_toy_hold(result) -> None:
    assert [name for name, each in result["figures"].items() if each["holds"] is False] == []


def test_the_result_is_the_agreed_object(result) -> None:
    assert {"figures", "commit", "machine", "settings", "tables", "plots"} == set(result)
    assert set(result["figures"]) == TOY
    assert json.loads(json.dumps(result, allow_nan=False)) == json.loads(json.dumps(result))
    assert render(result).splitlines()[0].startswith("What PPO makes")


def test_unknown_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"one of .*'toy'"):
        run("tiny")


def test_every_arm_differs_from_the_whole_in_what_it_says() -> None:
    configs = {arm: small(**settings) for arm, settings in ARMS.items()}
    assert len({str(config) for config in configs.values()}) == len(ARMS)
    assert configs[FREE].policy.kl.coefficient == 0.0
    assert configs[MAIN].policy.kl.target == 2.0
    assert configs["raw, rewards x 10"].policy.kl.coefficient == pytest.approx(2.0)  # the price grows with the rewards
    assert configs["prompts of books only"].in_domain == 0.0


def trial(golds, nats) -> Trial:
    return Trial((), [{"kl": kl, "gold": gold, "choices": gold, "rollouts": float(at)}
                      for at, (kl, gold) in enumerate(zip(nats, golds, strict=True))])  # fmt: skip


def test_distance_is_read_midway_to_the_lower_peak_of_each_seed() -> None:
    main = [trial([0.2, 0.4, 0.6], [0, 1, 2]), trial([0.5, 0.4, 0.3], [0, 1, 2]), trial([0.1, 0.3, 0.3], [0, 1, 2])]
    free = [trial([0.2, 0.4, 0.1], [0, 4, 8]), trial([0.5, 0.9, 0.3], [0, 4, 8]), trial([0.1, 0.5, 0.1], [0, 4, 8])]
    assert midway(main, free) == pytest.approx({0: 0.3, 2: 0.2})
    record = ClaimRecord()
    kl_control(record, {MAIN: main, FREE: free})
    found = record.figures
    assert found["kl_at_gold"]["value"] == pytest.approx(0.5)  # not at seed 0's level in seed 2, nor at seed 1 at all
    assert found["kl_at_gold/no_price"]["value"] == pytest.approx((2.0 + 1.0) / 2)
    assert "2 of 3 seeds" in found["kl_at_gold"]["unit"]
    record = ClaimRecord()
    kl_control(record, {MAIN: main[1:2], FREE: free[1:2]})
    assert "kl_at_gold" not in record.figures  # and the rest is there


def test_what_was_gained_is_over_each_seed_s_own_start() -> None:
    found = gained([trial([0.2, 0.5], [0, 1]), trial([0.6, 0.7], [0, 1])], "choices")
    assert found.value == pytest.approx(0.2)


def test_what_a_price_does_not_read_is_refused() -> None:
    for name, settings in (("price", {"kl": "none", "price": 0.2}), ("target", {"kl": "none", "target": 2.0}),
                           ("target", {"kl": "fixed", "target": 2.0})):  # fmt: skip
        with pytest.raises(ConfigError, match=name):
            small(**settings)
    with pytest.raises(ConfigError, match="price"):
        toy(kl="none", price=0.1)
    assert small(kl="fixed", price=0.3).policy.kl.coefficient == 0.3


def test_what_a_recipe_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match="reward_size"):
        small(reward_size="huge")
    with pytest.raises(ConfigError, match="kl"):
        toy(kl="some")


def test_what_was_recorded_has_all_figures_and_reached_its_goals() -> None:
    record = json.loads((files("headrace.papers.ice_grt") / "expected.json").read_text(encoding="utf-8"))
    assert set(record["figures"]) >= {"toy": TOY, "small": SMALL}[record["settings"]["size"]]
    assert [name for name, each in record["figures"].items() if each["holds"] is False] == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not os.environ.get("HEADRACE_DATA"), reason="missing data files: HEADRACE_DATA is not set")
def test_the_small_size_reaches_its_goals() -> None:
    found = run("small")
    assert set(found["figures"]) >= SMALL
    assert [name for name, each in found["figures"].items() if each["holds"] is False] == []
