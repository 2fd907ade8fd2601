"""A language model from rewards through the loop: watched, judged, stopped and continued."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from headrace.cli.run_rewarded import curve, run_rewarded
from headrace.data.passages import rows_of_tokens
from headrace.errors import ConfigError, CorruptSnapshot
from headrace.learn import CriticCredit, GroupCredit, KLControl, LanguageFit, PolicyConfig
from headrace.online import RewardedConfig, RewardedRun, Writing, judged_policy, tried
from headrace.online.rewarded import _NewestOnly, settled
from headrace.online.rewarded_watch import Watch, watched
from headrace.online.writing import DOMAIN, GENERAL, Corpus
from headrace.online.writing_planted import planted, planted_corpus
from headrace.types import Change, Version

pytest.importorskip("tokenizers", reason="the extra 'language' is not installed")

WORLD = replace(planted(), base_passages=240, pairs=60, shown=40, asked=80, general=16, base=LanguageFit(lr=1e-2),
                reward=LanguageFit(lr=4e-3))  # fmt: skip
CONFIG = RewardedConfig(name="test", writing=WORLD, rows=16, iterations=3, in_domain=0.75,
                        policy=PolicyConfig(epochs=1, minibatch_rows=8, kl=KLControl(coefficient=0.1)))  # fmt: skip

ALONE = PolicyConfig(credit=GroupCredit())


@pytest.fixture(scope="module")
def writing(tmp_path_factory) -> Writing:
    torch.set_num_threads(1)
    return Writing(WORLD, tmp_path_factory.mktemp("language"))


def without_times(points) -> list[dict]:
    return [{name: value for name, value in point.items() if not name.endswith("cpu_s")} for point in points]


def test_every_rollout_is_watched(writing) -> None:
    seen = []
    run = RewardedRun(CONFIG, writing=writing, on_point=lambda point, samples: seen.append((point, list(samples))))
    report = run.run()
    assert len(run.points) == len(seen) == 3
    assert run.points[0]["kl"] == pytest.approx(0.0, abs=1e-4)
    for name in ("reward", "gold", "gold_general", "kl", "generate_cpu_s", "learn_cpu_s", "reward_cpu_s"):
        assert name in run.points[-1]
    assert all(samples and all(isinstance(text, str) for text in samples) for _, samples in seen)
    assert report.figures["version"].value == 3
    assert report.figures["gold"].value == pytest.approx(sum(point["gold"] for point in run.points) / 3)


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(writing, tmp_path) -> None:
    straight = RewardedRun(CONFIG, tmp_path / "straight", writing=writing)
    straight.run()
    done = []
    first = RewardedRun(CONFIG, tmp_path / "broken", writing=writing, on_point=lambda point, _: done.append(point),
                        stop=lambda: len(done) >= 1)  # fmt: skip
    first.run()
    assert len(first.points) == 1
    second = RewardedRun(CONFIG, tmp_path / "broken", writing=writing)
    second.run()
    assert without_times(second.points) == without_times(straight.points)
    for one, other in zip(second.policy.parameters(), straight.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_judge_changes_nothing_of_what_is_learned(writing) -> None:
    """A judge that says something else leaves every weight as it was."""
    one = RewardedRun(CONFIG, writing=writing)
    one.run()
    honest = writing.judge.dense
    try:
        writing.judge.dense = -honest
        other = RewardedRun(CONFIG, writing=writing)
        other.run()
    finally:
        writing.judge.dense = honest
    assert [point["gold"] for point in one.points] != [point["gold"] for point in other.points]
    for a, b in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_prompts_have_the_asked_share_of_each_domain(writing) -> None:
    run = RewardedRun(CONFIG, writing=writing)
    domains = run._requests().column("domain").to_pylist()
    for turn in range(CONFIG.iterations):
        part = domains[turn * 16 : (turn + 1) * 16]
        assert (part.count(DOMAIN), part.count(GENERAL)) == (12, 4)


def test_rewards_are_settled_on_the_reference(writing) -> None:
    base = writing.base()
    model = settled(writing, None, base, rows=40)
    assert float(model.get_buffer("scale")) > 0
    held = judged_policy(base, base, writing, writing.held_out(DOMAIN, 40), reward=model)
    assert abs(held["reward"]) < 0.5
    assert held["kl"] == 0.0


def test_a_trial_checks_before_on_the_way_and_after(writing) -> None:
    found = tried(CONFIG, writing, ability=True, every=1, origin=writing.base())
    assert [check["rollouts"] for check in found.checks] == [0.0, 1.0, 2.0, 3.0]
    assert found.start["kl"] == 0.0
    assert found.end["kl_origin"] != 0.0
    assert 0.0 <= found.end["choices"] <= 1.0
    assert len(found.frontier.golds) == 4


def test_a_critic_may_begin_as_the_reward_model(writing) -> None:
    run = RewardedRun(replace(CONFIG, critic="reward", iterations=1), writing=writing)
    run.run()
    assert run.points[0]["explained"] == pytest.approx(0.0, abs=0.2)


def marked() -> Corpus:
    """The planted texts, with a letter of their own in those that are held out."""
    found = planted_corpus()
    held = found.reviews["held"]
    return replace(found, reviews={**found.reviews, "held": replace(held, texts=("z" * 200,) * len(held))})


def test_held_out_prompts_are_not_learned_from(writing, tmp_path) -> None:
    parted = Writing(replace(WORLD, corpus=marked), tmp_path)
    begun = parted.codec.decode(rows_of_tokens(parted.asked(DOMAIN)[:, 1:]))
    assert len(begun) == WORLD.asked
    assert not [text for text in begun if "z" in text]
    for liked in (None, True, False):
        held = parted.held_out(DOMAIN, 10, liked=liked)
        assert held.shape == (10, WORLD.prompt)
        assert set("".join(parted.codec.decode(rows_of_tokens(held[:, 1:])))) == {"z"}
    # And what a run asks is of those prompts.
    run = RewardedRun(CONFIG, writing=writing)._requests()
    asked = {tuple(row) for domain in (DOMAIN, GENERAL) for row in writing.asked(domain).tolist()}
    assert {tuple(row) for row in run.column("prompt_ids").to_pylist()} <= asked


def test_what_was_fitted_to_other_texts_is_not_taken(tmp_path) -> None:
    one, other = Writing(WORLD, tmp_path), Writing(replace(WORLD, corpus=marked), tmp_path)
    assert one.corpus.digest() == planted_corpus().digest()
    assert one._place("base", 1) == Writing(WORLD, tmp_path)._place("base", 1)
    assert one._place("base", 1) != other._place("base", 1)
    changed = one.corpus.reviews["base"].ratings.copy()
    changed[0] += 1
    part = replace(one.corpus.reviews["base"], ratings=changed)
    assert replace(one.corpus, reviews={**one.corpus.reviews, "base": part}).digest() != one.corpus.digest()


def test_a_folder_holds_one_run(writing, tmp_path) -> None:
    first = RewardedRun(replace(CONFIG, iterations=1), tmp_path, writing=writing)
    first.run()
    record = (tmp_path / "run.json").read_bytes()
    with pytest.raises(ConfigError, match="take another folder"):
        RewardedRun(replace(CONFIG, iterations=1, lr=2e-3), tmp_path, writing=writing).run()
    assert (tmp_path / "run.json").read_bytes() == record
    again = RewardedRun(replace(CONFIG, iterations=1), tmp_path, writing=writing)
    again.run()
    assert without_times(again.points) == without_times(first.points)
    learner = watched(again._learner(), Watch(), "other settings")
    state = watched(again._learner(), Watch(), "these settings").state()
    for wrong in (state, {}):
        with pytest.raises(CorruptSnapshot, match="other settings"):
            learner.restore(wrong)


def test_parts_of_another_configuration_are_refused(writing) -> None:
    with pytest.raises(ConfigError, match="another configuration"):
        RewardedRun(replace(CONFIG, writing=replace(WORLD, seed=1)), writing=writing)


@pytest.mark.parametrize("settings", [{"name": ""}, {"in_domain": 1.5}, {"rows": 0}, {"iterations": 0}, {"lr": 0.0},
                                      {"start": "end"}, {"critic": "none"}, {"policy": ALONE},
                                      {"policy": replace(ALONE, credit=GroupCredit(baseline="none")),
                                       "critic": "reward"}])  # fmt: skip
def test_bad_settings_are_refused(settings) -> None:
    with pytest.raises(ConfigError):
        RewardedConfig(**{"name": "test", **settings})


def test_versions_in_memory_have_no_gaps() -> None:
    publisher = _NewestOnly()
    first = Change(version=Version(0), full=True)
    assert publisher.publish(first) is first
    assert publisher.publish(Change(version=Version(0), full=True)) is first
    with pytest.raises(ConfigError, match="version 2"):
        publisher.publish(Change(version=Version(2), full=True))


def test_the_command_line_shows_curves_and_writes_a_report(writing, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    report = run_rewarded(replace(CONFIG, iterations=2), tmp_path / "run", lambda: False, quiet=False)
    assert "gold (hidden judge)" in capsys.readouterr().err
    assert (tmp_path / "run" / "report.html").is_file()
    assert "Completions on the way" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert report.figures["reward"].value == report.figures["reward"].value
    assert curve([1.0, 1.0]) == "▁▁"


def test_passages_of_the_world_are_whole(writing) -> None:
    rows = writing.passages(DOMAIN, "held", 8, 10, liked=True)
    assert len(rows_of_tokens(rows)) == len(rows)
    assert bool((rows[:, 0] == writing.codec.begin).all())


def test_raw_advantages_are_an_option(writing) -> None:
    policy = PolicyConfig(epochs=1, credit=CriticCredit(advantages="raw"))
    RewardedRun(replace(CONFIG, policy=policy, iterations=1), writing=writing).run()
