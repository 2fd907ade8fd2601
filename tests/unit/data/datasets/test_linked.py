"""FilmTrust and Cora from files written here, the planted world, and the sizes of the real sets."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.data.datasets.linked import cora, filmtrust, jagged, planted
from headrace.errors import DataError

RATINGS = "".join(f"{user} {film} 3.5\n" for user, film in
                  [(1, 7), (2, 7), (3, 7), (1, 8), (2, 8), (9, 7), (1, 8), (4, 9)])  # fmt: skip
TRUST = "1 2 1\n2 1 1\n3 3 1\n2 4 1\n3 99 1\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path))
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_filmtrust_keeps_people_with_ratings_and_links(folder) -> None:
    (folder / "filmtrust_ratings.txt").write_text(RATINGS)
    (folder / "filmtrust_trust.txt").write_text(TRUST)
    found = filmtrust(least=2)
    assert found.graph.nodes == 3  # 1, 2 and 4; 3 trusts nobody who rated, 9 has no link
    assert found.graph.edges.tolist() == [[0, 1], [1, 2]]
    assert found.items == 2
    assert found.matrix().tolist() == [[1, 1], [1, 1], [0, 0]]  # film 9 is rare
    assert found.histories.values.tolist() == [0, 1, 0, 1]


def test_cora_is_read_without_pickles(folder) -> None:
    arrays = {"edges": np.array([[0, 1], [1, 0], [1, 2]], np.int32), "feat_indptr": np.array([0, 2, 2, 3], np.int32),
              "feat_indices": np.array([4, 1, 0], np.int32), "feat_shape": np.array([3, 5])}  # fmt: skip
    np.savez(folder / "cora_planetoid.npz", **arrays)
    found = cora()
    assert found.graph.edges.tolist() == [[0, 1], [1, 2]]
    assert (found.items, found.histories.values.tolist(), found.histories.offsets.tolist()) == (
        5,
        [1, 4, 0],
        [0, 2, 2, 3],
    )
    np.savez(folder / "cora_planetoid.npz", **arrays | {"edges": np.array([object()], dtype=object)})
    with pytest.raises(DataError, match="plain arrays"):
        cora()


@pytest.mark.parametrize(("load", "name"), [(filmtrust, "filmtrust_ratings"), (cora, "cora_planetoid")])
def test_missing_files_are_named(folder, load, name) -> None:
    with pytest.raises(DataError, match=name):
        load()


def test_the_real_sets_have_their_sizes(data_file) -> None:
    data_file("filmtrust_ratings.txt.zst")
    people, papers = filmtrust(), cora()
    assert (people.graph.nodes, len(people.graph), people.items) == (705, 1126, 418)
    assert (papers.graph.nodes, len(papers.graph), papers.items) == (2708, 5278, 1433)
    assert len(papers.histories.values) == 49216


def test_planted_links_stay_within_groups_that_choices_hardly_tell() -> None:
    world, other = planted(seed=1), planted(seed=2)
    assert world.graph.nodes == 150
    assert (np.diff(world.histories.offsets.numpy()) == 6).all()
    assert world.graph.components.max() > 0
    shares = world.matrix() @ world.matrix().T
    linked = shares[world.graph.edges[:, 0], world.graph.edges[:, 1]].mean()
    assert linked > shares[~np.eye(150, dtype=bool)].mean() + 0.1
    assert not np.array_equal(world.graph.edges, other.graph.edges)


def test_histories_are_distinct() -> None:
    found = jagged(np.array([0, 0, 2]), np.array([3, 3, 1]), 3)
    assert (found.values.tolist(), found.offsets.tolist()) == ([3, 1], [0, 1, 1, 2])
