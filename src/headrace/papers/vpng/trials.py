"""One run of each experiment: an arm, a step size, a seed. What the arms are is in `card.md`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import SGD, Adagrad, Adam

from headrace.errors import NumericError
from headrace.evaluate import auc
from headrace.nn.layers import generator
from headrace.optim import (
    Bernoulli,
    Diagonal,
    Draws,
    Exact,
    Gaussian,
    Identity,
    Kfac,
    LowRank,
    NaturalGradient,
    NormalPosterior,
)
from headrace.optim.fisher import Form
from headrace.papers.vpng.recipe import LATENTS, DigitsVAE, GaussianMean, MeanField, digits, divergence, regression

PLAIN, ORDINARY, OURS, UNCOUPLED = "gradient", "q natural gradient", "VPNG", "VPNG, diagonal"
DAMPING, DECAY = 0.1, 0.9
ORDINARY_ADAM, DIAGONAL_ADAM = "q n.g. K-FAC, Adam", "VPNG diagonal, Adam"
VPNG_KFAC, VPNG_RANK, VPNG_SGD = "VPNG K-FAC, Adam", "VPNG low rank, Adam", "VPNG K-FAC, SGD"
TOLERANCE, MOST_ITERATIONS = 1e-3, 5000
PRIOR_SD = 5.0
DRAWS = 10
"""Of the latents per step in the regression, and of outcomes per draw for its Fisher matrix, as in the paper."""
BATCH, ITERATIONS = 200, 1000
RANK, EVERY, REFRESH = 300, 4, 5
FAILED = -1e6
"""The ELBO of a run that went to infinity."""


@dataclass(slots=True)
class Run:
    """What one run reached, by step: the training objective, what is told of it, and what a step took."""

    chosen: dict[int, float] = field(default_factory=dict)
    shown: dict[int, float] = field(default_factory=dict)
    other: dict[int, float] = field(default_factory=dict)
    step_ms: float = 0.0

    def failed(self, steps: int, every: int, shown: float, other: float) -> Run:
        """Return the run, with these values where it went to infinity."""
        for step in range(0, steps + 1, every):
            self.chosen.setdefault(step, FAILED)
            self.shown.setdefault(step, shown)
            self.other.setdefault(step, other)
        return self


Runs = dict[str, dict[float, list[Run]]]
"""By arm and step size, one per seed."""


def best(runs: Mapping[float, Sequence[Run]], step: int) -> float:
    """Return the step size whose training objective is best at a step, over the seeds."""
    return max(runs, key=lambda rate: float(np.mean([each.chosen[step] for each in runs[rate]])))


def iterations(arm: str, correlation: float, seed: int) -> int:
    """Return the fewest iterations over step sizes around 2 / (smallest + largest curvature)."""
    precision, hessian = (getattr(GaussianMean(correlation, seed), name) for name in ("precision", "hessian"))
    scale = {PLAIN: torch.eye(2, dtype=torch.float64), ORDINARY: torch.diag(hessian.diagonal()),
             UNCOUPLED: torch.diag(precision.diagonal()), OURS: precision}[arm]  # fmt: skip
    curvature = torch.linalg.eigvals(torch.linalg.solve(scale, hessian)).real
    rate = float(2 / (curvature.min() + curvature.max()))
    return min(_gaussian_run(arm, GaussianMean(correlation, seed), part * rate) for part in (1.0, 0.9))


def _gaussian_run(arm: str, model: GaussianMean, rate: float) -> int:
    forms: dict[str, Form] = {PLAIN: Identity(), UNCOUPLED: Diagonal(damping=1e-12)}
    form = forms.get(arm, Exact(damping=0.0))
    optimizer = NaturalGradient(SGD(model.parameters(), lr=rate), model, form, decay=0.0, draws=Draws(kind="exact"))
    for iteration in range(1, MOST_ITERATIONS + 1):
        with optimizer.recording() as tape:
            outputs = model()
        if arm == ORDINARY:
            optimizer.observe(tape, _posterior(model.q), NormalPosterior())
        elif arm != PLAIN:
            optimizer.observe(tape, outputs, Gaussian())
        optimizer.zero_grad()
        model.loss(outputs).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if model.error() <= TOLERANCE:
            return iteration
    return MOST_ITERATIONS


def _posterior(q: MeanField) -> Tensor:
    return torch.cat([q.mean, q.log_sd])[None]


def regression_run(arm: str, rate: float, correlation: float, seed: int, steps: int) -> Run:
    """Return one run in a regression; `other` is the test AUC."""
    (inputs, labels), (test_inputs, test_labels) = regression(correlation, seed, prior_sd=PRIOR_SD)
    model, draw, found = MeanField(inputs.shape[1]), generator(100 + seed), Run()
    kind = {"AdaGrad": Adagrad, "Adam": Adam}.get(arm, SGD)
    exact = Exact(damping=DAMPING)
    forms: dict[str, Form] = {OURS: exact, ORDINARY: exact, UNCOUPLED: Diagonal(damping=DAMPING)}
    form = forms.get(arm, Identity())
    optimizer = NaturalGradient(
        kind(model.parameters(), lr=rate), model, form, decay=DECAY, draws=Draws(kind="sample", many=DRAWS)
    )
    fixed, spent = torch.randn(256, inputs.shape[1], generator=generator(7), dtype=torch.float64), 0.0

    def loss(logits: Tensor) -> Tensor:
        missed = binary_cross_entropy_with_logits(logits, labels.expand_as(logits), reduction="none").sum(1).mean()
        return missed + divergence(model.mean, model.log_sd, PRIOR_SD)

    for step in range(steps + 1):
        if step % 10 == 0:
            with torch.no_grad():
                elbo = -float(loss(model(fixed) @ inputs.T))
                chances = torch.sigmoid(model(fixed) @ test_inputs.T).mean(0)
            if not elbo > FAILED:
                return found.failed(steps, 10, FAILED, 0.5)
            found.chosen[step] = found.shown[step] = elbo
            found.other[step] = auc(test_labels.numpy(), chances.numpy())
        start = time.process_time()
        noise = torch.randn(DRAWS, inputs.shape[1], generator=draw, dtype=torch.float64)
        with optimizer.recording() as tape:
            logits = model(noise) @ inputs.T
        try:
            if arm == ORDINARY:
                optimizer.observe(tape, _posterior(model), NormalPosterior(), generator=draw)
            elif arm in (OURS, UNCOUPLED):
                optimizer.observe(tape, logits, Bernoulli(), generator=draw)
            optimizer.zero_grad()
            loss(logits).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        except NumericError:  # the step size was too large
            return found.failed(steps, 10, FAILED, 0.5)
        spent += time.process_time() - start
        found.step_ms = 1000 * spent / (step + 1)
    return found


def digits_run(arm: str, rate: float, seed: int, steps: int = ITERATIONS) -> Run:
    """Return one run on the digits; what is shown is the negative ELBO of the test images, `other` the seconds."""
    images, test_images = digits(seed)
    model, draw, found = DigitsVAE(seed), generator(100 + seed), Run()
    inner = (SGD if arm == VPNG_SGD else Adam)(model.parameters(), lr=rate)
    forms: dict[str, Form] = {"Adam": Identity(), DIAGONAL_ADAM: Diagonal(damping=DAMPING),
                              VPNG_RANK: LowRank(rank=RANK, damping=DAMPING)}  # fmt: skip
    form = forms.get(arm, Kfac(damping=DAMPING, refresh=REFRESH))
    optimizer = NaturalGradient(inner, model, form, decay=DECAY, every=EVERY if arm == VPNG_RANK else 1)
    noise, spent = torch.randn(len(images), DRAWS, LATENTS, generator=generator(7)), 0.0
    order = torch.randperm(len(images), generator=draw)
    for step in range(steps + 1):
        if step % 50 == 0:
            with torch.no_grad():
                trained, tested = -_digits_loss(model, images, noise[:, :2]), _digits_loss(model, test_images, noise)
            if not trained > FAILED:
                return found.failed(steps, 50, -FAILED, spent)
            found.chosen[step], found.shown[step], found.other[step] = trained, tested, spent
        start = time.process_time()
        order = order if len(order) >= BATCH else torch.randperm(len(images), generator=draw)
        rows, order = order[:BATCH], order[BATCH:]
        with optimizer.recording() as tape:
            q, logits = model(images[rows], torch.randn(BATCH, DRAWS, LATENTS, generator=draw))
        try:
            if optimizer.wants_observation():
                outputs, family = (q, NormalPosterior()) if arm == ORDINARY_ADAM else (logits, Bernoulli())
                optimizer.observe(tape, outputs, family, generator=draw)
            optimizer.zero_grad()
            model.loss(images[rows], q, logits).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        except NumericError:  # the step size was too large
            return found.failed(steps, 50, -FAILED, spent)
        spent += time.process_time() - start
        found.step_ms = 1000 * spent / (step + 1)
    return found


def _digits_loss(model: DigitsVAE, images: Tensor, noise: Tensor) -> float:
    """Return the negative ELBO per image, over given draws (B, S, L)."""
    return float(model.loss(images, *model(images, noise[: len(images)])))
