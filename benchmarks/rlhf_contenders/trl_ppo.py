"""TRL's PPO as a process that takes one iteration whenever it is told to: `trl_ppo.py JSON`.

Runs in the environment that `scripts/peers_rlhf.sh` makes. Reads a line, takes an iteration, answers with a line of
JSON: the CPU time that it took. Everything else that is printed goes to standard error.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import tempfile
import time
from typing import Any


def tokenizer(vocabulary: int) -> Any:
    """Return one that only says which tokens are special: the last two."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(vocabulary - 2)} | {
        "<pad>": vocabulary - 2,
        "<end>": vocabulary - 1,
    }
    made = Tokenizer(models.WordLevel(words, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>", padding_side="left")


def main(settings: dict[str, Any]) -> None:
    """Build the trainer, and let its callback wait for lines."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print must not look like an answer
    import torch
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows, prompt, iterations = settings["rows"], settings["prompt"], settings["iterations"]
    sizes = {**settings["model"], "pad_token_id": settings["model"]["vocab_size"] - 2}
    policy = LlamaForCausalLM(LlamaConfig(**sizes))
    critic, reward = (LlamaForSequenceClassification(LlamaConfig(**sizes, num_labels=1)) for _ in range(2))

    class Waiting(TrainerCallback):
        """Waits for a line before every iteration."""

        started = 0.0

        def wait(self) -> None:
            if not sys.stdin.readline():
                os._exit(0)
            self.started = time.process_time()

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.wait()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            answers.write(json.dumps({"cpu_s": time.process_time() - self.started}) + "\n")
            answers.flush()
            self.wait()

    with tempfile.TemporaryDirectory() as folder:
        config = PPOConfig(
            output_dir=folder, per_device_train_batch_size=rows, gradient_accumulation_steps=1, num_mini_batches=1,
            num_ppo_epochs=settings["epochs"], total_episodes=rows * iterations, response_length=settings["new"],
            stop_token_id=None, missing_eos_penalty=None, local_rollout_forward_batch_size=rows, temperature=1.0,
            num_sample_generations=0, report_to="none", use_cpu=True, bf16=False, fp16=False,
            gradient_checkpointing=False, save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        asked = torch.randint(0, sizes["vocab_size"] - 2, (rows * 4, prompt)).tolist()
        dataset = Dataset.from_dict({"input_ids": asked})
        trainer = PPOTrainer(
            args=config, processing_class=tokenizer(sizes["vocab_size"]), model=policy, ref_model=copy.deepcopy(policy),
            reward_model=reward, value_model=critic, train_dataset=dataset, eval_dataset=dataset, callbacks=[Waiting()],
        )  # fmt: skip
        trainer.train()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
