"""Approximate search over many vectors: inverted lists of near vectors, changed in place (faiss)."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from headrace.config import require
from headrace.errors import ConfigError
from headrace.publish.gate import Gate
from headrace.serve.shelf import Ints

Floats: TypeAlias = npt.NDArray[np.float32]
CHUNK = 256
"""Vectors that are put at a time; searches pass in between."""

TAUGHT_PER_CELL = 39
"""Vectors per list that the centres are found from; faiss warns below that."""

PROBES, SPREAD = 64, 0.3
"""Queries that the effort is measured with: vectors of the index, moved at random by this much of their length."""


class ListIndex:
    """Rows by their vectors, in lists around centres; a search looks into the lists whose centres are nearest.

    How many lists it looks into is measured, not set: as few as find the wanted share of the nearest for queries drawn
    around the index's own vectors. Vectors in clusters, as learned items are, need few lists of many; vectors without
    any structure need nearly all, and then exact search is as good.

    The centres are found anew when the index has doubled, or when twice as many vectors were put as it holds.

    Args:
        recall: Share of the nearest that a search is to find, in the mean.
        nearest: Of how many nearest.

    Raises:
        ConfigError: If faiss is not installed.

    Thread-safety: any number of threads may search while one puts.

    Source:
        Jégou, Douze and Schmid 2011, "Product Quantization for Nearest Neighbor Search", the inverted file without
        compression; the faiss library.
    """

    def __init__(self, *, recall: float = 0.98, nearest: int = 100) -> None:
        require(0.0 < recall < 1.0, "ListIndex, recall", got=recall, expected="a share between 0 and 1")
        require(nearest >= 1, "ListIndex, nearest", got=nearest, expected="1 or more")
        try:
            import faiss
        except ImportError as error:
            advice = "pip install 'headrace[index]', or leave `index` out: search is then exact."
            raise ConfigError("index='faiss'", got="no faiss", expected="the package", do=advice) from error
        self.recall, self.nearest = recall, nearest
        self.lists = self.looked_into = self.trained = 0
        self._faiss: Any = faiss
        self._index: Any = None
        self._held = np.zeros(0, dtype=np.bool_)
        self._put = self._count = 0
        self._gate = Gate()

    def __len__(self) -> int:
        """Return how many vectors there are."""
        return self._count

    def put(self, rows: Ints, vectors: Tensor) -> None:
        """Add vectors (N, K), or put them in place of those of the same rows."""
        if not len(rows):
            return
        values = np.ascontiguousarray(vectors.detach().numpy(), dtype=np.float32)
        self._put += len(rows)
        after = len(self) + len(rows)
        another = self._index is None or self._index.d != values.shape[1]
        if another or after > 2 * self.trained or self._put > 2 * after:
            self._rebuild(rows, values, keep=not another)
            return
        for start in range(0, len(rows), CHUNK):
            some, chunk = rows[start : start + CHUNK], values[start : start + CHUNK]
            with self._gate.alone():
                self._drop(some)
                self._index.add_with_ids(chunk, some)
                self._hold(some)

    def remove(self, rows: Ints) -> None:
        """Remove rows; those that are not there are no error."""
        with self._gate.alone():
            self._drop(rows)

    def near(self, query: Tensor, count: int) -> Ints:
        """Return at most `count` rows whose vectors have a large inner product with the query (K,)."""
        with self._gate.shared():
            if self._index is None:
                return np.zeros(0, dtype=np.int64)
            asked = query.detach().numpy().astype(np.float32)[None]
            found = self._index.search(asked, max(min(count, len(self)), 1))[1][0]
        return np.asarray(found[found >= 0], dtype=np.int64)

    def _drop(self, rows: Ints) -> None:
        gone = rows[rows < len(self._held)]
        gone = gone[self._held[gone]]
        if len(gone):
            self._index.remove_ids(gone)
            self._held[gone] = False
            self._count -= len(gone)

    def _hold(self, rows: Ints) -> None:
        """Take note of rows that were not held."""
        if len(rows) and int(rows.max()) >= len(self._held):
            grown = np.zeros(max(int(rows.max()) + 1, 2 * len(self._held)), dtype=np.bool_)
            grown[: len(self._held)] = self._held
            self._held = grown
        self._held[rows] = True
        self._count += len(rows)

    def _rebuild(self, rows: Ints, values: Floats, *, keep: bool) -> None:
        """Find centres for what is held and what comes, and put all of it into new lists, beside searches."""
        if keep:
            kept = np.setdiff1d(np.flatnonzero(self._held), rows)
            if len(kept):
                values = np.concatenate([values, self._index.reconstruct_batch(kept)])
                rows = np.concatenate([rows, kept])
        width, total = values.shape[1], len(rows)
        cells = max(min(int(4 * total**0.5), total // TAUGHT_PER_CELL), 1)
        made = self._faiss.IndexIVFFlat(self._faiss.IndexFlatIP(width), width, cells,
                                        self._faiss.METRIC_INNER_PRODUCT)  # fmt: skip
        draw = np.random.default_rng(total)
        made.train(values[draw.permutation(total)[: TAUGHT_PER_CELL * cells]])
        made.set_direct_map_type(self._faiss.DirectMap.Hashtable)
        made.add_with_ids(values, np.ascontiguousarray(rows))
        effort = self._effort(made, values, draw)
        made.nprobe = effort
        with self._gate.alone():
            self._index, self._held, self._count = made, np.zeros(0, dtype=np.bool_), 0
            self._hold(rows)
        self.lists, self.looked_into, self.trained, self._put = cells, effort, total, 0

    def _effort(self, made: Any, values: Floats, draw: np.random.Generator) -> int:
        """Return how many lists a search has to look into."""
        asked = values[draw.integers(len(values), size=PROBES)]
        lengths = np.linalg.norm(asked, axis=1, keepdims=True) * SPREAD / asked.shape[1] ** 0.5
        asked = np.asarray(asked + draw.normal(size=asked.shape) * lengths, dtype=np.float32)
        count = min(self.nearest, len(values))
        right = np.partition(asked @ values.T, len(values) - count, axis=1)[:, len(values) - count]
        probe = 1
        while probe < made.nlist:
            made.nprobe = probe
            scores = made.search(asked, count)[0]
            if float((scores >= right[:, None] - 1e-6).mean()) >= self.recall:
                return probe
            probe *= 2
        return int(made.nlist)


def open_index(name: Literal["faiss"] | None) -> ListIndex | None:
    """Return the index of that name; None for None."""
    return None if name is None else ListIndex()
