"""Writes what TRL's PPO makes of one rollout, with the weights and tokens it was made from: for the tests of `learn`.

Runs where TRL 1.12 is installed (`scripts/peers_rlhf.sh`), not in this project's environment:

    build/peers/rlhf/bin/python scripts/expected_ppo.py

TRL's own trainer takes one rollout and two steps from it. Tensors are read where it calls `backward`: what it worked
out from the rollout (log-probabilities, values, advantages, returns), and the losses of both steps, the second with the
weights that the first has made. Completions have full length; on shorter ones TRL counts a place behind the end.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

OUT = Path(__file__).resolve().parents[1] / "tests" / "unit" / "learn" / "expected" / "ppo_trl.safetensors"
WORDS, ROWS, PROMPT, NEW = 24, 6, 3, 5
SETTINGS = {"kl_coef": 0.2, "gamma": 0.95, "lam": 0.9, "cliprange": 0.1, "cliprange_value": 0.15, "vf_coef": 0.3,
            "temperature": 0.8, "learning_rate": 0.05}  # fmt: skip
KEPT = ("query_responses", "logprobs", "ref_logprobs", "values", "scores", "advantages", "returns")


def models(seed: int) -> tuple[Any, Any, Any, Any]:
    """Return policy, reference, critic and reward model: small, random, with weights large enough to matter."""
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    torch.manual_seed(seed)
    sizes = {"vocab_size": WORDS + 2, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
             "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32}  # fmt: skip
    config = LlamaConfig(**sizes, pad_token_id=WORDS, eos_token_id=WORDS + 1, bos_token_id=None)
    scored = LlamaConfig(**sizes, pad_token_id=WORDS, num_labels=1)
    made = [LlamaForCausalLM(config), LlamaForSequenceClassification(scored), LlamaForSequenceClassification(scored)]
    with torch.no_grad():
        for model in made:
            for parameter in model.parameters():
                parameter.add_(0.15 * torch.randn(parameter.shape))
    policy, critic, reward = made
    reference = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return policy, reference, critic, reward


def tokenizer() -> Any:
    """Return one that only says which tokens are special."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {**{f"w{number}": number for number in range(WORDS)}, "<pad>": WORDS, "<end>": WORDS + 1}
    made = Tokenizer(models.WordLevel(words, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>", padding_side="left")


def record(seed: int) -> dict[str, torch.Tensor]:
    """Let TRL take one rollout and two steps; return what it saw."""
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    policy, reference, critic, reward = models(seed)
    asked = torch.randint(0, WORDS, (ROWS, PROMPT))
    found: dict[str, torch.Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        config = PPOConfig(
            output_dir=folder, per_device_train_batch_size=ROWS, gradient_accumulation_steps=1, num_mini_batches=1,
            num_ppo_epochs=2, total_episodes=ROWS, response_length=NEW, stop_token_id=None, missing_eos_penalty=None,
            local_rollout_forward_batch_size=ROWS, whiten_rewards=False, num_sample_generations=0, report_to="none",
            use_cpu=True, bf16=False, fp16=False, gradient_checkpointing=False, seed=seed, save_strategy="no",
            **SETTINGS,
        )  # fmt: skip
        dataset = Dataset.from_dict({"input_ids": asked.tolist()})
        trainer = PPOTrainer(
            args=config, processing_class=tokenizer(), model=policy, ref_model=reference, reward_model=reward,
            value_model=critic, train_dataset=dataset, eval_dataset=dataset,
        )  # fmt: skip
        backward, step = trainer.accelerator.backward, [0]

        def seen(loss: torch.Tensor) -> None:
            step[0] += 1
            there = sys._getframe(1).f_locals
            if step[0] == 1:
                found.update({name: there[name].detach().clone() for name in KEPT})
                found.update(weights("reference", reference))
            found.update(weights(f"policy{step[0]}", policy) | weights(f"critic{step[0]}", critic))
            parts = {"loss": loss, "policy_loss": there["pg_loss"], "value_loss": there["vf_loss"]}
            found.update({f"{name}{step[0]}": value.detach().clone() for name, value in parts.items()})
            backward(loss)

        trainer.accelerator.backward = seen
        trainer.train()
    return found


def weights(name: str, model: Any) -> dict[str, torch.Tensor]:
    """Return a model's weights under their own names."""
    return {f"{name}/{key}": value.detach().clone() for key, value in model.state_dict().items()}


def main() -> None:
    """Record a rollout in which nobody drew the token that TRL pads with, and write it."""
    import safetensors.torch
    import transformers
    import trl

    torch.set_num_threads(1)
    for seed in range(20):
        found = record(seed)
        if not bool((found["query_responses"] == WORDS).any()):
            break
    else:
        raise SystemExit("no seed gave completions without padding")
    config = {"model_type": "llama", "vocab_size": WORDS + 2, "hidden_size": 16, "intermediate_size": 24,
              "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
              "max_position_embeddings": 32, "rms_norm_eps": 1e-6, "tie_word_embeddings": False}  # fmt: skip
    notes = {"settings": json.dumps(SETTINGS), "config": json.dumps(config), "prompt": str(PROMPT), "seed": str(seed),
             "made_by": f"trl {trl.__version__}, transformers {transformers.__version__}"}  # fmt: skip
    OUT.parent.mkdir(exist_ok=True)
    safetensors.torch.save_file({name: value.contiguous() for name, value in found.items()}, str(OUT), metadata=notes)
    print(OUT, {name: tuple(value.shape) for name, value in found.items() if "/" not in name})


if __name__ == "__main__":
    main()
