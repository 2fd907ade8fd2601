"""Fitting language models and reward models offline: texts, demonstrations or pairs through `headrace.loop.fit`."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import get_ident
from typing import TypeAlias, cast

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from headrace.config import require
from headrace.data import MemorySource, TokenCollator
from headrace.errors import StoreError
from headrace.learn.checkpoint import CURRENT, ManifestCheckpoint
from headrace.learn.dense_only import dense_learner
from headrace.learn.learner_config import LearnerConfig
from headrace.loop import Loop, Progress, fit
from headrace.objectives.tokens import LanguageModel, completion_log_probs, joined, row_sums
from headrace.optim import Cosine, Product, Warmup, clip_norm
from headrace.protocols import Objective
from headrace.types import Batch, Events, Jagged, Report, State

ReadBatch: TypeAlias = Callable[[Events], Batch]


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageFit:
    """How a language model or a reward model is fitted to rows in memory: AdamW, a short rise, then half a cosine.

    Attributes:
        lr: Highest learning rate.
        batch_rows: Rows of a step.
        epochs: How often every row is learned; in another order each time.
        rise: Share of the steps in which the rate rises.
        decay: Weight decay.
        max_norm: Bound on the norm of a step's gradient.
        seed: Seed of the orders.

    Raises:
        ConfigError: If a value cannot work.
    """

    lr: float = 3e-3
    batch_rows: int = 32
    epochs: int = 1
    rise: float = 0.05
    decay: float = 0.01
    max_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("lr", "max_norm"):
            require(0 < getattr(self, name) < math.inf, f"LanguageFit.{name}", got=getattr(self, name),
                    expected="a positive number")  # fmt: skip
        for name in ("batch_rows", "epochs"):
            require(getattr(self, name) >= 1, f"LanguageFit.{name}", got=getattr(self, name), expected="1 or more")
        require(0 <= self.rise < 1, "LanguageFit.rise", got=self.rise, expected="a share in [0, 1)")
        require(0 <= self.decay < math.inf, "LanguageFit.decay", got=self.decay, expected="0 or more")


def fit_language(
    model: nn.Module, rows: Events, read: ReadBatch, objective: Objective, config: LanguageFit | None = None, *,
    on_step: Callable[[Progress], None] | None = None,
) -> Report:  # fmt: skip
    """Fit a model in place, through the loop that fits everything else.

    Args:
        model: A language model, or a reward model.
        rows: Texts (`text_batch`), demonstrations (`completion_batch`) or pairs (`preference_batch`).
        read: Turns rows to a batch; one of these three.
        objective: `NextToken`, `BradleyTerry`, `DPO`.
        config: How.
        on_step: Called after every step.

    Returns:
        What the loop reports, with `loss`, the mean of the last tenth of the steps.

    Raises:
        ConfigError: If there are no rows.
        NonFiniteLoss: If a step is not finite; the model stands as before that step.

    Cost: `epochs` training passes over the rows.
    """
    config = config or LanguageFit()
    require(len(rows) > 0, "fit_language, rows", got=0, expected="at least one")
    steps = max(config.epochs * (len(rows) // config.batch_rows), 1)
    rate = Product((Warmup(steps=max(int(config.rise * steps), 1)), Cosine(steps=steps, floor=0.02)))
    adam = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=config.lr,
                             weight_decay=config.decay, betas=(0.9, 0.98))  # fmt: skip
    learner = dense_learner(model, clip_norm(adam, config.max_norm), objective,
                            LearnerConfig(freshness=False, dense_schedule=rate, seed=config.seed))  # fmt: skip
    draw, losses = np.random.default_rng(config.seed), list[float]()
    orders = [draw.permutation(len(rows)) for _ in range(config.epochs)]
    source = MemorySource([Events(rows.batch.take(pa.array(order))) for order in orders])

    def stepped(progress: Progress) -> None:
        losses.append(progress.loss)
        if on_step is not None:
            on_step(progress)

    model.train()
    report = fit(Loop(source=source, joiner=TokenCollator(read, config.batch_rows), learner=learner,
                      batch_rows=config.batch_rows, on_step=stepped))  # fmt: skip
    model.eval()
    tail = losses[-max(len(losses) // 10, 1) :]
    report.add("loss", sum(tail) / len(tail), unit="nats", source="last tenth of the steps")
    return report


def likelihood_of(model: nn.Module) -> Callable[[Jagged, Jagged], Tensor]:
    """Return what says the log-probability of whole completions after prompts, (B,); see `evaluate.language_tasks`."""

    @torch.no_grad()
    def likelihood(prompts: Jagged, completions: Jagged) -> Tensor:
        whole = joined(prompts, completions)
        return row_sums(completion_log_probs(cast(LanguageModel, model), whole), whole)

    return likelihood


def kept(folder: Path, model: nn.Module, build: Callable[[], object]) -> bool:
    """Give a model the weights that lie in a folder; where there are none, build them and keep them there.

    The folder's name has to say all that the weights depend on; nothing is compared. Several processes may build the
    same at once: the first one's weights are kept, and all take those.

    Args:
        folder: Where weights are kept.
        model: Gets them.
        build: Fits the model in place.

    Returns:
        Whether they were there before.

    Raises:
        CorruptSnapshot: If what lies there is damaged, or of another model.
        StoreError: If the disk refuses.
    """
    files = ManifestCheckpoint(folder, keep=1)
    state, there = files.load(), True
    if state is None:
        build()
        there = _appeared(folder, model)
        state = files.load() if there else None
    if state is not None:
        model.load_state_dict(cast("dict[str, Tensor]", state["weights"]))
    return there


def _appeared(folder: Path, model: nn.Module) -> bool:
    """Put a model's weights in place, whole; return whether somebody else's lie there meanwhile."""
    own = folder.with_name(f".{folder.name}.{os.getpid()}-{get_ident()}.part")
    shutil.rmtree(own, ignore_errors=True)
    weights: State = {name: value.detach().clone() for name, value in model.state_dict().items()}
    try:
        ManifestCheckpoint(own, keep=1).save({"weights": weights})
        os.replace(own, folder)
    except OSError as error:  # a folder that is not empty is not replaced
        if not (folder / CURRENT).is_file():
            raise StoreError(f"Folder {folder}", got=str(error), expected="one that can be written to, or none",
                             do="Remove what lies there, or free disk space.") from error  # fmt: skip
        return True
    finally:
        shutil.rmtree(own, ignore_errors=True)
    return False
