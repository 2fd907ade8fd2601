"""Language models: generation beside `transformers.generate`, and PPO beside TRL's, on one thread.

    python benchmarks/rlhf.py [--quick] [--json] [--record FILE] [--repeats 9] [--part generate|ppo|curves]

Ours and theirs take turns; the time is CPU time of the process that works, and a figure is the median ratio of
neighbouring turns. Generation: the same weights, prompts of 16 tokens and completions of exactly 48, drawn at
temperature 1, so no row leaves early. PPO: whole iterations (completions, rewards, learning, the next version) with a
policy, a reference, a critic and a reward model of one size, four epochs over a rollout, no early end; once with a
critic of its own, as the peer's is, and once with one that shares the policy's trunk, which the peer has not.
Curves: how rewards rise, ours and theirs from the same weights, some seeds each; the distance of the two mean curves
in standard deviations between seeds, a mean over the rollouts.
Needs the extra `language`, and `scripts/peers_rlhf.sh` for TRL; figures of a peer that is not there are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rlhf_contenders.curves import ITERATIONS, first_policy, our_curve, their_curves
from rlhf_contenders.ours import iteration
from table_contenders.delivery import deliver
from torch import Tensor

from headrace.evaluate import ClaimRecord, ClaimTable, Goal
from headrace.evaluate.claims import Estimate
from headrace.nn import CausalSettings, CausalTransformer, save_causal
from headrace.objectives.tokens import completion_log_probs, joined
from headrace.serve import GenerateConfig, generate
from headrace.types import Jagged

SIZES = {
    "1m": CausalSettings(vocabulary=512, width=128, layers=4, heads=4, hidden=352, max_length=128),
    "5m": CausalSettings(vocabulary=1024, width=256, layers=6, heads=4, hidden=688, max_length=128),
}
GOALS = {("1m", 1): 3.0, ("5m", 1): 1.6, ("1m", 64): 1.3, ("5m", 64): 1.1}
PROMPT, NEW = 16, 48
PPO_ROWS, PPO_NEW, PPO_EPOCHS = 64, 32, 4
ROOT = Path(__file__).resolve().parents[1]
TRL = ROOT / "build" / "peers" / "rlhf" / "bin" / "python"


def cpu_s(work: Callable[[], object]) -> float:
    """Return the CPU time of this process that some work took."""
    start = time.process_time()
    work()
    return time.process_time() - start


def median_ratio(theirs: list[float], ours: list[float]) -> Estimate:
    """Return the median of the ratios of neighbouring turns, with the interval of its order statistics (95 %)."""
    ratios = np.sort(np.asarray(theirs) / np.asarray(ours))
    count, middle = len(ratios), float(np.median(ratios))
    reach = 0.98 * np.sqrt(count)
    low, high = max(int(np.floor(count / 2 - reach)), 0), min(int(np.ceil(count / 2 + reach)), count - 1)
    return Estimate(middle, float(ratios[low]), float(ratios[high]), float(ratios.std()), 0.0, count)


def prompts(rows: int, vocabulary: int) -> Jagged:
    """Return prompts of random tokens."""
    draw = torch.Generator().manual_seed(rows)
    return Jagged(torch.randint(3, vocabulary, (rows * PROMPT,), generator=draw), torch.arange(rows + 1) * PROMPT)


def reference(model: CausalTransformer) -> Any:
    """Return the same model as `transformers` computes it."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        save_causal(model, folder)
        return transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()


def their_work(peer: Any, asked: Jagged) -> Callable[[], Tensor]:
    """Return what generates with `transformers`: sampling as ours, exactly as many tokens."""
    ids = asked.values.view(len(asked), PROMPT)
    settings = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": NEW,
                "min_new_tokens": NEW, "pad_token_id": 0, "use_cache": True}  # fmt: skip
    mask = torch.ones_like(ids)
    return lambda: peer.generate(ids, attention_mask=mask, **settings)


def bound_s(settings: CausalSettings, rows: int) -> float:
    """Return the CPU time of the matrix products of one generation, and nothing else."""
    shapes = [(settings.width, sum(settings.parts)), (settings.parts[0], settings.width),
              (settings.width, 2 * settings.hidden), (settings.hidden, settings.width)] * settings.layers  # fmt: skip
    weights = [torch.randn(shape) for shape in [*shapes, (settings.width, settings.vocabulary)]]
    inputs = [torch.randn(rows, weight.shape[0]) for weight in weights]

    def steps() -> None:
        for _ in range(NEW):
            for one, weight in zip(inputs, weights, strict=True):
                torch.mm(one, weight)

    steps()
    return min(cpu_s(steps) for _ in range(3))


def measure(name: str, rows: int, repeats: int, record: ClaimRecord, *, peer: Any) -> tuple[str, ...]:
    """Measure one size and batch; return a row of the table."""
    settings = SIZES[name]
    model = CausalTransformer(settings, seed=1).eval()
    asked, config = prompts(rows, settings.vocabulary), GenerateConfig(max_tokens=NEW)
    decoder = model.decoder()

    def our_work() -> object:
        return generate(decoder, asked, config, range(rows))

    made = generate(decoder, asked, config, range(rows))
    with torch.no_grad():
        forced = completion_log_probs(model, joined(asked, made.tokens))
    error = float((forced - made.log_probs).abs().max())
    ours, theirs = [], []
    works = [(our_work, ours)] if peer is None else [(our_work, ours), (their_work(peer(model), asked), theirs)]
    for work, _ in works:
        work()
    for _ in range(repeats):
        for work, times in works:
            times.append(cpu_s(work))
    figure = f"generate_vs_transformers/batch_{rows}/{name}"
    goal = Goal(">=", GOALS[name, rows]) if (name, rows) in GOALS else None
    tokens = rows * NEW
    cells = [f"{name}, batch {rows}", f"{tokens / statistics.median(ours):,.0f}"]
    if theirs:
        ratio = median_ratio(theirs, ours)
        record.add(figure, ratio, unit="x", goal=goal)
        cells += [f"{tokens / statistics.median(theirs):,.0f}", f"{ratio.value:.2f}"]
    else:
        cells += ["not installed", "-"]
    return (*cells, f"{tokens / bound_s(settings, rows):,.0f}", f"{error:.1e}")


def measure_generation(repeats: int, record: ClaimRecord) -> None:
    """Measure generation of every size and batch."""
    peer = reference if importlib.util.find_spec("transformers") else None
    rows = [measure(name, batch, repeats, record, peer=peer) for name in SIZES for batch in (1, 8, 64)]
    errors = [float(row[-1]) for row in rows]
    record.add("logprob_error", Estimate(max(errors), None, None, 0.0, 0.0, len(errors)), unit="nat",
               goal=Goal("<=", 1e-4))  # fmt: skip
    heads = ("model", "ours, tokens/CPU-s", "transformers", "ratio", "products alone", "log-prob error")
    record.tables.append(ClaimTable(f"Generation, {PROMPT} + {NEW} tokens", heads, tuple(rows)))


class TRLProcess:
    """TRL's trainer in an environment of its own, an iteration at a time."""

    def __init__(self, settings: CausalSettings, iterations: int) -> None:
        model = {"vocab_size": settings.vocabulary, "hidden_size": settings.width, "intermediate_size": settings.hidden,
                 "num_hidden_layers": settings.layers, "num_attention_heads": settings.heads,
                 "num_key_value_heads": settings.key_heads, "max_position_embeddings": settings.max_length,
                 "tie_word_embeddings": settings.tied}  # fmt: skip
        asked = {"model": model, "rows": PPO_ROWS, "prompt": PROMPT, "new": PPO_NEW, "epochs": PPO_EPOCHS,
                 "iterations": iterations + 1}  # fmt: skip
        script = ROOT / "benchmarks" / "rlhf_contenders" / "trl_ppo.py"
        self._process = subprocess.Popen(
            [str(TRL), str(script), json.dumps(asked)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip

    def __call__(self) -> float:
        """Take an iteration and return its CPU time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return float(json.loads(self._process.stdout.readline())["cpu_s"])

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def measure_ppo(repeats: int, record: ClaimRecord) -> list[tuple[str, ...]]:
    """Measure whole PPO iterations of the small model; return rows of the table."""
    settings, tokens = SIZES["1m"], PPO_ROWS * PPO_NEW
    works = {name: iteration(settings, PPO_ROWS, PROMPT, PPO_NEW, epochs=PPO_EPOCHS, shared=name == "shared trunk")
             for name in ("own critic", "shared trunk")}  # fmt: skip
    peer = TRLProcess(settings, repeats + 1) if TRL.exists() else None
    times: dict[str, list[float]] = {name: [] for name in (*works, "TRL")}
    for turn in range(repeats + 1):  # the first turn is for warming up
        for name, work in works.items():
            times[name] += [cpu_s(work)][: turn and 1]
        if peer is not None:
            times["TRL"] += [peer()][: turn and 1]
    if peer is None:
        return [(name, f"{tokens / statistics.median(times[name]):,.0f}", "not installed", "-") for name in works]
    peer.close()
    rows, theirs = [], f"{tokens / statistics.median(times['TRL']):,.0f}"
    for name, figure, goal in (("own critic", "ppo_vs_trl/own_critic", None),
                               ("shared trunk", "ppo_vs_trl/shared_trunk", Goal(">=", 1.5))):  # fmt: skip
        ratio = median_ratio(times["TRL"], times[name])
        record.add(figure, ratio, unit="x", goal=goal)
        rows.append((name, f"{tokens / statistics.median(times[name]):,.0f}", theirs, f"{ratio.value:.2f}"))
    return rows


def measure_curves(seeds: range, record: ClaimRecord, iterations: int = ITERATIONS) -> None:
    """Let both learn the same task, and compare how."""
    policy = first_policy()
    ours = np.array([our_curve(policy, seed, iterations) for seed in seeds])
    lines = {"ours": ours}
    if TRL.exists():
        with tempfile.TemporaryDirectory() as folder:
            lines["TRL"] = np.array(their_curves(TRL, policy, Path(folder), seeds, iterations))
        spread = np.sqrt((ours.var(0, ddof=1) + lines["TRL"].var(0, ddof=1)) / 2).clip(1e-9)
        apart = np.abs(ours.mean(0) - lines["TRL"].mean(0)) / spread
        record.add("ppo_curve_vs_trl", Estimate(float(apart.mean()), None, None, 0.0, 0.0, len(seeds)),
                   unit="deviations between seeds", goal=Goal("<=", 1.0))  # fmt: skip
    at = [0, iterations // 4, iterations // 2, 3 * iterations // 4, iterations - 1]
    rows = [(name, *(f"{one[:, place].mean():.3f} ± {one[:, place].std(ddof=1):.3f}" for place in at))
            for name, one in lines.items()]  # fmt: skip
    record.tables.append(ClaimTable(f"Rewards, rollout by rollout, {len(seeds)} seeds",
                                    ("", *(f"{place + 1}" for place in at)), tuple(rows)))  # fmt: skip


def missing() -> list[str]:
    """Return what was not measured beside, and why."""
    notes = []
    if importlib.util.find_spec("transformers") is None:
        notes.append("transformers is not installed (the extra 'language'): generation has nothing beside it")
    if not TRL.exists():
        notes.append("TRL is not there (scripts/peers_rlhf.sh): PPO has nothing beside it")
    return notes


def main() -> int:
    """Measure and print; 3 when a goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two turns, generation only")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--record", type=Path, help="write the result there too")
    parser.add_argument("--repeats", type=int, default=9, help="turns of each")
    parser.add_argument("--part", choices=["generate", "ppo", "curves"], help="measure this alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    repeats = 2 if arguments.quick else arguments.repeats
    record = ClaimRecord()
    if arguments.part in (None, "generate"):
        measure_generation(repeats, record)
    if arguments.part == "ppo" or not (arguments.part or arguments.quick):
        heads = ("critic", "ours, tokens/CPU-s", "TRL", "ratio")
        rows = tuple(measure_ppo(repeats, record))
        record.tables.append(ClaimTable(f"PPO, {PPO_ROWS} completions of {PPO_NEW} tokens", heads, rows))
    if arguments.part == "curves" or not (arguments.part or arguments.quick):
        measure_curves(range(5), record)
    part = f" --part {arguments.part}" if arguments.part else " --quick" if arguments.quick else ""
    result = record.to_json({"command": f"python benchmarks/rlhf.py{part} --repeats {repeats}", "prompt": PROMPT,
                             "new": NEW, "repeats": repeats, "threads": 1, "notes": missing()})  # fmt: skip
    return deliver(result, record=arguments.record, as_json=arguments.json)


if __name__ == "__main__":
    sys.exit(main())
