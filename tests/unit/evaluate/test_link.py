"""NCRR against a plain reading of its definition, with ties against the link, and against chance."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.errors import ConfigError, DataError
from headrace.evaluate import link_ranks, ncrr

SEEN, HELD = [[0, 1], [2, 3], [4, 0]], [[0, 2], [0, 3], [5, 1], [6, 0]]


def plainly(distances: np.ndarray, seen: list, held: list) -> dict[int, float]:
    """The definition, in loops."""
    found = {}
    for node in range(len(distances)):

        def of(links, node=node) -> set[int]:
            return {b for a, b in links if a == node} | {a for a, b in links if b == node}

        if not of(held):
            continue
        candidates = [k for k in range(len(distances)) if k != node and k not in of(seen)]
        ranks = [sum(distances[node, k] <= distances[node, j] for k in candidates) for j in of(held)]
        found[node] = sum(1 / rank for rank in ranks) / sum(1 / (place + 1) for place in range(len(ranks)))
    return found


@pytest.mark.parametrize("round_to", [3, 0])
def test_it_is_its_definition(round_to) -> None:
    distances = np.random.default_rng(0).normal(size=(8, 8)).round(round_to)  # rounded to 0 places: many ties
    found = link_ranks(lambda rows: distances[rows], 8, SEEN, HELD)
    expected = plainly(distances, SEEN, HELD)
    assert found.nodes.tolist() == sorted(expected)
    np.testing.assert_allclose(found.values, [expected[node] for node in sorted(expected)])
    assert found.mean == pytest.approx(np.mean(list(expected.values())))


def test_a_perfect_order_earns_one_and_a_constant_one_the_least() -> None:
    near = np.ones((8, 8))
    for a, b in HELD:
        near[a, b] = near[b, a] = 0.0
    near[0, [2, 3, 6]] = 0.1, 0.2, 0.3
    near[[2, 3, 6], 0] = 0.1, 0.2, 0.3
    assert ncrr(lambda rows: near[rows], 8, SEEN, HELD) == pytest.approx(1.0)
    level = link_ranks(lambda rows: np.zeros((len(rows), 8)), 8, SEEN, HELD)
    assert level.values[level.nodes == 5].tolist() == [1 / 7]  # seven candidates, all as far


def test_chance_is_what_random_orders_earn() -> None:
    draw = np.random.default_rng(1)
    found = [link_ranks(lambda rows: draw.random((len(rows), 8)), 8, SEEN, HELD) for _ in range(3000)]
    assert np.mean([one.mean for one in found]) == pytest.approx(found[0].chance, abs=0.01)


def test_blocks_do_not_matter() -> None:
    distances = np.random.default_rng(2).normal(size=(300, 300))
    held = np.stack([np.arange(299), np.arange(1, 300)], axis=1)
    found = link_ranks(lambda rows: distances[rows], 300, [], held)
    expected = plainly(distances, [], held.tolist())
    np.testing.assert_allclose(found.values, [expected[node] for node in range(300)])


def test_wrong_input_is_refused() -> None:
    def zeros(rows):
        return np.zeros((len(rows), 8))

    with pytest.raises(DataError, match="at least one"):
        link_ranks(zeros, 8, SEEN, [])
    with pytest.raises(DataError, match="disjoint"):
        link_ranks(zeros, 8, SEEN, [[1, 0]])
    with pytest.raises(DataError, match="linked with itself"):
        link_ranks(zeros, 8, SEEN, [[1, 1]])
    with pytest.raises(DataError, match="not a number"):
        link_ranks(lambda rows: zeros(rows) * np.nan, 8, SEEN, HELD)
    with pytest.raises(ConfigError, match="Distances"):
        link_ranks(lambda rows: zeros(rows)[:, :3], 8, SEEN, HELD)
