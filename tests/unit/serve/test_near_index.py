from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
import torch

from headrace.errors import ConfigError
from headrace.serve import ListIndex
from headrace.serve.near_index import open_index

pytest.importorskip("faiss")


def vectors(rows: int, seed: int = 0) -> torch.Tensor:
    drawn = np.random.default_rng(seed).normal(size=(rows, 16)).astype(np.float32)
    return torch.nn.functional.normalize(torch.from_numpy(drawn), dim=1)


def filled(rows: int = 1500) -> tuple[ListIndex, torch.Tensor]:
    index, held = ListIndex(), vectors(rows)
    index.put(np.arange(rows), held)
    return index, held


def clustered(rows: int, seed: int = 0) -> torch.Tensor:
    centres = np.random.default_rng(9).normal(size=(30, 16))
    draw = np.random.default_rng(seed)
    drawn = centres[draw.integers(30, size=rows)] + 0.5 * draw.normal(size=(rows, 16))
    return torch.nn.functional.normalize(torch.from_numpy(drawn.astype(np.float32)), dim=1)


def share_found(index: ListIndex, held: torch.Tensor, queries: torch.Tensor, count: int = 50) -> float:
    shares = []
    for query in queries:
        right = (held @ query).topk(count).indices.numpy()
        shares.append(len(np.intersect1d(index.near(query, count), right)) / count)
    return float(np.mean(shares))


def test_it_finds_the_wanted_share_and_looks_into_few_lists_where_there_are_clusters() -> None:
    index, held = ListIndex(recall=0.95, nearest=50), clustered(6000)
    index.put(np.arange(6000), held)
    assert index.looked_into < index.lists / 4
    assert share_found(index, held, clustered(40, seed=1)) > 0.93


def test_vectors_without_structure_are_found_too_at_the_cost_of_looking_nearly_everywhere() -> None:
    index, held = ListIndex(recall=0.95, nearest=50), vectors(3000)
    index.put(np.arange(3000), held)
    assert share_found(index, held, vectors(40, seed=1)) > 0.9
    assert index.looked_into > index.lists / 4


def test_lists_are_made_anew_when_the_index_has_doubled_or_everything_has_moved() -> None:
    index = ListIndex()
    index.put(np.arange(500), clustered(500))
    assert index.trained == 500
    index.put(np.arange(500, 1100), clustered(600, seed=2))
    assert index.trained == len(index) == 1100
    fresh = vectors(1100, seed=3)
    for _ in range(3):
        index.put(np.arange(1100), fresh)
    assert len(index) == 1100
    assert share_found(index, fresh, vectors(20, seed=4)) > 0.9


def test_a_random_history_equals_a_dictionary() -> None:
    index, held, draw = ListIndex(recall=0.99), dict[int, torch.Tensor](), np.random.default_rng(6)
    for step in range(60):
        rows = np.unique(draw.integers(400, size=draw.integers(1, 60))).astype(np.int64)
        if draw.random() < 0.4:
            index.remove(rows)
            for row in rows.tolist():
                held.pop(row, None)
        else:
            fresh = vectors(len(rows), seed=step)
            index.put(rows, fresh)
            held |= dict(zip(rows.tolist(), fresh, strict=True))
        assert len(index) == len(held)
        found = index.near(torch.ones(16), 1000)
        assert set(found.tolist()) <= set(held)
        assert len(set(found.tolist())) == len(found)


def test_what_is_removed_is_not_found_and_what_is_moved_is_found_where_it_is() -> None:
    index, _ = filled()
    gone = np.arange(0, 1500, 3)
    index.remove(gone)
    index.remove(np.array([0, 9999]))
    assert len(index) == 1000
    for query in vectors(10, seed=2):
        assert not np.isin(index.near(query, 50), gone).any()
    target = vectors(1, seed=3)
    index.put(np.array([1]), target)
    assert len(index) == 1000
    assert index.near(target[0], 5)[0] == 1


def test_searches_pass_while_vectors_are_put() -> None:
    index, held = filled(600)
    failed: list[BaseException] = []
    ended = threading.Event()

    def search() -> None:
        try:
            while not ended.is_set():
                index.near(held[3], 10)
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(5):
        index.put(np.arange(600), vectors(600, seed=turn))
        index.remove(np.arange(turn, 600, 50))
    ended.set()
    for thread in threads:
        thread.join()
    assert failed == []


def test_an_empty_index_finds_nothing_and_another_width_begins_anew() -> None:
    index = ListIndex()
    assert len(index) == 0
    assert index.near(torch.ones(4), 3).tolist() == []
    index.remove(np.array([1]))
    index.put(np.array([7]), torch.ones(1, 4))
    index.put(np.array([8]), torch.ones(1, 6))
    assert index.near(torch.ones(6), 3).tolist() == [8]


def test_without_the_package_it_says_what_to_do(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match="headrace\\[index\\]"):
        open_index("faiss")
    assert open_index(None) is None
