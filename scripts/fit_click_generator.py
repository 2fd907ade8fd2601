"""Fit the click generator of papers/cowclip to the Criteo sample and write its parameters.

Usage: HEADRACE_DATA=... python scripts/fit_click_generator.py [--check] [--out generator.json]

Frequencies: the commonest ids of a field as counted; the tail ``(k + shift)^-exponent`` so that the number of distinct
ids after a 16th, a quarter and all of the rows is the sample's, with at most 2^20 ids (the sample's ids are 20-bit
hashes). Weights: the variance of an id's effect is found from pairs of rows with the same id, ``E[(y - p)(y' - p)]``,
which needs no id to be frequent. Fields of the sample depend on each other and those drawn do not, so the first-order
spreads are multiplied by one number, found by bisection, that brings the AUC of the true probabilities to 0.80.
"""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from headrace.data.datasets import criteo
from headrace.data.datasets.recorded import missing, read_table
from headrace.evaluate import auc
from headrace.papers.cowclip.generator import ClickLaw, Clicks, FieldLaw, criteo_law, draw

FIELDS = ("C2", "C3", "C7", "C9", "C10", "C11", "C12", "C14", "C17", "C18", "C24", "C26")
HEAD, HEAD_COUNT, MOST_IDS = 48, 40, 2**20
BAYES_AUC, PRODUCT_SHARE, RANK = 0.80, 0.25, 3
RARE, COMMON = (2, 20), (20, 10**9)
TRUTH_SEED = 7
OUT = Path(__file__).parents[1] / "src" / "headrace" / "papers" / "cowclip" / "generator.json"

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def sample() -> tuple[dict[str, Ints], Floats]:
    """Return the sample's fields as dense ids, and its labels."""
    path = criteo.find()
    if path is None:
        raise missing("Criteo", criteo.NAMES, criteo.ADDRESS)
    table = read_table(path, criteo.layout(path))
    columns = {}
    for name in FIELDS:
        codes = table[name].combine_chunks().dictionary_encode().indices
        columns[name] = codes.cast("int64").fill_null(-1).to_numpy() + 1
    return columns, table["label"].to_numpy().astype(np.float64)


def distinct_at(ids: Ints) -> list[int]:
    """Return the numbers of distinct ids in the first 16th, quarter and all of the rows."""
    return [len(np.unique(ids[: len(ids) // part])) for part in (16, 4, 1)]


def expected_distinct(exponent: float, shift: float, tail_ids: int, mass: float, rows: list[int]) -> Floats:
    """Return how many of the tail's ids occur in so many rows."""
    edges = np.unique(np.round(np.geomspace(1, tail_ids + 1, 300)).astype(np.int64))
    sizes, ranks = np.diff(edges), np.sqrt(edges[:-1] * (edges[1:] - 0.5))
    shares = (ranks + shift) ** -exponent
    shares *= mass / (shares * sizes).sum()
    return np.array([(sizes * -np.expm1(-count * shares)).sum() for count in rows])


def fit_field(name: str, ids: Ints, labels: Floats) -> FieldLaw:
    """Fit one field; the spread is the pairs' estimate, not yet scaled."""
    counts = np.sort(np.bincount(ids))[::-1]
    counts = counts[counts > 0]
    head = counts[: max(1, min(HEAD, int((counts >= HEAD_COUNT).sum())))] / len(ids)
    mass, seen = 1.0 - head.sum(), np.array(distinct_at(ids)) - len(head)
    rows = [len(ids) // part for part in (16, 4, 1)]
    best, law = np.inf, (1.0, 0.0, max(int(seen[-1]), 1))
    if seen[-1] > 1:
        sizes = np.unique(np.geomspace(seen[-1], MOST_IDS - len(head), 14).astype(int))
        shifts = (0.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
        for exponent, shift, tail in itertools.product(np.arange(0.5, 2.01, 0.05), shifts, sizes):
            found = expected_distinct(exponent, shift, int(tail), mass, rows)
            # of laws that fit about as well, the one with fewer ids
            error = float(np.square(np.log(found / np.maximum(seen, 1))).sum()) + 1e-3 * float(np.log(tail))
            if error < best:
                best, law = error, (float(exponent), shift, int(tail))
    spread = np.sqrt(max(effect_variance(ids, labels, (2, 10**9)), 0.0))
    return FieldLaw(name, tuple(round(float(share), 6) for share in head), round(law[0], 2), law[1],
                    len(head) + law[2], float(spread))  # fmt: skip


def effect_variance(ids: Ints, labels: Floats, counts: tuple[int, int]) -> float:
    """Return the variance, on the scale of log-odds, of the effect of ids with counts in a range; mean over rows."""
    rate = float(labels.mean())
    number = np.bincount(ids)
    sums = np.bincount(ids, labels - rate)
    squares = np.bincount(ids, np.square(labels - rate))
    some = (number >= counts[0]) & (number < counts[1])
    if not some.any():
        return 0.0
    n = number[some]
    products = (np.square(sums[some]) - squares[some]) / (n * (n - 1))
    return float(np.average(products, weights=n)) / (rate * (1 - rate)) ** 2


def with_scale(law: ClickLaw, scale: float, rate: float) -> tuple[ClickLaw, Clicks]:
    """Return the law with first-order spreads times `scale`, products in proportion, and the bias for a click rate."""
    fields = tuple(replace(field, spread=field.spread * scale) for field in law.fields)
    first = sum(field.spread**2 for field in fields)
    pairs = len(fields) * (len(fields) - 1) / 2
    factor = (first * PRODUCT_SHARE / (1 - PRODUCT_SHARE) / (pairs * law.rank)) ** 0.25
    law = replace(law, fields=fields, factor_spread=factor)
    low, high = -6.0, 2.0
    for _ in range(9):
        middle = (low + high) / 2
        clicks = draw(replace(law, bias=middle), 65_536, seed=1)
        low, high = (middle, high) if clicks.chances.mean() < rate else (low, middle)
    law = replace(law, bias=(low + high) / 2)
    return law, draw(law, 262_144, seed=2)


def fitted() -> ClickLaw:
    """Return the law, fitted from the sample."""
    columns, labels = sample()
    fields = []
    for name in FIELDS:
        field = fit_field(name, columns[name], labels)
        rare, common = (effect_variance(columns[name], labels, counts) for counts in (RARE, COMMON))
        print(f"{name}: {field.ids} ids, head {sum(field.head):.3f}, exponent {field.exponent}, shift {field.shift}, "
              f"spread {field.spread:.3f} (variance: rare {rare:.3f}, common {common:.3f})")  # fmt: skip
        fields.append(field)
    plain = ClickLaw(tuple(fields), 0.0, RANK, 0.0, TRUTH_SEED)
    low, high = 0.4, 0.8
    for _ in range(8):
        middle = (low + high) / 2
        law, clicks = with_scale(plain, middle, float(labels.mean()))
        reached = auc(clicks.labels, clicks.chances)
        print(f"scale {middle:.3f}: AUC of the truth {reached:.4f}, rate {clicks.labels.mean():.4f}")
        low, high = (middle, high) if reached < BAYES_AUC else (low, middle)
    return replace(law, bias=round(law.bias, 4), factor_spread=round(law.factor_spread, 4),
                   fields=tuple(replace(f, spread=round(f.spread, 4)) for f in law.fields))  # fmt: skip


def check(law: ClickLaw, rows: int = 1_000_000) -> None:
    """Print what the ids of each range of frequencies are worth: the truth's AUC, and what is lost without them."""
    clicks = draw(law, rows, seed=3)
    print(
        f"{rows} rows: click rate {clicks.labels.mean():.4f}, AUC of the truth {auc(clicks.labels, clicks.chances):.4f}"
    )
    for low, high in ((0, 1e-6), (1e-6, 1e-5), (1e-5, 1e-4), (1e-4, 1e-3), (1e-3, 2.0)):
        scores, share = np.log(clicks.chances / (1 - clicks.chances)), []
        for place, field in enumerate(law.fields):
            inside = (field.shares() >= low) & (field.shares() < high)
            known = inside[clicks.ids[:, place]]
            scores = scores - np.where(known, law.weights(place)[clicks.ids[:, place], 0], 0.0)
            share.append(known.mean())
        print(f"ids with a share in [{low:g}, {high:g}): {np.mean(share):.3f} of all values; without their first-order "
              f"weights the AUC is {auc(clicks.labels, scores):.4f}")  # fmt: skip
    for name, law_field, place in zip(law.names, law.fields, itertools.count()):
        print(f"{name}: {len(np.unique(clicks.ids[:, place]))} of {law_field.ids} ids in {rows} rows")


def main() -> None:
    """Fit and write, or check what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only show what the law that is there draws")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    if not arguments.check:
        arguments.out.write_text(json.dumps(asdict(fitted()), indent=1) + "\n", encoding="utf-8")
    check(criteo_law())


if __name__ == "__main__":
    main()
