"""PPO beside TRL's: the same rollout, weights and settings give the same log-probs, advantages and losses.

`expected/ppo_trl.safetensors` is written by `scripts/expected_ppo.py` with TRL's own trainer.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from headrace.learn import CriticCredit, KLControl, PolicyConfig
from headrace.learn.rollouts import credited
from headrace.nn import ActorCritic, CausalTransformer, ScoreModel, load_causal
from headrace.objectives import PPO
from headrace.objectives.tokens import beside, completion_log_probs, joined
from headrace.types import Batch, Jagged

FILE = Path(__file__).parent / "expected" / "ppo_trl.safetensors"
NEAR = {"rtol": 0.0, "atol": 1e-5}


@pytest.fixture(scope="module")
def recorded() -> tuple[dict[str, torch.Tensor], dict]:
    with safe_open(str(FILE), "pt") as file:
        notes = file.metadata()
    found = {name: json.loads(notes[name]) for name in ("settings", "config", "prompt")}
    return safetensors.torch.load_file(str(FILE)), found


def loaded(recorded, name: str, folder: Path) -> CausalTransformer:
    """Read one of the recorded models as a folder of `transformers`."""
    tensors, notes = recorded
    own = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
    own.setdefault("lm_head.weight", own["model.embed_tokens.weight"].clone())  # a critic has none, and none is used
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(notes["config"]))
    safetensors.torch.save_file(own, str(folder / "model.safetensors"))
    return load_causal(folder)


def actor(recorded, step: int, folder: Path) -> ActorCritic:
    critic = ScoreModel(loaded(recorded, f"critic{step}", folder / f"critic{step}"))
    with torch.no_grad():
        critic.head.weight.copy_(recorded[0][f"critic{step}/score.weight"])
    return ActorCritic(loaded(recorded, f"policy{step}", folder / f"policy{step}"), critic)


@pytest.fixture
def rollout(recorded) -> Batch:
    tensors, prompt = recorded[0], recorded[1]["prompt"]
    whole = tensors["query_responses"]
    rows, new = len(whole), whole.shape[1] - prompt
    none = torch.zeros(rows, dtype=torch.int64)
    pieces = {"prompt": whole[:, :prompt], "completion": whole[:, prompt:]}
    ids = {name: Jagged(part.reshape(-1), torch.arange(rows + 1) * part.shape[1]) for name, part in pieces.items()}
    assert tensors["logprobs"].shape == (rows, new)
    return Batch(
        ids=ids, dense=torch.zeros(rows, 0), labels=tensors["scores"].clone(), weights=torch.ones(rows),
        event_times=none, accepted_times=none, example_ids=torch.arange(rows), versions=none,
        predictions=torch.full((rows,), torch.nan), sample_rates=torch.ones(rows),
        extra={"log_probs": tensors["logprobs"].clone()},
    )  # fmt: skip


def test_log_probs_and_values_are_theirs(recorded, rollout, tmp_path) -> None:
    tensors, settings = recorded[0], recorded[1]["settings"]
    model, whole = actor(recorded, 1, tmp_path), joined(rollout.ids["prompt"], rollout.ids["completion"])
    reference = loaded(recorded, "reference", tmp_path / "reference")
    for one, name in ((model, "logprobs"), (reference, "ref_logprobs")):
        found = beside(completion_log_probs(one, whole, settings["temperature"]), whole.answers)
        torch.testing.assert_close(found.detach(), tensors[name], **NEAR)
    values = beside(model.states_and_values(whole.tokens)[1][whole.before], whole.answers)
    torch.testing.assert_close(values.detach(), tensors["values"], **NEAR)


def test_advantages_and_returns_are_theirs(recorded, rollout, tmp_path) -> None:
    tensors, settings = recorded[0], recorded[1]["settings"]
    reference = loaded(recorded, "reference", tmp_path / "reference")
    config = PolicyConfig(credit=CriticCredit(gamma=settings["gamma"], lam=settings["lam"]),
                          kl=KLControl(coefficient=settings["kl_coef"]))  # fmt: skip
    found = credited(actor(recorded, 1, tmp_path), reference, rollout, config, settings["kl_coef"], [0.0] * 3,
                     settings["temperature"]).batch.extra  # fmt: skip
    torch.testing.assert_close(found["returns"], tensors["returns"], **NEAR)
    torch.testing.assert_close(found["advantages"], tensors["advantages"], **NEAR)


@pytest.mark.parametrize("step", [1, 2])
def test_losses_are_theirs(recorded, rollout, tmp_path, step) -> None:
    """The second step has other weights than those that drew: ratios differ from 1, and clips are reached."""
    tensors, settings = recorded[0], recorded[1]["settings"]
    names = {"log_probs": "logprobs", "advantages": "advantages", "returns": "returns", "values": "values"}
    rollout.extra.update({ours: tensors[theirs] for ours, theirs in names.items()})
    objective = PPO(clip=settings["cliprange"], value_clip=settings["cliprange_value"],
                    value_weight=settings["vf_coef"], temperature=settings["temperature"])  # fmt: skip
    loss = objective(actor(recorded, step, tmp_path), rollout)
    torch.testing.assert_close(loss.total.detach(), tensors[f"loss{step}"], **NEAR)
    assert loss.parts["policy"] == pytest.approx(float(tensors[f"policy_loss{step}"]), abs=1e-5)
    assert loss.parts["value"] == pytest.approx(float(tensors[f"value_loss{step}"]), abs=1e-5)
    assert (loss.parts["clipped"] > 0.1) == (step == 2)
