"""What the solvers' paper claims, measured: orders and samples where the best denoiser is known, then learned ones.

B1 asks for orders of convergence, and which sampler is best with few evaluations, in worlds whose denoiser is exact.
Then digits and text: quality against evaluations, and how many evaluations are spared. `card.md` has the whole story.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from headrace.evaluate import ClaimRecord, ClaimTable, Goal, Plot, mean_over_seeds, run_size
from headrace.evaluate.claims import Floats, render_tables
from headrace.papers.bfn_solver.learned import Curves, learned_digits, learned_text, permuted
from headrace.papers.bfn_solver.recipe import SIGMAS, Size
from headrace.papers.bfn_solver.worlds import Markov, Mixture, released_euler
from headrace.serve import OneNoise, SamplerConfig, sample, walk
from headrace.serve.samplers import first_state, step_of

_log = logging.getLogger(__name__)

SEEDS = (0, 1, 2)
STEPS = (10, 20, 40, 80, 160, 320)
"""Steps of the walks whose errors give the orders; the last three doublings count."""
EXACT_STEPS, STARTS = 1280, 2048
STAY = 0.6
"""Share of the sticky chain's chances that stays at the class before."""
DIGITS, TEXT = Size(width=256, blocks=2, steps=2000, rate=3e-3), Size(width=64, blocks=2, steps=400, rows=64, rate=3e-3)
FEW = (5, 10, 20, 50)
DIGIT_MANY, TEXT_FEW, TEXT_MANY = (100, 200), (5, 10, 20), (50, 100)
"""Evaluations; at `many` only the original sampler is measured."""
CHAIN_ROWS, NUMBER_ROWS = 10_000, 20_000


def run(size: str) -> dict[str, object]:
    """Measure at one size and return the result object, with its tables.

    Raises:
        ConfigError: For a size that this paper does not have.
        DataError: If a data file is missing; names it.
    """
    return run_size(size, {"toy": toy, "small": small})


def render(result: Mapping[str, object]) -> str:
    """Return the tables as text."""
    return render_tables(result)


def toy(record: ClaimRecord) -> dict[str, object]:
    """Orders, and few samples of the exact worlds: seconds, no data needed."""
    orders(record, steps=STEPS[1:5], exact_steps=640)
    chains(record, evaluations=(5,), rows=3000)
    numbers(record, evaluations=(10,), rows=2000)
    return {"seeds": list(SEEDS), "rows": 3000}


def small(record: ClaimRecord) -> dict[str, object]:
    """Learned digits and text first, for their plots stand first; then orders and samples of the exact worlds."""
    fine, coarse = (learned_digits(name, DIGITS, seeds=SEEDS, few=FEW, many=DIGIT_MANY, rows=500) for name in SIGMAS)
    words = learned_text(TEXT, seeds=SEEDS, few=TEXT_FEW, many=TEXT_MANY, rows=200)
    quality(record, fine[0], words, fine[1], *coarse)
    orders(record, steps=STEPS, exact_steps=EXACT_STEPS)
    chains(record, evaluations=(5, 10, 20), rows=CHAIN_ROWS)
    numbers(record, evaluations=FEW, rows=NUMBER_ROWS, many=DIGIT_MANY)
    return {"seeds": list(SEEDS), "digits": str(DIGITS), "text": str(TEXT), "stay": STAY, "chain_rows": CHAIN_ROWS,
            "number_rows": NUMBER_ROWS}  # fmt: skip


# exact worlds --------------------------------------------------------------------------------------------------------


def orders(record: ClaimRecord, *, steps: Sequence[int], exact_steps: int) -> None:
    """How errors of the ODE solvers fall with the length of steps, from time 0.1 to 0.9."""
    methods = {"ode_euler": "Euler", "ode1": "order_1", "ode2": "order_2", "permuted": "order_2_permuted"}
    errors: dict[str, list[Floats]] = {method: [] for method in methods}
    for seed in SEEDS:
        world = Mixture(seed)
        start = first_state(world.flow, (STARTS, 1), 0.1, OneNoise(seed), dtype=torch.float64)

        def end(method: str, count: int, world: Mixture = world, start: torch.Tensor = start) -> torch.Tensor:
            times = np.linspace(0.1, 0.9, count + 1).tolist()
            second = step_of(world.flow, "ode2")
            step = permuted(second) if method == "permuted" else step_of(world.flow, method)
            return walk(world, world.flow, start, times, step, OneNoise(0))[0]

        exact = end("ode2", exact_steps)
        for method, found in errors.items():
            found.append(np.array([float((end(method, count) - exact).abs().mean()) for count in steps]))
        _log.info("orders, seed %d: %s", seed, {method: found[-1].tolist() for method, found in errors.items()})
    cells, lines = [], {}
    for method, name in methods.items():
        slopes = np.log2(np.array(errors[method])[:, :-1] / np.array(errors[method])[:, 1:])[:, -3:]
        least = None if method == "permuted" else Goal(">=", 1.7 if method == "ode2" else 0.8)
        lowest, highest = (mean_over_seeds(part(slopes, axis=1)) for part in (np.min, np.max))
        record.add(f"B1_slope/{name}", lowest, unit="order", goal=least)
        most = None if method == "ode2" else Goal("<=", 1.2)
        record.add(f"B1_slope_largest/{name}", highest, unit="order", goal=most)
        mean = np.mean(errors[method], axis=0)
        lines[name] = ([float(count) for count in steps], [float(error) for error in mean])
        cells.append((name, *(f"{error:.2e}" for error in mean), f"{lowest.value:.2f} to {highest.value:.2f}"))
    record.tables.append(ClaimTable(
        "B1. ODE from time 0.1 to 0.9, three-component mixtures, exact denoiser: mean error after so many steps",
        ("solver", *(str(count) for count in steps), "slopes"), tuple(cells),
        (f"{len(SEEDS)} seeds, each a mixture of its own. Slopes: smallest and largest of the last three doublings.",
         f"{STARTS:,} starts, against {exact_steps:,} steps of order 2. Permuted: with another sample's guess before."),
    ))  # fmt: skip
    record.plots.append(Plot(title="Error of the ODE solvers, exact denoiser", x_label="steps", y_label="mean error",
                             lines=lines, log_x=True, log_y=True))  # fmt: skip


CHAIN_ARMS = ("original", "sde_euler", "sde1", "sde2", "ode_euler", "ode1", "ode2")


def chains(record: ClaimRecord, *, evaluations: Sequence[int], rows: int) -> None:
    """Samples of Markov chains of length four: total variation from the chain, with few evaluations."""
    cells = []
    for name, stay in (("sticky", STAY), ("loose", 0.0)):
        found: dict[str, list[list[float]]] = {arm: [] for arm in (*CHAIN_ARMS, "ode2, permuted", "Euler as released")}
        floors, seconds = [], dict.fromkeys(found, 0.0)
        for seed in SEEDS:
            world = Markov(seed, stay=stay)
            for arm, values in found.items():
                step = {"ode2, permuted": permuted(step_of(world.flow, "ode2")), "Euler as released": released_euler}
                method, begin = arm if arm in CHAIN_ARMS else "ode2", time.process_time()
                values.append([
                    world.total_variation(sample(
                        world, world.flow, (rows, 4, 3), OneNoise(seed),
                        SamplerConfig(method=method, evaluations=count), step=step.get(arm),
                    ).values) for count in evaluations
                ])  # fmt: skip
                seconds[arm] += time.process_time() - begin
            floors.append(world.floor(rows, seed))
            _log.info("%s chain, seed %d: %s", name, seed, {arm: values[-1] for arm, values in found.items()})
        _chain_figures(record, name, {arm: np.array(values)[:, 0] for arm, values in found.items()})
        each = sum(evaluations) * len(SEEDS)
        cells += [(name, arm, *_thousandths(np.array(values)), f"{1000 * seconds[arm] / each:.1f}")
                  for arm, values in found.items()]  # fmt: skip
        cells.append((name, "drawn from the chain", *[f"{1000 * np.mean(floors):.1f}"] * len(evaluations), ""))
    record.tables.append(ClaimTable(
        "B1. Sequences of four of three classes, exact denoiser: total variation from the truth, x 1000",
        ("chain", "sampler", *(f"{count} evaluations" for count in evaluations), "ms per evaluation"), tuple(cells),
        (f"{len(SEEDS)} seeds, each a chain of its own, {rows:,} samples. Sticky: {STAY:.0%} of the chances stay at",
         "the class before. Permuted: the guess before is of another sample. As released: returns logits, no state."),
    ))  # fmt: skip


def _chain_figures(record: ClaimRecord, chain: str, found: Mapping[str, Floats]) -> None:
    """Differences at the fewest evaluations. Which sampler is best has a goal in both chains, the rest in one.

    First order of ODE and SDE have none: they are not told apart with these samples (see the card).
    """
    sticky = chain == "sticky"
    order = [("ode2", "ode1", True), ("ode2", "sde2", True), ("ode2", "sde1", True), ("ode2", "original", True),
             ("ode1", "sde1", False), ("sde2", "sde1", sticky), ("sde1", "original", sticky),
             ("ode2", "ode2, permuted", False), ("sde_euler", "Euler as released", True)]  # fmt: skip
    for better, worse, wanted in order:
        name = worse.lower().replace(", ", "_").replace(" ", "_")
        record.add(f"B1_discrete_5/{better}_minus_{name}/{chain}", mean_over_seeds(found[better] - found[worse]),
                   unit="total variation", goal=Goal("<=", 0.0) if wanted else None)  # fmt: skip


def numbers(record: ClaimRecord, *, evaluations: Sequence[int], rows: int, many: Sequence[int] = ()) -> None:
    """Samples of mixtures: distance of sorted samples from the quantiles, begun around zero and with true moments.

    With true moments the original sampler is also measured at `many` evaluations, to see how many are spared.
    """
    arms = [(method, matched) for method in ("original", "sde_euler", "sde2", "ode1", "ode2")
            for matched in (False, True)]  # fmt: skip
    found: dict[tuple[str, bool], list[list[float]]] = {arm: [] for arm in arms}
    floors, apart = [], []
    for seed in SEEDS:
        world = Mixture(seed)
        truth = world.quantiles(rows)
        for (method, matched), values in found.items():
            drawn = [sample(world, world.flow, (rows, 1), OneNoise(seed), moments=world.moments(),
                            config=SamplerConfig(method=method, evaluations=count, matched=matched)).values[:, 0]
                     for count in (*evaluations, *(many if method == "original" and matched else ()))]  # fmt: skip
            values.append([float(np.abs(np.sort(one.double().numpy()) - truth).mean()) for one in drawn])
        draw = np.random.default_rng(seed)
        picked = draw.choice(3, rows, p=(world.weights / world.weights.sum()).numpy())
        own = world.means.numpy()[picked] + world.deviations.numpy()[picked] * draw.normal(size=rows)
        floors.append(float(np.abs(np.sort(own) - truth).mean()))
        pair = [sample(world, world.flow, (64, 1), OneNoise(seed), SamplerConfig(method=method, evaluations=10)).values
                for method in ("original", "sde1")]  # fmt: skip
        apart.append(float((pair[0] - pair[1]).abs().max()))
    at = list(evaluations).index(10)
    record.add("original_minus_sde1/same_noise", mean_over_seeds(apart), unit="largest", goal=Goal("<=", 1e-3))
    curves = Curves("mixtures", "", "distance", evaluations, many, values={arm: found[arm, True] for arm, _ in arms})
    for solver in ("ode2", "sde2"):
        for count in evaluations[:3] if many else ():
            spared = mean_over_seeds(curves.spared(solver, count))
            record.add(f"B1_speedup_{count}/mixtures_{solver}", spared, unit="times fewer evaluations")
        ratio = np.array(found[solver, True])[:, at] / np.array(found["original", True])[:, at]
        record.add(f"B1_w1_10/{solver}_over_original", mean_over_seeds(ratio), unit="of its distance")
    record.tables.append(ClaimTable(
        "Mixtures, exact denoiser: Wasserstein distance of samples from the truth, x 1000",
        ("sampler", "begins", *(str(count) for count in (*evaluations, *many))),
        (*((method, "with true moments" if matched else "around zero", *_thousandths(np.array(values)),
            *[""] * (len(evaluations) + len(many) - len(values[0]))) for (method, matched), values in found.items()),
         ("drawn from the mixture", "", *[f"{1000 * np.mean(floors):.1f}"] * (len(evaluations) + len(many)))),
        (f"{len(SEEDS)} seeds, {rows:,} samples. The original sampler and sde1 are the same, up to rounding.",),
    ))  # fmt: skip


def _thousandths(values: Floats) -> list[str]:
    """Return means ± sd over seeds (seeds, columns), times a thousand."""
    return [f"{1000 * column.mean():.1f} ± {1000 * column.std(ddof=1):.1f}" for column in values.T]


# learned denoisers ---------------------------------------------------------------------------------------------------


def quality(record: ClaimRecord, *found: Curves) -> None:
    """Figures and table of every learned set, and a plot of the first one."""
    for curves in found:
        for solver in ("sde2", "ode1", "ode2"):
            for count in curves.few[:3]:
                record.add(f"B1_speedup_{count}/{curves.name}_{solver}", mean_over_seeds(curves.spared(solver, count)),
                           unit="times fewer evaluations")  # fmt: skip
                better = Goal(">=", 0.0) if solver == "ode2" and count == 5 else None
                record.add(f"B1_gain_{count}/{curves.name}_{solver}", mean_over_seeds(curves.gain(solver, count)),
                           unit=curves.unit, goal=better)  # fmt: skip
        for control in ("ode1", "ode2, permuted"):
            gain = curves.gain("ode2", 10) - curves.gain(control, 10)
            record.add(f"B1_gain_10/{curves.name}_ode2_over_{control.replace(', ', '_')}", mean_over_seeds(gain),
                       unit=curves.unit)  # fmt: skip
        record.tables.append(curves.table())
    record.plots.append(found[0].plot())
