"""TRL's PPO from given weights with a reward that counts tokens: `trl_curve.py SETTINGS.json`, curves on the last line.

Runs in the environment that `scripts/peers_rlhf.sh` makes.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn


class Counting(nn.Module):
    """Says, after every token, which share of a completion's length were good tokens so far."""

    def __init__(self, good: int, new: int) -> None:
        super().__init__()
        self.good, self.new, self.nothing = good, new, nn.Parameter(torch.zeros(1))

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        """Return it as the last hidden state, (B, T, 1)."""
        shares = (input_ids < self.good).float().cumsum(1) / self.new
        return SimpleNamespace(hidden_states=[shares.unsqueeze(-1)], past_key_values=None)


class Reward(nn.Module):
    """A reward model as TRL takes it apart: a trunk, and a head over its last hidden state."""

    base_model_prefix = "trunk"

    def __init__(self, good: int, new: int) -> None:
        super().__init__()
        self.trunk, self.score = Counting(good, new), nn.Identity()


def tokenizer(vocabulary: int) -> Any:
    """Return one that only says which tokens are special: two that no model can write, so that nothing ends early."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(vocabulary)}
    words |= {"<pad>": vocabulary, "<end>": vocabulary + 1}
    made = Tokenizer(models.WordLevel(words, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>", padding_side="left")


def curve(settings: dict[str, Any], seed: int) -> list[float]:
    """Return the mean reward of every rollout."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    torch.manual_seed(seed)
    rows = settings["rows"]
    policy = AutoModelForCausalLM.from_pretrained(settings["folder"], local_files_only=True)
    critic = AutoModelForSequenceClassification.from_pretrained(settings["folder"], num_labels=1, local_files_only=True)
    critic.config.pad_token_id = policy.config.pad_token_id = settings["vocabulary"]
    nn.init.zeros_(critic.score.weight)
    with tempfile.TemporaryDirectory() as folder:
        config = PPOConfig(
            output_dir=folder, per_device_train_batch_size=rows, gradient_accumulation_steps=1, num_mini_batches=1,
            num_ppo_epochs=settings["epochs"], total_episodes=rows * settings["iterations"],
            response_length=settings["new"], stop_token_id=None, missing_eos_penalty=None,
            local_rollout_forward_batch_size=rows, temperature=1.0, learning_rate=settings["lr"],
            lr_scheduler_type="constant", kl_coef=settings["kl"], whiten_rewards=False, num_sample_generations=0,
            report_to="none", use_cpu=True, bf16=False, fp16=False, gradient_checkpointing=False, save_strategy="no",
            disable_tqdm=True, logging_steps=1, seed=seed,
        )  # fmt: skip
        dataset = Dataset.from_dict({"input_ids": settings["asked"][str(seed)]})
        trainer = PPOTrainer(
            args=config, processing_class=tokenizer(settings["vocabulary"]), model=policy,
            ref_model=copy.deepcopy(policy), reward_model=Reward(settings["good"], settings["new"]),
            value_model=critic, train_dataset=dataset, eval_dataset=dataset,
        )  # fmt: skip
        trainer.train()
    return [entry["objective/scores"] for entry in trainer.state.log_history if "objective/scores" in entry]


def main(path: Path) -> None:
    """Run every seed; what the libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    settings = json.loads(path.read_text(encoding="utf-8"))
    answers.write(json.dumps([curve(settings, seed) for seed in settings["seeds"]]) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
