"""A graph is what its pairs say; splits, draws and path counts against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.data import Graph, PairSampler
from headrace.errors import ConfigError, DataError


def random_graph(nodes: int = 30, pairs: int = 45, seed: int = 0) -> Graph:
    return Graph.from_pairs(nodes, np.random.default_rng(seed).integers(0, nodes, (pairs, 2)))


def adjacency(graph: Graph) -> np.ndarray:
    dense = np.zeros((graph.nodes, graph.nodes))
    dense[graph.edges[:, 0], graph.edges[:, 1]] = dense[graph.edges[:, 1], graph.edges[:, 0]] = 1.0
    return dense


def test_neighbours_and_edge_numbers_agree_with_the_edges() -> None:
    graph = random_graph()
    dense = adjacency(graph)
    for node in range(graph.nodes):
        own = slice(graph.offsets[node], graph.offsets[node + 1])
        assert graph.neighbours[own].tolist() == np.flatnonzero(dense[node]).tolist()
        for neighbour, edge in zip(graph.neighbours[own], graph.edge_ids[own], strict=True):
            assert sorted((node, neighbour)) == graph.edges[edge].tolist()


@pytest.mark.parametrize("seed", range(5))
def test_components_are_those_of_the_powers_of_the_matrix(seed) -> None:
    graph = random_graph(30, 20, seed)
    reach = np.linalg.matrix_power(adjacency(graph) + np.eye(30), 30) > 0
    assert graph.components.tolist() == reach.argmax(axis=1).tolist()
    assert graph.forest_edges == 30 - len(np.unique(graph.components))


def test_a_long_path_is_one_component() -> None:
    path = np.random.default_rng(0).permutation(2000)
    graph = Graph.from_pairs(2000, np.stack([path[:-1], path[1:]], axis=1))
    assert not graph.components.any()


def test_path_counts_are_powers_of_the_matrix() -> None:
    graph = random_graph()
    dense = adjacency(graph)
    rows = np.array([3, 0, 17])
    np.testing.assert_allclose(graph.path_counts(rows), (dense @ dense + 0.05 * dense @ dense @ dense)[rows])
    np.testing.assert_allclose(graph.spread(np.eye(30)), dense)


def test_a_split_is_disjoint_and_whole() -> None:
    graph = random_graph()
    left, held = graph.split(0.1, seed=3)
    assert len(held) == round(0.1 * len(graph))
    both = np.concatenate([left.edges, held])
    assert sorted(map(tuple, both)) == sorted(map(tuple, graph.edges))
    assert not np.array_equal(graph.split(0.1, seed=4)[1], held)


def test_a_shuffled_graph_keeps_its_degrees() -> None:
    graph = random_graph()
    other = graph.shuffled(seed=1)
    assert sorted(other.degrees) == sorted(graph.degrees)
    assert not np.array_equal(other.edges, graph.edges)


def test_a_draw_is_a_function_of_the_step_and_takes_everything_equally_often() -> None:
    graph = random_graph()
    sampler = PairSampler(graph=graph, nodes=7, edges=9, others=5, seed=2)
    draws = [sampler.draw(step) for step in range(30)]
    for name in ("nodes", "ends", "others"):
        np.testing.assert_array_equal(getattr(sampler.draw(11), name), getattr(draws[11], name))
    seen = np.bincount(np.concatenate([draw.nodes for draw in draws]), minlength=graph.nodes)
    assert seen.tolist() == [7] * graph.nodes
    drawn = np.bincount(np.concatenate([draw.edges for draw in draws]), minlength=len(graph))
    assert drawn.max() - drawn.min() <= 1


def test_ends_are_those_of_the_edges_and_other_pairs_are_of_two_nodes() -> None:
    graph = random_graph()
    draw = PairSampler(graph=graph, nodes=2, edges=20, others=400).draw(0)
    assert np.sort(draw.ends, axis=1).tolist() == graph.edges[draw.edges].tolist()
    assert not np.array_equal(np.sort(draw.ends, axis=1), draw.ends)
    assert (draw.others[:, 0] != draw.others[:, 1]).all()
    assert set(draw.others.ravel().tolist()) == set(range(graph.nodes))
    assert len(draw.rows) == 2 + 2 * 420


def test_a_graph_without_edges_draws_none() -> None:
    draw = PairSampler(graph=Graph.from_pairs(4, []), nodes=4, edges=3, others=0).draw(1)
    assert (len(draw.nodes), len(draw.edges), len(draw.others)) == (4, 0, 0)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(DataError, match="node 4"):
        Graph.from_pairs(4, [[0, 4]])
    with pytest.raises(ConfigError, match="share"):
        random_graph().split(1.0)
    with pytest.raises(ConfigError, match=r"PairSampler\.edges"):
        PairSampler(graph=random_graph(), edges=-1)
