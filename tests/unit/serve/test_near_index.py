from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
import torch

from headrace.errors import ConfigError
from headrace.serve import GraphIndex
from headrace.serve.near_index import open_index

pytest.importorskip("usearch")


def vectors(rows: int, seed: int = 0) -> torch.Tensor:
    drawn = np.random.default_rng(seed).normal(size=(rows, 16)).astype(np.float32)
    return torch.nn.functional.normalize(torch.from_numpy(drawn), dim=1)


def filled(rows: int = 1500) -> tuple[GraphIndex, torch.Tensor]:
    index, held = GraphIndex(), vectors(rows)
    index.put(np.arange(rows), held)
    return index, held


def test_it_finds_nearly_all_of_the_nearest() -> None:
    index, held = filled()
    shares = []
    for query in vectors(20, seed=1):
        right = (held @ query).topk(20).indices.numpy()
        shares.append(len(np.intersect1d(index.near(query, 20), right)) / 20)
    assert np.mean(shares) > 0.9


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
    index = GraphIndex()
    assert len(index) == 0
    assert index.near(torch.ones(4), 3).tolist() == []
    index.remove(np.array([1]))
    index.put(np.array([7]), torch.ones(1, 4))
    index.put(np.array([8]), torch.ones(1, 6))
    assert index.near(torch.ones(6), 3).tolist() == [8]


def test_without_the_package_it_says_what_to_do(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(ConfigError, match="headrace\\[index\\]"):
        open_index("usearch")
    assert open_index(None) is None
