"""Approximate search over many vectors: a graph of near neighbours, changed in place (usearch)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from torch import Tensor

from headrace.config import require
from headrace.errors import ConfigError
from headrace.publish.gate import Gate
from headrace.serve.shelf import Ints

CHUNK = 256
"""Vectors that are put at a time; searches pass in between."""


class GraphIndex:
    """Rows by their vectors, in a hierarchical graph of near neighbours (HNSW).

    A row is put again by taking its old vector out of the graph. Searches look at a small part of all vectors and
    may miss near ones; how many, and at what cost, stands in the guide on recommending.

    Args:
        connections: Neighbours that a vector is linked to; more find more and take more memory and time.
        effort_put: Candidates looked at when a vector is put.
        effort_near: Candidates looked at in a search; never fewer than are asked for.

    Raises:
        ConfigError: If usearch is not installed.

    Thread-safety: any number of threads may search while one puts.

    Source:
        Malkov and Yashunin 2018, "Efficient and robust approximate nearest neighbor search using Hierarchical Navigable
        Small World graphs"; the usearch library.
    """

    def __init__(self, *, connections: int = 16, effort_put: int = 64, effort_near: int = 128) -> None:
        numbers = (connections, effort_put, effort_near)
        require(min(numbers) >= 2, "GraphIndex", got=numbers, expected="2 or more each")
        try:
            from usearch.index import Index
        except ImportError as error:
            advice = "pip install 'headrace[index]', or leave `index` out: search is then exact."
            raise ConfigError("index='usearch'", got="no usearch", expected="the package", do=advice) from error
        self._make: Any = lambda width: Index(
            ndim=width, metric="ip", dtype="f32", connectivity=connections, expansion_add=effort_put,
            expansion_search=effort_near,
        )  # fmt: skip
        self.effort_near = effort_near
        self._graph: Any = None
        self._width = 0
        self._gate = Gate()

    def __len__(self) -> int:
        """Return how many vectors there are."""
        return 0 if self._graph is None else len(self._graph)

    def put(self, rows: Ints, vectors: Tensor) -> None:
        """Add vectors (N, K), or put them in place of those of the same rows."""
        values = np.ascontiguousarray(vectors.detach().numpy(), dtype=np.float32)
        if self._graph is None or self._width != values.shape[1]:
            with self._gate.alone():
                self._graph, self._width = self._make(values.shape[1]), values.shape[1]
        for start in range(0, len(rows), CHUNK):
            some, chunk = rows[start : start + CHUNK].astype(np.uint64), values[start : start + CHUNK]
            with self._gate.alone():
                held = some[np.asarray(self._graph.contains(some))]
                if len(held):
                    self._graph.remove(held)
                self._graph.add(some, chunk, threads=1)

    def remove(self, rows: Ints) -> None:
        """Remove rows; those that are not there are no error."""
        if self._graph is None or not len(rows):
            return
        with self._gate.alone():
            held = rows.astype(np.uint64)
            held = held[np.asarray(self._graph.contains(held))]
            if len(held):
                self._graph.remove(held)

    def near(self, query: Tensor, count: int) -> Ints:
        """Return about `count` rows whose vectors have a large inner product with the query (K,)."""
        with self._gate.shared():
            if self._graph is None or not len(self._graph):
                return np.zeros(0, dtype=np.int64)
            found = self._graph.search(query.detach().numpy().astype(np.float32), min(count, len(self._graph)),
                                       threads=1)  # fmt: skip
            return np.asarray(found.keys, dtype=np.int64)


def open_index(name: Literal["usearch"] | None) -> GraphIndex | None:
    """Return the index of that name; None for None."""
    return None if name is None else GraphIndex()
