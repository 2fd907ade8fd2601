"""The two networks that the samplers are tried on beside closed forms, and how they are taught."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from headrace.learn import LearnerConfig, RankLearner
from headrace.nn import (
    BayesianFlow,
    ContinuousFlow,
    DiscreteFlow,
    MarkovDenoiser,
    NormalDenoiser,
    ResidualDenoiser,
    SequenceDenoiser,
)
from headrace.objectives import FlowLoss
from headrace.optim import Chain, Cosine, Warmup
from headrace.papers.bfn_solver.sets import ALPHABET, PIXELS
from headrace.store import EmbeddingCollection
from headrace.types import Batch

AXES = 64
"""Of the digits' 196 axes, those of the largest variance: what the network works on."""
SIGMAS = {"digits": 1e-3, "coarse_digits": 1e-3**0.5}
"""Of the digits' flows: that of the solvers' paper, and what Graves et al. take for images of few levels."""
WINDOW = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a network is and how long it learns."""

    width: int
    blocks: int
    steps: int
    rows: int = 128
    rate: float = 1e-3


def digit_model(size: Size, seed: int, images: Tensor, name: str = "digits") -> BayesianFlow:
    """Return an untrained network over digits that begins from their mean and covariance."""
    flow, mean, covariance = ContinuousFlow(sigma=SIGMAS[name]), images.mean(0), torch.cov(images.T)
    network = ResidualDenoiser((AXES,), (AXES,), width=size.width, blocks=size.blocks, seed=seed)
    denoiser = NormalDenoiser(flow, mean, covariance, network=network, axes=AXES)
    return BayesianFlow(denoiser, flow, (PIXELS,), embed=EmbeddingCollection({}, []),
                        moments=(mean, float(covariance.diagonal().mean())))  # fmt: skip


def text_model(size: Size, seed: int, learned: Tensor) -> BayesianFlow:
    """Return an untrained network over windows of text that begins from counts of three characters."""
    classes = len(ALPHABET)
    denoiser = SequenceDenoiser(WINDOW, classes, width=size.width, blocks=size.blocks, seed=seed,
                                prior=MarkovDenoiser.counted(learned, classes))  # fmt: skip
    shares = torch.bincount(learned, minlength=classes) / len(learned)
    moments = (shares.expand(WINDOW, classes), float(1.0 - shares.square().sum()))
    return BayesianFlow(denoiser, DiscreteFlow(classes=classes), (WINDOW,), embed=EmbeddingCollection({}, []),
                        moments=moments)  # fmt: skip


def examples(rows: Tensor, first: int = 0) -> Batch:
    """Return rows as examples to learn from: numbers as dense columns, classes under `text`."""
    count = len(rows)
    none, ones, numbers = torch.zeros(count, dtype=torch.int64), torch.ones(count), torch.arange(count) + first
    dense, extra = (rows, {}) if rows.is_floating_point() else (torch.zeros(count, 0), {"text": rows})
    return Batch(
        ids={}, dense=dense, labels=ones, weights=ones, event_times=numbers, accepted_times=none, example_ids=numbers,
        predictions=torch.full((count,), torch.nan), versions=none - 1, sample_rates=ones, extra=extra,
    )  # fmt: skip


def learn(model: BayesianFlow, data: Tensor, size: Size, seed: int) -> list[float]:
    """Teach a network rows (N, D), or windows of a text (N,), by the learner of rankers; return every step's loss."""
    collection = cast(EmbeddingCollection, model.embed)
    pace = Chain(((Warmup(steps=50), 50), (Cosine(steps=max(size.steps - 50, 1)), 1)))
    optimizer = torch.optim.Adam(model.parameters(), lr=size.rate, betas=(0.9, 0.99))
    loss = FlowLoss("" if data.is_floating_point() else "text")
    config = LearnerConfig(seed=seed, freshness=False, dense_schedule=pace)
    learner, draw = RankLearner(model, collection, optimizer, loss, config), np.random.default_rng(seed)
    losses = []
    for step in range(size.steps):
        if data.is_floating_point():
            rows = data[torch.from_numpy(draw.integers(0, len(data), size.rows))]
        else:
            starts = torch.from_numpy(draw.integers(0, len(data) - WINDOW, size.rows))
            rows = data[starts[:, None] + torch.arange(WINDOW)]
        losses.append(float(learner.learn(examples(rows, step * size.rows)).total))
    return losses
