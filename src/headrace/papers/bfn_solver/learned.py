"""Learned denoisers sampled from in every way: quality against the number of evaluations, on digits and on text."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from headrace.evaluate import ClaimTable, Plot
from headrace.evaluate.claims import Floats
from headrace.nn import BayesianFlow
from headrace.papers.bfn_solver.measures import DigitFeatures, Reference, share_of_words, written
from headrace.papers.bfn_solver.recipe import SIGMAS, WINDOW, Size, digit_model, learn, text_model
from headrace.papers.bfn_solver.sets import ALPHABET, codes, digits, text
from headrace.serve import Move, OneNoise, SamplerConfig, Step, sample
from headrace.serve.samplers import step_of

_log = logging.getLogger(__name__)

DIGIT_ARMS = ("original", "sde2", "ode1", "ode2", "ode2, permuted", "original, around zero", "ode2, around zero")
TEXT_ARMS = ("original", "sde1", "sde2", "ode1", "ode2", "ode2, permuted")
FEATURE_STEPS = 1500
Judge = Callable[[Tensor], float]


def permuted(step: Step) -> Step:
    """Return a step whose guess before is that of another sample: what second order gains must be gone with it."""

    def mixed(flow: object, move: Move) -> Tensor:
        before = None if move.previous is None else move.previous.roll(1, 0)
        return step(flow, replace(move, previous=before))  # type: ignore[arg-type]

    return mixed


@dataclass(slots=True)
class Curves:
    """Quality of samples by arm, one row per seed and one column per number of evaluations; less is better.

    Attributes:
        name: Of the data.
        title, unit: What is measured.
        few, many: Evaluations; the original sampler has both.
        sign: -1 where the shown quality is better the higher it is.
        values: Arm -> seeds -> evaluations.
        lines: Rows of the table for what is no sampler: name and value.
        notes: Below the table.
        seconds: Arm -> seconds of all its evaluations, and how many there were.
    """

    name: str
    title: str
    unit: str
    few: Sequence[int]
    many: Sequence[int]
    sign: float = 1.0
    values: dict[str, list[list[float]]] = field(default_factory=dict)
    lines: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def gain(self, arm: str, count: int) -> Floats:
        """Return by how much an arm is better than the original at equal evaluations, one value per seed."""
        at = list(self.few).index(count)
        return np.array([ours[at] - theirs[at] for ours, theirs in zip(self.values["original"], self.values[arm],
                                                                       strict=True)])  # fmt: skip

    def spared(self, arm: str, count: int) -> Floats:
        """Return how many times more evaluations the original takes to be as good as an arm, one value per seed.

        Between measured numbers of evaluations its quality is taken to go in a straight line over their logs. Where it
        is not as good at its last one, that one is taken: the truth is more.
        """
        at, grid = list(self.few).index(count), [*self.few, *self.many]
        found = []
        for ours, theirs in zip(self.values[arm], self.values["original"], strict=True):
            need = float(grid[-1])
            if theirs[0] <= ours[at]:
                need = float(grid[0])
            else:
                for place in range(1, len(grid)):
                    if theirs[place] <= ours[at]:
                        share = (theirs[place - 1] - ours[at]) / (theirs[place - 1] - theirs[place])
                        need = math.exp((1 - share) * math.log(grid[place - 1]) + share * math.log(grid[place]))
                        break
            found.append(need / count)
        return np.array(found)

    def table(self) -> ClaimTable:
        """Return mean ± sd over seeds of every arm."""
        grid, rows = [*self.few, *self.many], []
        for arm, values in self.values.items():
            spent, calls = self.seconds[arm]
            shown = [f"{self.sign * column.mean():.3g} ± {column.std(ddof=1):.2g}" for column in np.array(values).T]
            times = ", ".join(f"{self.spared(arm, count).mean():.1f}" for count in self.few[:3])
            rows.append((arm, *shown, *[""] * (len(grid) - len(shown)), times, f"{1000 * spent / calls:.0f}"))
        rows += [(name, f"{np.mean(values):.3g}", *[""] * (len(grid) + 1)) for name, values in self.lines.items()]
        spared = f"spared at {', '.join(str(count) for count in self.few[:3])}"
        return ClaimTable(self.title, ("sampler", *(str(count) for count in grid), spared, "ms each"), tuple(rows),
                          tuple(self.notes))  # fmt: skip

    def plot(self) -> Plot:
        """Return quality against evaluations, with one sd over seeds."""
        lines, bands = {}, {}
        for arm in ("original", "sde2", "ode1", "ode2"):
            values = self.sign * np.array(self.values[arm])
            mean, spread = values.mean(0), values.std(0, ddof=1)
            lines[arm] = ([float(n) for n in [*self.few, *self.many][: len(mean)]], mean.tolist())
            bands[arm] = ((mean - spread).tolist(), (mean + spread).tolist())
        return Plot(title=self.title, x_label="evaluations", y_label=self.unit, lines=lines, bands=bands, log_x=True)


def measure(model: BayesianFlow, judges: Sequence[tuple[Curves, Judge]], arms: Sequence[str], *, rows: int,
            seed: int) -> None:  # fmt: skip
    """Sample from a learned model in every way and add what the judges think of it, each to curves of its own."""
    first = judges[0][0]
    for arm in arms:
        grid = [*first.few, *first.many] if arm == "original" else first.few
        begin = time.process_time()
        drawn = [draw(model, arm, count, rows=rows, seed=1000 + seed) for count in grid]
        spent = time.process_time() - begin
        for curves, judge in judges:
            curves.values.setdefault(arm, []).append([judge(one) for one in drawn])
            total = curves.seconds.setdefault(arm, [0.0, 0.0])
            total[0], total[1] = total[0] + spent, total[1] + sum(grid)
            _log.info("%s, seed %d, %s: %s", curves.name, seed, arm, np.round(curves.values[arm][-1], 3).tolist())


def draw(model: BayesianFlow, arm: str, evaluations: int, *, rows: int, seed: int) -> Tensor:
    """Return samples of one arm."""
    method = arm.split(",")[0]
    step = permuted(step_of(model.flow, method)) if arm.endswith("permuted") else None
    config = SamplerConfig(method=method, evaluations=evaluations, matched=not arm.endswith("zero"))
    moments = (model.get_buffer("mean"), float(model.get_buffer("variance")))
    return sample(model.asked(None), model.flow, (rows, *model.state_shape), OneNoise(seed), config, moments=moments,
                  step=step).values  # fmt: skip


def learned_digits(
    name: str, size: Size, *, seeds: Sequence[int], few: Sequence[int], many: Sequence[int], rows: int
) -> tuple[Curves, Curves]:
    """Learn digits anew for every seed, and compare samples with the test images, and with the network's own limit.

    `name` is one of `SIGMAS`.
    """
    title = f"MNIST, 14 x 14, sigma {SIGMAS[name]:.2g}: Fréchet distance of samples from "
    curves = Curves(name, title + "the test images", "Fréchet distance", few, many)
    limit = Curves(f"{name}_own", title + "the network's own limit", "Fréchet distance", few, many)
    (images, labels), (others, _) = digits("train"), digits("test")
    features = DigitFeatures()
    accuracy = features.fit(images, labels, steps=FEATURE_STEPS)
    real, chance, taught = Reference.of(features.of(others)), np.random.default_rng(0), []
    for seed in seeds:
        model, begin = digit_model(size, seed, images, name), time.process_time()
        losses = learn(model, images, size, seed)
        taught.append(time.process_time() - begin)
        _log.info("%s, seed %d: loss %.4f in %.0f s", name, seed, np.mean(losses[-100:]), taught[-1])
        own = Reference.of(features.of(draw(model.eval(), "original", many[-1], rows=rows, seed=5000 + seed)))
        judges = [(one, _judge(features, reference)) for one, reference in ((curves, real), (limit, own))]
        measure(model, judges, DIGIT_ARMS, rows=rows, seed=seed)
        _digit_lines(judges, images, rows, chance)
    curves.notes += [
        f"{len(seeds)} seeds, a network each ({np.mean(taught):.0f} s), {rows:,} samples. In 32 features of a network",
        f"that tells digits apart ({accuracy:.1%}). Normal: of the mean and covariance of the training images.",
        "Spared: evaluations that the original sampler takes to be as good, in multiples.",
    ]
    limit.notes.append(f"The limit: other samples of the same network by the original sampler, {many[-1]} evaluations.")
    return curves, limit


def _judge(features: DigitFeatures, reference: Reference) -> Judge:
    return lambda drawn: reference.distance(features.of(drawn))


def _digit_lines(
    judges: Sequence[tuple[Curves, Judge]], images: Tensor, rows: int, chance: np.random.Generator
) -> None:
    """Add what is no sampler: real images, and what is drawn with no network."""
    picked = images[torch.from_numpy(chance.integers(0, len(images), rows))]
    pixels = torch.stack([one[torch.from_numpy(chance.permutation(rows))] for one in picked.T], 1)
    normal = torch.from_numpy(chance.multivariate_normal(images.mean(0), torch.cov(images.T), rows)).float()
    for name, drawn in (("training images", picked), ("pixels by themselves", pixels), ("normal", normal)):
        for curves, judge in judges:
            curves.lines.setdefault(name, []).append(judge(drawn.clamp(-1, 1)))


def learned_text(size: Size, *, seeds: Sequence[int], few: Sequence[int], many: Sequence[int], rows: int) -> Curves:
    """Learn windows of Shakespeare anew for every seed, and look whether samples are made of words."""
    curves = Curves("text", "Shakespeare, 32 characters: share of whole words that are words", "share of words",
                    few, many, sign=-1.0)  # fmt: skip
    learned, held_out = text()
    known, data = set(learned.split()), codes(learned)
    chance, taught = np.random.default_rng(0), []
    shares = torch.bincount(data, minlength=len(ALPHABET)).double().numpy()
    for seed in seeds:
        model, begin = text_model(size, seed, data), time.process_time()
        losses = learn(model, data, size, seed)
        taught.append(time.process_time() - begin)
        _log.info("text, seed %d: loss %.4f in %.0f s", seed, np.mean(losses[-100:]), taught[-1])
        judges: list[tuple[Curves, Judge]] = [(curves, lambda drawn: -share_of_words(written(drawn), known))]
        measure(model.eval(), judges, TEXT_ARMS, rows=rows, seed=seed)
        starts = chance.integers(0, len(held_out) - WINDOW, rows)
        letters = chance.choice(list(ALPHABET), (rows, WINDOW), p=shares / shares.sum())
        for name, drawn in (("held-out text", [held_out[at : at + WINDOW] for at in starts]),
                            ("letters by themselves", ["".join(row) for row in letters])):  # fmt: skip
            curves.lines.setdefault(name, []).append(share_of_words(drawn, known))
    curves.notes += [
        f"{len(seeds)} seeds, a network each ({np.mean(taught):.0f} s), {rows:,} samples. Words: those of the text",
        "that was learned. Spared: evaluations that the original sampler takes to be as good, in multiples.",
    ]
    return curves
