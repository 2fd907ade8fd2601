"""The loop with a language model in it: rewards rise, and kill -9 anywhere changes nothing of what was learned."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from headrace.data import EmbeddedLog
from headrace.errors import ConfigError, NumericError
from headrace.learn import ManifestCheckpoint
from headrace.loop import run
from headrace.publish import LogPublisher
from headrace.testing import assert_same_state, first_difference

SCRIPT = Path(__file__).parent / "language_loop.py"
SPEC = importlib.util.spec_from_file_location("language_loop", SCRIPT)
language_loop = importlib.util.module_from_spec(SPEC)
sys.modules["language_loop"] = language_loop
SPEC.loader.exec_module(language_loop)


def start(folder: Path, reads: int) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen([sys.executable, str(SCRIPT), str(folder), str(reads)], stderr=subprocess.PIPE)


def finish(folder: Path, reads: int) -> None:
    process = start(folder, reads)
    _, errors = process.communicate(timeout=170)
    assert process.returncode == 0, errors.decode()[-2000:]


def publisher(folder: Path) -> LogPublisher:
    return LogPublisher(EmbeddedLog(folder / "changes.db"), folder / "snapshots")


def newest(folder: Path) -> int:
    return publisher(folder).last().number


class Watching:
    """A learner that remembers what its losses said."""

    def __init__(self, learner) -> None:
        self.learner, self.parts = learner, []

    def learn(self, batch):
        loss = self.learner.learn(batch)
        self.parts.append(loss.parts)
        return loss

    def __getattr__(self, name):
        return getattr(self.learner, name)


def test_rewards_rise_and_the_sampler_says_what_the_trainer_says(tmp_path) -> None:
    torch.set_num_threads(1)
    made = language_loop.loop(tmp_path, 40)
    made.learner = watching = Watching(made.learner)
    report = run(made)
    rewards = [parts["reward"] for parts in watching.parts]
    assert len(rewards) == 40
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.3
    assert watching.parts[0]["kl"] == pytest.approx(0.0, abs=1e-4)  # the sampler's log-probs are the reference's own
    assert report.figures["version"].value == 40
    served = made.predictor.model.state_dict()
    policy = watching.learner.model.policy.state_dict()
    assert first_difference(dict(served), dict(policy)) is None


def test_a_dead_rewarder_stops_the_loop_and_nothing_is_lost(tmp_path) -> None:
    torch.set_num_threads(1)
    calls = [0]

    def dying(requests, predictions):
        calls[0] += 1
        rewards = language_loop.share_of_sevens(requests, predictions)
        return [float("nan")] * len(rewards) if calls[0] == 5 else rewards

    made = language_loop.loop(tmp_path / "one", 8)
    made.feedback.rewarder = dying
    with pytest.raises(NumericError, match="Reward of 'k128'"):
        run(made)
    again = language_loop.loop(tmp_path / "one", 8)
    run(again)
    straight = language_loop.loop(tmp_path / "other", 8)
    run(straight)
    assert_same_state(again.learner.state(), straight.learner.state())


def killed_and_straight(tmp_path: Path, reads: int, kills: int, seed: int) -> None:
    draw = random.Random(seed)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    finish(straight, reads)
    for _ in range(kills):
        process = start(killed, reads)
        goal = (newest(killed) if (killed / "changes.db").exists() else -1) + draw.randint(1, max(reads // 3, 1))
        until = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < until:
            if (killed / "changes.db").exists() and newest(killed) >= goal:
                time.sleep(draw.random() * 0.05)
                break
            time.sleep(0.02)
        process.kill()
        process.communicate()
    finish(killed, reads)
    ends = [ManifestCheckpoint(folder / "end").load() for folder in (straight, killed)]
    assert_same_state(*ends)
    ends = [[change.checksum() for change in publisher(folder).read_since(reads - 3)] for folder in (straight, killed)]
    assert len(ends[0]) == 3
    assert ends[0] == ends[1]


def test_a_killed_run_learns_what_a_straight_one_does(tmp_path) -> None:
    killed_and_straight(tmp_path, reads=9, kills=2, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_kills_at_many_places_change_nothing(tmp_path, seed) -> None:
    killed_and_straight(tmp_path, reads=30, kills=5, seed=seed)


def test_of_a_model_of_transformers_what_learns_is_all_that_is_published(tmp_path) -> None:
    pytest.importorskip("transformers", reason="the extra 'language' is not installed")
    import copy

    from transformers import AutoModelForCausalLM, GPT2Config

    from headrace.learn import PolicyConfig, PolicyLearner
    from headrace.nn import ActorCritic, load_causal, with_lora
    from headrace.objectives import PPO
    from headrace.publish import Replica
    from headrace.serve import GenerateConfig, LanguagePredictor

    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {"vocab_size": 16, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 32}
    AutoModelForCausalLM.from_config(GPT2Config(**sizes, bos_token_id=1, eos_token_id=1)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="names of linear layers"):
        with_lora(load_causal(tmp_path))  # its layers are no nn.Linear: peft adapts them, or the whole model learns
    policy = load_causal(tmp_path)
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_("mlp" in name)
    model, served = ActorCritic(policy), load_causal(tmp_path)
    adam = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    learner = PolicyLearner(model, copy.deepcopy(policy), adam, PPO(), PolicyConfig(epochs=2, minibatch_rows=16))
    made = language_loop.loop(tmp_path / "run", 12)
    made.learner = watching = Watching(learner)
    made.predictor = LanguagePredictor(served, Replica({}, served), GenerateConfig(max_tokens=8, ends=(1,)))
    run(made)
    assert watching.parts[0]["kl"] == pytest.approx(0.0, abs=1e-4)
    assert watching.parts[-1]["reward"] > watching.parts[0]["reward"]
    (last,) = made.publisher.read_since(11)
    assert last.dense
    assert all("mlp" in name for name in last.dense)
    assert first_difference(dict(served.state_dict()), dict(policy.state_dict())) is None
