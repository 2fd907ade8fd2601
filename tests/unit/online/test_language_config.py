"""Settings of a language model's run, what its parts are made of, and the command line over them."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from headrace.cli.main import dispatch
from headrace.data import EmbeddedLog, TextCodec, jagged, token_column
from headrace.errors import ConfigError, StaleError
from headrace.learn import (
    BoundedStaleness,
    GroupCredit,
    PolicyConfig,
    PolicyLearner,
    PreferenceConfig,
    PreferenceLearner,
)
from headrace.nn import (
    CausalSettings,
    CausalTransformer,
    LoRASettings,
    load_causal,
    save_causal,
    save_lora,
    with_lora,
)
from headrace.nn.lora import adapters
from headrace.objectives import PPO, Reinforce
from headrace.online import LanguageConfig, Rewards, Rollouts, open_language_learner, open_language_predictor
from headrace.online.language_build import drawn_batch, open_collator
from headrace.online.language_roles import move_to
from headrace.publish import LogPublisher
from headrace.serve import GenerateConfig
from headrace.serve.language_settings import LanguageSettings
from headrace.testing import first_difference
from headrace.types import Events, Version

NONE = Rollouts(prompts=lambda: None, rewarder=lambda: None)  # type: ignore[arg-type,return-value]
NO_CRITIC = {"objective": PPO(value_weight=0.0), "policy": PolicyConfig(credit=GroupCredit(baseline="none"))}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    codec = TextCodec.trained(["a cat and a dog"] * 9, 280)
    save_causal(CausalTransformer(CausalSettings(vocabulary=codec.vocabulary, width=8, layers=1, heads=1)), folder)
    codec.write(folder)
    return folder


@pytest.fixture
def recipes(tmp_path, base, monkeypatch) -> str:
    (tmp_path / "tiny_recipes.py").write_text(
        textwrap.dedent(f"""
        from pathlib import Path
        from headrace.data import jagged, token_column
        from headrace.learn import GroupCredit, PolicyConfig
        from headrace.objectives import PPO
        from headrace.online import LanguageConfig, Rewards, Rollouts
        from headrace.serve import GenerateConfig
        from headrace.types import Events

        BASE = Path({str(base)!r})

        def prompts():
            return Events.from_columns({{
                "key": ["a", "b", "c", "d"], "kind": ["impression"] * 4, "event_time": [0, 1, 2, 3],
                "item": ["0"] * 4, "prompt_ids": token_column(jagged([[5, 6]] * 4))}})

        def voted(*, lr: float = 1e-3) -> LanguageConfig:
            return LanguageConfig(name="voted", base=BASE, lr=lr)

        def rewarded(*, behind: int = 0) -> LanguageConfig:
            rollouts = Rollouts(prompts=prompts, rewarder=lambda: lambda asked, made: [1.0, 0.5][: len(made)],
                                config=GenerateConfig(max_tokens=3), behind=behind)
            policy = PolicyConfig(credit=GroupCredit(baseline="none"), epochs=1)
            return LanguageConfig(name="rewarded", base=BASE, batch_rows=2, learn=Rewards(
                objective=PPO(value_weight=0.0), policy=policy, rollouts=rollouts))
    """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("tiny_recipes", None)
    return "tiny_recipes"


def test_what_cannot_work_is_refused(base) -> None:
    for wrong in ({"name": ""}, {"base": base / "absent"}, {"lr": 0.0}, {"batch_rows": 0}, {"behind": -1},
                  {"window_s": float("inf")}, {"snapshot_every": 0}):  # fmt: skip
        with pytest.raises(ConfigError):
            LanguageConfig(**{"name": "m", "base": base, **wrong})
    with pytest.raises(ConfigError, match="behind"):
        replace(NONE, behind=-1)
    with pytest.raises(ConfigError, match="temperature above 0"):
        replace(NONE, config=GenerateConfig(top_p=0.5))
    with pytest.raises(ConfigError, match="as completions are drawn"):
        Rewards(rollouts=replace(NONE, config=GenerateConfig(temperature=0.5)))
    for late in ({"rollouts": replace(NONE, behind=3)}, {}):
        with pytest.raises(ConfigError, match=r"corrected=2\.0"):
            Rewards(objective=Reinforce(), policy=NO_CRITIC["policy"], **late)
    Rewards(objective=Reinforce(), policy=NO_CRITIC["policy"], rollouts=NONE)
    people = Rewards(objective=Reinforce(corrected=2.0), policy=NO_CRITIC["policy"])
    for served, said in ((LanguageSettings(temperature=0.5), "as the objective's"), (LanguageSettings(top_p=0.9), "1")):
        with pytest.raises(ConfigError, match=said):
            LanguageConfig(name="m", base=base, learn=people, serving=served)
    for learn in (PreferenceConfig(seed=3), replace(people, policy=replace(people.policy, seed=3))):
        with pytest.raises(ConfigError, match=r"LanguageConfig\.seed"):
            LanguageConfig(name="m", base=base, learn=learn)
        assert LanguageConfig(name="m", base=base, learn=learn, seed=3).seed == 3
    with pytest.raises(ConfigError, match="one completion at a time"):
        Rewards(objective=PPO(value_weight=0.0), policy=PolicyConfig(credit=GroupCredit()))
    behind = Rewards(**NO_CRITIC, rollouts=replace(NONE, behind=3))
    with pytest.raises(ConfigError, match="at least 3"):
        LanguageConfig(name="m", base=base, learn=behind, behind=2)
    with pytest.raises(ConfigError, match="more than 3"):
        LanguageConfig(name="m", base=base, learn=behind, snapshot_every=3)


def test_the_parts_are_what_the_settings_say(base) -> None:
    votes = LanguageConfig(name="m", base=base)
    assert votes.join.positive == ("prefer",)
    assert votes.most_behind is None
    assert isinstance(open_language_learner(votes), PreferenceLearner)
    bounded = open_language_learner(replace(votes, behind=2))
    assert isinstance(bounded, BoundedStaleness)
    assert bounded.most == 2
    rewards = LanguageConfig(name="m", base=base, learn=Rewards(**NO_CRITIC, rollouts=replace(NONE, behind=1)))
    assert rewards.join.positive == ("reward",)
    learner = open_language_learner(rewards)
    assert isinstance(learner, BoundedStaleness)
    assert (learner.most, type(learner.inside)) == (1, PolicyLearner)
    adapted = open_language_learner(replace(votes, lora=LoRASettings(rank=2)))
    first = adapted.changes(Version(-1))
    predictor = open_language_predictor(replace(votes, lora=LoRASettings(rank=2)))
    predictor.apply(first)
    assert predictor.version.number == 0
    assert open_collator(votes).batch_rows == votes.batch_rows
    assert (votes.topic, rewards.topic) == ("events", "asked")


def test_a_run_may_begin_with_adapters_of_others(base, tmp_path) -> None:
    tuned = with_lora(load_causal(base), LoRASettings(rank=2))
    with torch.no_grad():
        for _, adapter in adapters(tuned):
            for up in adapter.up:
                up.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(1))
    config = LanguageConfig(name="m", base=base, adapter=save_lora(tuned, tmp_path / "adapter"))
    learner = open_language_learner(config)
    assert first_difference(dict(learner.model.state_dict()), dict(tuned.state_dict())) is None
    assert first_difference(dict(learner.reference.state_dict()), dict(tuned.state_dict())) is None
    first = learner.changes(Version(-1))
    predictor = open_language_predictor(config)
    predictor.apply(first)
    assert len(learner.changes(first.version).dense) < len(first.dense)  # the adapters alone
    with pytest.raises(ConfigError, match="a folder with adapters"):
        replace(config, adapter=tmp_path / "absent")
    with pytest.raises(ConfigError, match="beside adapters"):
        replace(config, lora=LoRASettings())


def test_what_was_drawn_in_another_way_is_of_no_known_version() -> None:
    rows = Events.from_columns({
        "key": ["a", "b", "c"], "kind": ["example"] * 3, "event_time": [0, 1, 2], "item": ["0"] * 3,
        "prompt_ids": token_column(jagged([[1]] * 3)), "completion_ids": token_column(jagged([[2]] * 3)),
        "version": [4, 5, 6], "label": pa.array([1.0, 0.0, 1.0], pa.float32()),
        "policy": ["temperature=1 top_p=1", "temperature=0.5 top_p=1", None],
    })  # fmt: skip
    assert drawn_batch(rows, 1.0).versions.tolist() == [4, -1, 6]
    assert drawn_batch(rows, 0.5).versions.tolist() == [-1, 5, 6]


def test_people_s_rewards_of_what_was_drawn_in_another_way_are_not_learned(base) -> None:
    config = LanguageConfig(name="m", base=base, batch_rows=4, learn=Rewards(**NO_CRITIC))
    learner = open_language_learner(config)
    learner.changes(Version(-1))
    rows = Events.from_columns({
        "key": ["a", "b", "c", "d"], "kind": ["example"] * 4, "event_time": [0, 1, 2, 3], "item": ["0"] * 4,
        "prompt_ids": token_column(jagged([[1]] * 4)), "completion_ids": token_column(jagged([[2], [3], [4], [5]])),
        "log_probs": pa.array([[-5.0]] * 4, pa.list_(pa.float32())), "version": [0] * 4,
        "label": pa.array([1.0, 0.0, 1.0, 2.0], pa.float32()),
        "policy": [f"temperature={how}" for how in ("1 top_p=1", "0 top_p=1", "0.5 top_p=1", "1 top_p=0.9")],
    })  # fmt: skip
    batch = open_collator(config).add(rows)
    loss = learner.learn(batch)
    assert (learner.inside.examples, learner.refused) == (1, 3)
    assert loss.parts["reward"] == 1.0


def test_a_replica_comes_to_exactly_the_version_that_is_wanted(base, tmp_path) -> None:
    config, torch_threads = LanguageConfig(name="m", base=base), torch.get_num_threads()
    learner = open_language_learner(config)
    publisher, version = LogPublisher(EmbeddedLog(tmp_path / "c.db"), tmp_path / "s", snapshot_every=2), Version(-1)
    for _ in range(6):
        version = publisher.publish(learner.changes(version)).version
    for start, goal in ((-1, 4), (-1, 5), (4, 5)):
        replica = open_language_predictor(config).replica
        if start >= 0:
            assert move_to(replica, publisher, start, lambda: False)
        assert move_to(replica, publisher, goal, lambda: False)
        assert replica.version.number == goal
    with pytest.raises(StaleError, match="begin a new run"):
        move_to(replica, publisher, 3, lambda: False)
    assert not move_to(replica, publisher, 9, lambda: True)
    assert torch.get_num_threads() == torch_threads


def test_the_command_line_runs_a_rewarded_model_and_says_what_it_cannot(recipes, capsys) -> None:
    threads = torch.get_num_threads()
    try:
        assert dispatch(["run", f"{recipes}:rewarded", "behind=1", "--folder", "run", "--json"]) == 0
    finally:
        torch.set_num_threads(threads)
    assert '"version"' in capsys.readouterr().out
    with pytest.raises(ConfigError, match="serve --learn"):
        dispatch(["run", f"{recipes}:voted", "--folder", "other"])
    with pytest.raises(ConfigError, match="Only a language model"):
        dispatch(["run", "headrace.online.demo:world", "requests=10", "--role", "generator", "--folder", "third"])
    with pytest.raises(ConfigError, match="--workers"):
        dispatch(["serve", f"{recipes}:voted", "--folder", "other", "--workers", "2"])
    with pytest.raises(ConfigError, match="--learn"):
        dispatch(["serve", "headrace.online.demo:world", "requests=10", "--learn", "--folder", "third"])
