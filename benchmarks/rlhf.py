"""Language models: generation beside `transformers.generate`, with the same weights, on one thread.

    python benchmarks/rlhf.py [--quick] [--json] [--repeats 9]

Ours and theirs take turns in one process; the time is CPU time of that process, and a figure is the median ratio of
neighbouring turns. Prompts have 16 tokens and completions exactly 48, drawn at temperature 1, so no row leaves early.
Needs the extra `language`; without it the figures are null.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headrace.evaluate import ClaimRecord, ClaimTable, Goal
from headrace.evaluate.claims import Estimate, render_tables
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


def main() -> int:
    """Measure and print; 3 when a goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three turns, without goals")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--repeats", type=int, default=9, help="turns of each")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    repeats = 3 if arguments.quick else arguments.repeats
    peer = reference if importlib.util.find_spec("transformers") else None
    record, rows, errors = ClaimRecord(), [], []
    for name in SIZES:
        for batch in (1, 8, 64):
            rows.append(measure(name, batch, repeats, record, peer=peer))
            errors.append(float(rows[-1][-1]))
    record.add("logprob_error", Estimate(max(errors), None, None, 0.0, 0.0, len(errors)), unit="nat",
               goal=Goal("<=", 1e-4))  # fmt: skip
    heads = ("model", "ours, tokens/CPU-s", "transformers", "ratio", "products alone", "log-prob error")
    record.tables.append(ClaimTable(f"Generation, {PROMPT} + {NEW} tokens", heads, tuple(rows)))
    result = record.to_json({"prompt": PROMPT, "new": NEW, "repeats": repeats, "threads": 1})
    print(json.dumps(result, indent=2) if arguments.json else render_tables(result))
    return 3 if any(figure["holds"] is False for figure in record.figures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
