"""The claims of the variational predictive natural gradient, measured: L4, L5 and L6, with what a step costs.

Every arm has several step sizes; the one that does best on the *training* objective is shown. `card.md` says what the
paper claims, what the settings are and what came out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from headrace.evaluate import ClaimRecord, ClaimTable, Estimate, Goal, Plot, mean_over_seeds, run_size
from headrace.evaluate.claims import render_tables
from headrace.papers.vpng.recipe import digits
from headrace.papers.vpng.trials import (
    DIAGONAL_ADAM,
    FAILED,
    ITERATIONS,
    ORDINARY,
    ORDINARY_ADAM,
    OURS,
    PLAIN,
    UNCOUPLED,
    VPNG_KFAC,
    VPNG_RANK,
    VPNG_SGD,
    Run,
    Runs,
    best,
    digits_run,
    iterations,
    regression_run,
)

_log = logging.getLogger(__name__)

SEEDS = (0, 1, 2, 3, 4, 5)
FEW_SEEDS = SEEDS[:3]
CORRELATIONS = (0.5, 0.9, 0.99)


def run(size: str) -> dict[str, object]:
    """Measure at one size and return the result object, with its tables.

    Raises:
        ConfigError: For a size that this paper does not have.
        DataError: If scikit-learn, which brings the digits, is not installed.
    """
    return run_size(size, {"toy": toy, "small": small})


def render(result: Mapping[str, object]) -> str:
    """Return the tables as text."""
    return render_tables(result)


def toy(record: ClaimRecord) -> dict[str, object]:
    """The Gaussian at its hardest, and 50 steps of the regression with one step size per arm."""
    gaussian(record, CORRELATIONS[-1:], FEW_SEEDS, arms=(PLAIN, OURS))
    bayesian_regression(record, CORRELATIONS[-1:], FEW_SEEDS, TOY_RATES, steps=50, least=8.0)  # of half the seeds
    return {"seeds": list(FEW_SEEDS)}


def small(record: ClaimRecord) -> dict[str, object]:
    """All three experiments."""
    gaussian(record, CORRELATIONS, FEW_SEEDS)
    bayesian_regression(record, (0.0, 0.9, 0.99), SEEDS, RATES)
    autoencoder(record, FEW_SEEDS)
    return {"seeds": list(SEEDS), "gaussian_seeds": list(FEW_SEEDS), "digits_seeds": list(FEW_SEEDS)}


# L4 ------------------------------------------------------------------------------------------------------------------


def gaussian(
    record: ClaimRecord, correlations: Sequence[float], seeds: Sequence[int],
    arms: Sequence[str] = (PLAIN, ORDINARY, UNCOUPLED, OURS),
) -> None:  # fmt: skip
    """Count iterations until the mean of q is right to one in a thousand, at the best constant step size."""
    rows = []
    for correlation in correlations:
        for arm in arms:
            start = time.process_time()
            counts = [float(iterations(arm, correlation, seed)) for seed in seeds]
            found, each_us = mean_over_seeds(counts), 1e6 * (time.process_time() - start) / sum(counts)
            goal = None
            if correlation == CORRELATIONS[-1]:
                goal = {PLAIN: Goal(">=", 500), OURS: Goal("<=", 2)}.get(arm)
            record.add(f"L4_iterations/{_slug(arm)}_{correlation}", found, unit="iterations", goal=goal)
            rows.append((f"{correlation}", arm, f"{found.value:.1f}", f"{found.spread:.1f}", f"{each_us:.0f}"))
            _log.info("L4, correlation %s, %s: %.1f", correlation, arm, found.value)
    record.tables.append(ClaimTable(
        "L4. Mean of a bivariate Gaussian: iterations to a relative error of 0.001",
        ("correlation", "method", "iterations", "spread", "µs per iteration"), tuple(rows),
        (f"{len(seeds)} seeds, full gradients, no damping; each method at the constant step size that is best for its",
         "worst direction, or 0.9 of it where that is faster. Diagonal: VPNG without the coupling."),
    ))  # fmt: skip


# L5 ------------------------------------------------------------------------------------------------------------------

RATES: dict[str, tuple[float, ...]] = {
    "SGD": (0.0001, 0.0003, 0.001, 0.003, 0.01), "AdaGrad": (0.1, 0.3, 1.0, 3.0, 10.0),
    "Adam": (0.03, 0.1, 0.3, 1.0, 3.0), ORDINARY: (0.001, 0.003, 0.01, 0.03, 0.1),
    UNCOUPLED: (0.01, 0.03, 0.1, 0.3), OURS: (0.01, 0.03, 0.1, 0.3),
}  # fmt: skip
TOY_RATES = {"Adam": (0.3, 1.0), ORDINARY: (0.001, 0.003), UNCOUPLED: (0.1,), OURS: (0.03, 0.1)}
CHECKED = (20, 50, 200)


def bayesian_regression(
    record: ClaimRecord, correlations: Sequence[float], seeds: Sequence[int], rates: Mapping[str, Sequence[float]],
    steps: int = 200, least: float = 15.0,
) -> None:  # fmt: skip
    """Every arm in logistic regressions with correlated inputs; VPNG is to lead by `least` nats at the highest one."""
    rows = []
    for correlation in correlations:
        runs: Runs = {arm: {rate: [] for rate in given} for arm, given in rates.items()}
        for arm, given in rates.items():
            for rate in given:
                runs[arm][rate] = [regression_run(arm, rate, correlation, seed, steps) for seed in seeds]
            _log.info("L5, correlation %s, %s: %s", correlation, arm,
                      {rate: round(float(np.mean([one.shown[50] for one in found])), 1)
                       for rate, found in runs[arm].items()})  # fmt: skip
        start = [one.shown[0] for one in runs[OURS][rates[OURS][0]]]
        rows.append((f"{correlation}", "no step", *_flat(start), "", "", ""))
        rows += [(f"{correlation}", arm, *_regression_cells(runs[arm], steps)) for arm in rates]
        _regression_figures(record, correlation, runs, least)
        if correlation == CORRELATIONS[-1]:
            record.plots.append(_lines(
                f"Bayesian logistic regression, input correlation {correlation}", "ELBO, nats",
                {arm: found[best(found, 50)] for arm, found in runs.items()},
            ))  # fmt: skip
    record.tables.append(ClaimTable(
        "L5. Bayesian logistic regression, 200 rows, 10 equicorrelated inputs: ELBO in nats",
        ("correlation", "method", "at 20", "at 50", "at 200", "spread at 50", "test AUC", "step size", "ms per step"),
        tuple(rows),
        (f"{len(seeds)} seeds. Each cell at the step size whose ELBO is best there; the step size shown is that at 50.",
         "AUC after the last step. Diagonal: VPNG without the coupling."),
    ))  # fmt: skip


def _flat(values: Sequence[float], digits: int = 1) -> tuple[str, ...]:
    """Return cells of an arm that stays where it is."""
    return (*[f"{np.mean(values):.{digits}f}"] * len(CHECKED), f"{mean_over_seeds(values).spread:.{digits}f}")


def _regression_cells(runs: Mapping[float, Sequence[Run]], steps: int) -> tuple[str, ...]:
    cells = []
    for step in CHECKED:
        cells.append(f"{np.mean([one.shown[step] for one in runs[best(runs, step)]]):.1f}" if step <= steps else "")
    at, last = best(runs, 50), best(runs, steps)
    spread = mean_over_seeds([one.shown[50] for one in runs[at]]).spread
    scored, spent = (float(np.mean(each)) for each in ([one.other[steps] for one in runs[last]],
                                                        [one.step_ms for one in runs[at]]))  # fmt: skip
    return (*cells, f"{spread:.1f}", f"{scored:.3f}", f"{at:g}", f"{spent:.2f}")


def _regression_figures(record: ClaimRecord, correlation: float, runs: Runs, least: float) -> None:
    """Record the lead of VPNG at 50 steps over every other arm, and over the best of them, paired by seed."""
    reached = {arm: [one.shown[50] for one in found[best(found, 50)]] for arm, found in runs.items()}
    others = {arm: values for arm, values in reached.items() if arm not in (OURS, UNCOUPLED)}
    strongest = max(others, key=lambda arm: float(np.mean(others[arm])))
    reached["best_baseline"] = others[strongest]
    for arm, values in reached.items():
        if arm != OURS:
            goal = Goal(">=", least) if arm == "best_baseline" and correlation == CORRELATIONS[-1] else None
            lead = mean_over_seeds([own - theirs for own, theirs in zip(reached[OURS], values, strict=True)])
            record.add(f"L5_elbo_lead_at_50/{_slug(arm)}_{correlation}", lead, unit="nats", goal=goal)


# L6 ------------------------------------------------------------------------------------------------------------------

GOALS = {300: Goal(">=", 0.3), 1000: None}
"""Nats ahead of Adam, by iteration. The goal at 1,000, 0.2, was not reproduced; see the card."""
OUR_ARMS = (VPNG_KFAC, VPNG_SGD, VPNG_RANK)
DIGIT_RATES: dict[str, tuple[float, ...]] = {
    "Adam": (0.003, 0.006, 0.01, 0.02), ORDINARY_ADAM: (0.003, 0.01), DIAGONAL_ADAM: (0.003, 0.01),
    VPNG_KFAC: (0.003, 0.01), VPNG_SGD: (0.03,), VPNG_RANK: (0.005, 0.01),
}  # fmt: skip


def autoencoder(record: ClaimRecord, seeds: Sequence[int]) -> None:
    """Negative ELBO of the digits' test images, by iteration and at equal time."""
    runs: Runs = {arm: {rate: [] for rate in given} for arm, given in DIGIT_RATES.items()}
    for arm, given in DIGIT_RATES.items():
        for rate in given:
            runs[arm][rate] = found = [digits_run(arm, rate, seed) for seed in seeds]
            reached = {at: round(float(np.mean([one.shown[at] for one in found])), 2) for at in (100, 300, 1000)}
            _log.info("L6, %s at %s: %s", arm, rate, reached)
    flat = [_pixels_alone(*digits(seed)) for seed in seeds]
    rows: list[tuple[str, ...]] = [("pixels alone", *_flat(flat, 2), "", "", "", "")]
    rows += [(arm, *_digit_cells(found)) for arm, found in runs.items()]
    record.tables.append(ClaimTable(
        "L6. Variational autoencoder of 8 x 8 digits: negative ELBO of test images in nats",
        ("method", "at 300", "at 600", "at 1000", "spread", "trained", "step size", "ms per step", "seconds"),
        tuple(rows),
        (f"{len(seeds)} seeds. Each cell at the step size whose ELBO of the training images is best there; shown: that",
         "at 1000. Spread at 1000. Trained: of the training images at 1000. Processor time of one core, to 1000.",
         "Pixels alone: no latents, each pixel at its own rate."),
    ))  # fmt: skip
    _digit_figures(record, runs)
    record.plots.insert(0, _lines(
        "Digits: negative ELBO of test images", "nats per image",
        {arm: found[best(found, ITERATIONS)] for arm, found in runs.items()}, start=100,
    ))  # fmt: skip


def _digit_cells(runs: Mapping[float, Sequence[Run]]) -> tuple[str, ...]:
    cells = [f"{np.mean([one.shown[at] for one in runs[best(runs, at)]]):.2f}" for at in (300, 600, 1000)]
    rate = best(runs, ITERATIONS)
    spread = mean_over_seeds([one.shown[ITERATIONS] for one in runs[rate]]).spread
    each_ms, trained = (float(np.mean(each)) for each in ([one.step_ms for one in runs[rate]],
                                                          [-one.chosen[ITERATIONS] for one in runs[rate]]))  # fmt: skip
    return (
        *cells,
        f"{spread:.2f}",
        f"{trained:.2f}",
        f"{rate:g}",
        f"{each_ms:.1f}",
        f"{each_ms * ITERATIONS / 1000:.1f}",
    )


def _digit_figures(record: ClaimRecord, runs: Runs) -> None:
    """Record leads over Adam, paired by seed: at equal iterations, and at the time that Adam needs for all of them."""
    for at, goal in GOALS.items():
        at_best = {arm: found[best(found, at)] for arm, found in runs.items()}
        leads = {
            arm: [theirs.shown[at] - own.shown[at] for own, theirs in zip(found, at_best["Adam"], strict=True)]
            for arm, found in at_best.items() if arm != "Adam"
        }  # fmt: skip
        trained = {arm: float(np.mean([one.chosen[at] for one in at_best[arm]])) for arm in OUR_ARMS}
        ours = max(trained, key=trained.__getitem__)
        record.add(f"L6_nats_ahead_of_adam/vpng_at_{at}", mean_over_seeds(leads[ours]), unit="nats", goal=goal)
        ahead = [own.chosen[at] - theirs.chosen[at] for own, theirs in zip(at_best[ours], at_best["Adam"], strict=True)]
        record.add(f"L6_training_nats_ahead_of_adam/vpng_at_{at}", mean_over_seeds(ahead), unit="nats")
        for arm, lead in leads.items():
            record.add(f"L6_nats_ahead_of_adam/{_slug(arm)}_at_{at}", mean_over_seeds(lead), unit="nats")
    late = []
    last, plainly = (runs[arm][best(runs[arm], ITERATIONS)] for arm in (VPNG_KFAC, "Adam"))
    for own, plain in zip(last, plainly, strict=True):
        reached = max(at for at in own.shown if own.other[at] <= plain.other[ITERATIONS])
        late.append(plain.shown[ITERATIONS] - own.shown[reached])
    record.add("L6_nats_ahead_of_adam/vpng_k_fac_adam_at_equal_time", mean_over_seeds(late), unit="nats")
    for arm, found in runs.items():
        times = mean_over_seeds([one.step_ms for one in found[best(found, ITERATIONS)]])
        record.add(f"L6_ms_per_step/{_slug(arm)}", times, unit="ms")


def _pixels_alone(images: Tensor, test_images: Tensor) -> float:
    rates = (images.mean(0) * len(images) + 1) / (len(images) + 2)
    return -float((test_images * rates.log() + (1 - test_images) * (1 - rates).log()).sum(1).mean())


# ---------------------------------------------------------------------------------------------------------------------


def _lines(title: str, label: str, runs: Mapping[str, Sequence[Run]], start: int = 0) -> Plot:
    lines, bands = {}, {}
    for arm, found in runs.items():
        steps = [step for step in found[0].shown if step >= start and all(one.chosen[step] > FAILED for one in found)]
        means = [mean_over_seeds([one.shown[step] for one in found]) for step in steps]
        lines[arm] = ([float(step) for step in steps], [mean.value for mean in means])
        bands[arm] = ([_end(mean.low, mean) for mean in means], [_end(mean.high, mean) for mean in means])
    return Plot(title=title, x_label="iterations", y_label=label, lines=lines, bands=bands)


def _end(value: float | None, mean: Estimate) -> float:
    return mean.value if value is None else value


def _slug(name: str) -> str:
    return name.lower().replace(", ", "_").replace(".", "").replace(" ", "_").replace("-", "_")
