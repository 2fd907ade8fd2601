"""Finds candidates: the items nearest to a user among those that are allowed, at the version that answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from headrace.errors import NumericError
from headrace.publish.replica import Replica
from headrace.serve.item_vectors import ItemVectors, Moved
from headrace.serve.shelf import Ints, Mask, Shelf
from headrace.types import Change

DRIFT = 0.1
"""How far, relative to its length, a vector may move before the index is told. The index only proposes."""

SPARSE = 0.25
"""Below this share of allowed items their vectors are gathered first, instead of scoring all of them."""


class NearIndex(Protocol):
    """Something that finds near vectors faster than by looking at all of them, and may miss some."""

    def put(self, rows: Ints, vectors: Tensor) -> None:
        """Add vectors (N, K), or put them in place of those of the same rows."""
        ...

    def remove(self, rows: Ints) -> None:
        """Remove rows; those that are not there are no error."""
        ...

    def near(self, query: Tensor, count: int) -> Ints:
        """Return rows whose vectors have a large inner product with the query (K,), in any order."""
        ...


@dataclass(frozen=True, slots=True)
class View:
    """The catalogue and its vectors at one version; replaced whole, never changed.

    Attributes:
        shelf: The items.
        vectors: One vector per row of the shelf (N, K), zeros where there is no item; None: there are none.
    """

    shelf: Shelf
    vectors: Tensor | None = None


class Retriever:
    """Keeps the vectors of all items at the replica's version and finds the nearest ones.

    With a version the vectors that it touches are made anew, beside requests, and put in place while no request is
    inside. So what a `reading` block finds in `view` has the block's version, removed rows and removed items included.
    Items that are put or removed are there, or gone, for the next request.

    The search looks at every allowed vector (exact). With an index, large catalogues are searched approximately: the
    index proposes, the vectors of the present version decide, and the search is exact where the index proposes too
    few, as under a narrow filter.

    Args:
        replica: Who moves.
        vectors: How items and users become vectors; None: there are none, and `near` finds nothing.
        index: Proposes neighbours in large catalogues; None: every search is exact.
        index_from: Items from which on the index is used.

    Thread-safety: any number of threads may search while another one moves the replica or the shelf.
    """

    def __init__(
        self, replica: Replica, vectors: ItemVectors | None = None, *, index: NearIndex | None = None,
        index_from: int = 200_000,
    ) -> None:  # fmt: skip
        self.replica, self.vectors, self.index, self.index_from = replica, vectors, index, index_from
        self.view = View(Shelf.empty(""))
        self.encoded = self.whole = 0
        self._torn = False
        self._indexed: Tensor | None = None
        if vectors is not None:
            with replica.still() as version:
                if version.number >= 0:
                    vectors.copy(replica)
            replica.add_part(self._prepare)

    def watch(self, shelf: Shelf) -> None:
        """Take a new shelf; its items can be found when this returns."""
        if self.vectors is None:
            self.view = View(shelf)
            return
        with self.replica.still():
            if self._torn:  # a change was begun that the replica did not take
                self.vectors.copy(self.replica)
                self._torn = False
                fresh = np.arange(shelf.places)
            else:
                fresh = np.flatnonzero(shelf.stamps > self.view.shelf.generation)
            self.view = self._made(shelf, fresh)

    def near(self, view: View, query: Tensor, allowed: Mask, count: int) -> Ints:
        """Return at most `count` allowed rows, the nearest first.

        Args:
            view: Taken inside a `reading` block.
            query: (K,).
            allowed: Which rows may be found (N,).
            count: How many are wanted.

        Cost: O(items K), or of the index; under a narrow filter O(allowed K).
        """
        if view.vectors is None or not len(allowed) or count < 1:
            return np.zeros(0, dtype=np.int64)
        free = int(np.count_nonzero(allowed))
        if self.index is not None and free >= self.index_from:
            proposed = self.index.near(query, int(1.2 * count * len(allowed) / free) + 16)
            proposed = proposed[proposed < len(allowed)]
            proposed = proposed[allowed[proposed]]
            if len(proposed) >= min(count, free):
                return _best(view.vectors, query, proposed, count)
        if free < SPARSE * len(allowed):
            return _best(view.vectors, query, np.flatnonzero(allowed), count)
        scores = view.vectors @ query
        scores[torch.from_numpy(~allowed)] = -torch.inf
        return scores.topk(min(count, free)).indices.numpy().astype(np.int64)

    def _prepare(self, change: Change) -> Callable[[], None]:
        """Make the vectors of the change's version, and return what puts them in place."""
        assert self.vectors is not None
        torn, self._torn = self._torn, True
        moved = self.vectors.move(change)
        shelf = self.view.shelf
        rows = np.flatnonzero(shelf.alive)
        if len(rows) and not (torn or moved.everything):
            rows = rows[self.vectors.touched(shelf, moved)[rows]] if _any(moved) else rows[:0]
        view = self._made(shelf, rows)

        def put() -> None:
            self.view, self._torn = view, False

        return put

    def _made(self, shelf: Shelf, rows: Ints) -> View:
        """Return a view in which these rows have new vectors."""
        assert self.vectors is not None
        rows = rows[rows < shelf.places]
        filled, emptied = rows[shelf.alive[rows]], rows[~shelf.alive[rows]]
        fresh = self.vectors.items(shelf, filled) if len(filled) else None
        if fresh is not None and not bool(torch.isfinite(fresh).all()):
            raise NumericError("Item vectors", got="NaN or infinity", expected="finite vectors",
                               do="Look at the learner; this version is not served.")  # fmt: skip
        self.encoded += len(filled)
        self.whole += bool(len(filled)) and len(filled) == len(shelf)
        held = self.view.vectors
        width = fresh.shape[1] if fresh is not None else held.shape[1] if held is not None else 1
        vectors = torch.zeros(shelf.places, width)
        if held is not None and held.shape[1] == width and len(rows) < shelf.places:
            vectors[: len(held)] = held
        if fresh is not None:
            vectors[torch.from_numpy(filled)] = fresh
        vectors[torch.from_numpy(emptied)] = 0.0
        if self.index is not None:
            self._reindex(self.index, shelf, emptied, filled, fresh)
        return View(shelf, vectors)

    def _reindex(self, index: NearIndex, shelf: Shelf, emptied: Ints, filled: Ints, fresh: Tensor | None) -> None:
        """Tell the index what is gone, and what has moved far from where the index has it."""
        if len(emptied):
            index.remove(emptied)
            if self._indexed is not None:
                self._indexed[torch.from_numpy(emptied[emptied < len(self._indexed)])] = torch.inf
        if fresh is None:
            return
        known = torch.full((shelf.places, fresh.shape[1]), torch.inf)
        if self._indexed is not None and self._indexed.shape[1] == fresh.shape[1]:
            known[: len(self._indexed)] = self._indexed
        far = (fresh - known[torch.from_numpy(filled)]).norm(dim=1) > DRIFT * fresh.norm(dim=1)
        if bool(far.any()):
            index.put(filled[far.numpy()], fresh[far])
            known[torch.from_numpy(filled[far.numpy()])] = fresh[far]
        self._indexed = known


def _best(vectors: Tensor, query: Tensor, rows: Ints, count: int) -> Ints:
    """Return the best of some rows by exact scores."""
    scores = vectors[torch.from_numpy(rows)] @ query
    best: Ints = rows[scores.topk(min(count, len(rows))).indices.numpy()]
    return best


def _any(moved: Moved) -> bool:
    return any(len(ids) for ids in moved.ids.values())
