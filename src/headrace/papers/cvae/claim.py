"""CVAE's claims, measured: exact weights and divergences, and links found from histories with and without a graph.

L1 compares closed forms with lists of all spanning forests and with divergences of matrices. L2 is FilmTrust, L3 Cora.
`card.md` says what the paper claims, what the settings are and what came out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from headrace.data import Graph, effective_resistances, random_forests
from headrace.data.graph import Floats
from headrace.evaluate import ClaimRecord, ClaimTable, Goal, mean_over_seeds, run_size
from headrace.evaluate.claims import render_tables
from headrace.objectives import pair_terms
from headrace.papers.cvae.recipe import ARMS, CORA, FILMTRUST, TOY, Setting, configured, shares_of_all_forests
from headrace.ranking.linked import Held, LinkScores, baselines, trial

_log = logging.getLogger(__name__)

SEEDS = (0, 1, 2)
GRAPHS = 5
"""Small graphs on which all spanning forests are listed."""
DRAWN = 2000
"""Forests drawn for the sampled weights."""
TOY_ARMS = ("VAE", "CVAE_ind", "CVAE_corr, gamma 0", "CVAE_corr", "CVAE_corr, shuffled graph")
CORA_ARMS = ("VAE", "CVAE_ind", "CVAE_corr")
NAMES = {"VAE": "vae", "CVAE_ind": "ind", "CVAE_ind, all weights 1": "ind_weights_one", "CVAE_corr, gamma 0": "gamma0",
         "CVAE_corr": "corr", "CVAE_corr, shuffled graph": "shuffled"}  # fmt: skip
TOPOLOGY = "paths of 2 and 3 steps"


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
    """Closed forms, and links within planted groups that choices hardly tell."""
    exact(record)
    scores = links(record, "toy", TOY, TOY_ARMS, SEEDS)
    compare(record, "toy", scores, {"corr_over_vae": 1.3, "corr_over_gamma0": 1.1, "corr_over_shuffled": 2.0})
    return {"seeds": list(SEEDS)}


def small(record: ClaimRecord) -> dict[str, object]:
    """Closed forms, FilmTrust and Cora."""
    scores = links(record, "L2", FILMTRUST, tuple(ARMS), SEEDS)
    compare(record, "L2", scores, {"corr_over_vae": 1.6, "ind_over_vae": 1.2})
    record.add("L2_gamma0_over_vae", scores.ratio("CVAE_corr, gamma 0", "VAE"), unit="of its NCRR",
               goal=Goal("<=", 1.0))  # fmt: skip
    compare(record, "L3", links(record, "L3", CORA, CORA_ARMS, SEEDS), {"corr_over_vae": 1.4})
    exact(record)
    return {
        "seeds": list(SEEDS),
        "held_out": FILMTRUST.share,
        "steps": {"FilmTrust": FILMTRUST.sizes.steps, "Cora": CORA.sizes.steps},
    }


# L1 ------------------------------------------------------------------------------------------------------------------


def exact(record: ClaimRecord) -> None:
    """Weights against lists of all spanning forests, sampled ones too, and pair terms against divergences."""
    errors, sampled, sums = [], [], []
    for seed in range(GRAPHS):
        graph = Graph.from_pairs(7, np.random.default_rng(seed).integers(0, 7, (12, 2)))
        expected, found = shares_of_all_forests(graph), effective_resistances(graph)
        errors.append(float(np.abs(found - expected).max()))
        sums.append(abs(float(found.sum()) - graph.forest_edges))
        drawn = random_forests(graph, DRAWN, seed).mean(axis=0)
        sampled.append(float(np.abs(drawn - expected).max()) * np.sqrt(DRAWN))
    apart = divergence_errors()
    rows = (
        ("weights of edges, all forests listed", max(errors), Goal("<=", 1e-10), "L1_weight_error"),
        ("sum of weights, nodes less components", max(sums), Goal("<=", 1e-10), "L1_weight_sum_error"),
        ("pair terms, divergences of matrices, float64", apart[0], Goal("<=", 1e-10), "L1_pair_term_error"),
        ("pair terms, float32, relative", apart[1], Goal("<=", 1e-5), "L1_pair_term_error_float32"),
    )
    for _, value, goal, name in rows:
        record.add(name, mean_over_seeds([value]), unit="largest error", goal=goal)
    record.add("L1_sampled_weight_error", mean_over_seeds([max(sampled)]), unit="largest error times root of forests",
               goal=Goal("<=", 2.0))  # fmt: skip
    cells = tuple((what, f"{value:.1e}") for what, value, _, _ in rows)
    record.tables.append(ClaimTable(
        "L1. Closed forms against other ways to compute them", ("what", "largest error"),
        (*cells, (f"weights from {DRAWN:,} drawn forests", f"{max(sampled) / np.sqrt(DRAWN):.1e}")),
        (f"{GRAPHS} graphs of 7 nodes; pair terms for 200 random pairs and tau 0, 0.5, 0.99.",),
    ))  # fmt: skip


def divergence_errors(pairs: int = 200) -> tuple[float, float]:
    """Return the largest error of pair terms against divergences of matrices: absolute, and relative in float32."""
    draw = np.random.default_rng(0)
    means, stds = draw.normal(size=(pairs, 2)), draw.uniform(0.05, 1.5, (pairs, 2))
    c = draw.uniform(-0.99, 0.99, pairs)
    absolute, relative = [], []
    for tau in (0.0, 0.5, 0.99):
        expected = np.array([_divergence(m, s, r, tau) - _divergence(m, s, 0.0, 0.0)
                             for m, s, r in zip(means, stds, c, strict=True)])  # fmt: skip
        double, single = (_terms(means.astype(kind), stds.astype(kind), c.astype(kind), tau)
                          for kind in (np.float64, np.float32))  # fmt: skip
        absolute.append(np.abs(double - expected).max())
        relative.append((np.abs(single - expected) / np.maximum(np.abs(expected), 1.0)).max())
    return float(max(absolute)), float(max(relative))


def _terms(means: Floats, stds: Floats, c: Floats, tau: float) -> Floats:
    """Return the pair terms of many pairs in one dimension, in the precision of the inputs."""
    left, left_std, right, right_std = (torch.from_numpy(part[:, [end]]) for end in (0, 1) for part in (means, stds))
    terms = pair_terms(left, left_std, right, right_std, torch.from_numpy(c[:, None]), tau)
    return terms.double().numpy()


def _divergence(mean: Floats, std: Floats, c: float, tau: float) -> float:
    """Return the divergence of a pair's normal distribution from one with variances 1 and correlation tau."""
    covariance = np.diag(std**2) + c * std.prod() * (1.0 - np.eye(2))
    prior = np.array([[1.0, tau], [tau, 1.0]])
    inverse = np.linalg.inv(prior)
    log_ratio = np.log(np.linalg.det(prior) / np.linalg.det(covariance))
    return float(0.5 * (np.trace(inverse @ covariance) + mean @ inverse @ mean - 2.0 + log_ratio))


# L2, L3 --------------------------------------------------------------------------------------------------------------


def links(record: ClaimRecord, place: str, setting: Setting, arms: Sequence[str], seeds: Sequence[int]) -> LinkScores:
    """Fit every arm on links that are left, rank those held out, and print baselines beside."""
    scores = LinkScores()
    for seed in seeds:
        held = Held.split(setting.load(seed), setting.share, seed)
        for name, value in baselines(held).items():
            scores.add(name, value)
        for arm in arms:
            found = trial(held, configured(setting, arm, seed), shuffled=ARMS[arm][1])
            scores.add(arm, found.ncrr, found.seconds)
            _log.info("%s, seed %d, %s: NCRR %.4f, %.0f s", setting.title, seed, arm, found.ncrr, found.seconds)
    for name in scores.ncrr:
        record.add(f"{place}_ncrr/{NAMES.get(name, name.replace(' ', '_'))}", scores.mean(name), unit="NCRR")
    title = f"{'' if place == 'toy' else place + '. '}{setting.title}: links held out, found"
    record.tables.append(scores.table(title, (
        (f"{len(seeds)} seeds (split, weights and draws); {100 * setting.share:.0f} % of the links held out."
        " Seconds of processor time."),
        "Paths of 2 and 3 steps: A^2 + 0.05 A^3, the graph alone. gamma is 100 where nothing else is said.",
    )))  # fmt: skip
    record.plots.append(scores.plot(f"{setting.title}: links found"))
    return scores


def compare(record: ClaimRecord, place: str, scores: LinkScores, goals: Mapping[str, float]) -> None:
    """Record ratios of NCRR, paired by seed."""
    for one, other in (("CVAE_corr", "VAE"), ("CVAE_ind", "VAE"), ("CVAE_corr", "CVAE_corr, shuffled graph"),
                       ("CVAE_corr", "CVAE_corr, gamma 0"), ("CVAE_corr", "history cosine"),
                       (TOPOLOGY, "CVAE_corr")):  # fmt: skip
        if one in scores.ncrr and other in scores.ncrr:
            over = f"{NAMES.get(one, 'topology')}_over_{NAMES.get(other, other.replace(' ', '_'))}"
            goal = Goal(">=", goals[over]) if over in goals else None
            record.add(f"{place}_{over}", scores.ratio(one, other), unit="of its NCRR", goal=goal)
