"""Mistral-Plus's claims: the toy size in full, what was recorded, and the recipe's pieces."""

from __future__ import annotations

import json
import os
from importlib.resources import files

import pytest

from headrace.errors import ConfigError
from headrace.papers.mistral_plus.claim import at_gold, render, run
from headrace.papers.mistral_plus.recipe import small

WAYS = ("sft", "sft_rlhf", "direct")
FIGURES = {
    "gold_gain", "reward_gain", "hostile_change", "kl_at_gold", *(f"forgetting_{way}" for way in WAYS),
    *(f"forgetting_{way}/at_equal_gold" for way in WAYS), *(f"tasks_{way}" for way in WAYS),
    *(f"{name}/{way}" for name in ("gold_gain", "hostile_change", "kl_at_gold") for way in WAYS[:2]),
    *(f"forgetting_saved/over_{way}" for way in WAYS[:2]),
}  # fmt: skip


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> dict:
    pytest.importorskip("tokenizers", reason="the extra 'language' is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_CACHE", str(tmp_path_factory.mktemp("cache")))  # nothing fitted by other code
        return run("toy")


def test_rewards_on_the_base_raise_gold_and_reward(result) -> None:
    assert result["figures"]["gold_gain"]["value"] > 0.03
    assert result["figures"]["reward_gain"]["value"] > 0.2


def test_all_goals_of_the_toy_hold(result) -> None:
    assert [name for name, each in result["figures"].items() if each["holds"] is False] == []


def test_every_way_is_measured_in_the_same_way(result) -> None:
    assert set(result["figures"]) == FIGURES
    assert [row[0] for row in result["tables"][0]["rows"]] == [
        "base", "fine-tuning", "fine-tuning, then rewards", "rewards on the base"]  # fmt: skip


def test_the_result_is_the_agreed_object(result) -> None:
    assert {"figures", "commit", "machine", "settings", "tables", "plots"} == set(result)
    assert json.loads(json.dumps(result, allow_nan=False)) == json.loads(json.dumps(result))
    assert render(result).splitlines()[0].startswith("Three ways")


def test_unknown_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"one of .*'toy'"):
        run("tiny")


def test_no_fine_tuning_is_the_default() -> None:
    assert small().start == "base"
    assert small(start="tuned").start == "tuned"


def test_a_number_is_read_where_gold_was_first_reached() -> None:
    checks = [{"gold": 0.2, "kl": 0.0}, {"gold": 0.4, "kl": 3.0}, {"gold": 0.3, "kl": 9.0}]
    assert at_gold(checks, 0.3, "kl") == pytest.approx(1.5)
    assert at_gold(checks, 0.1, "kl") == 0.0
    with pytest.raises(ValueError, match="no check"):
        at_gold(checks, 0.5, "kl")


def test_what_was_recorded_has_all_figures_and_reached_its_goals() -> None:
    record = json.loads((files("headrace.papers.mistral_plus") / "expected.json").read_text(encoding="utf-8"))
    assert set(record["figures"]) >= FIGURES
    assert [name for name, each in record["figures"].items() if each["holds"] is False] == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not os.environ.get("HEADRACE_DATA"), reason="missing data files: HEADRACE_DATA is not set")
def test_the_small_size_reaches_its_goals() -> None:
    found = run("small")
    assert set(found["figures"]) >= FIGURES | {"harmless_reward_accuracy"}
    assert [name for name, each in found["figures"].items() if each["holds"] is False] == []
