"""Memory of the outputs of a pass, used again as soon as nothing holds them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

import numpy as np

from headrace.store.row_rules import FloatArray

_LINE = 16
"""Floats of a cache line; every output begins on one."""
_KEPT = 4
"""Blocks that are kept: outputs of so many passes may be alive at once before one is allocated anew."""


def _references(blocks: list[FloatArray], place: int) -> int:
    return sys.getrefcount(blocks[place])


_ALONE = _references([np.empty(0, np.float32)], 0)
"""What the interpreter counts for a block that only its list holds; versions differ in what the call itself adds."""


class OutputMemory:
    """Gives out arrays side by side in one block.

    Freshly allocated memory of some megabytes comes from the system page by page, which costs as much as all lookups
    of a step. A block whose arrays are all gone is given out again: arrays hold their block by a reference, so the
    interpreter's own count says when.

    Thread-safety: `take` may be called from several threads.
    """

    def __init__(self) -> None:
        self._blocks: list[FloatArray] = []
        self._lock = threading.Lock()

    def take(self, shapes: Sequence[tuple[int, int]]) -> list[FloatArray]:
        """Return arrays (rows, dim) of these shapes; their content is arbitrary."""
        starts = [0]
        for rows, dim in shapes:
            starts.append(starts[-1] + (rows * dim + _LINE - 1) // _LINE * _LINE)
        with self._lock:
            block = self._free(starts[-1] + _LINE)
            first = -(block.ctypes.data // 4) % _LINE
            return [
                block[first + start : first + start + rows * dim].reshape(rows, dim)
                for start, (rows, dim) in zip(starts, shapes, strict=False)
            ]

    def _free(self, floats: int) -> FloatArray:
        """Return a block of at least so many floats that nobody else holds, kept in the list if there is room."""
        idle = [place for place in range(len(self._blocks)) if _references(self._blocks, place) == _ALONE]
        for place in idle:
            if floats <= len(self._blocks[place]) <= 4 * floats + 1024:
                return self._blocks[place]
        for place in reversed(idle):  # of another size: of no use any more
            del self._blocks[place]
        fresh = np.empty(floats + floats // 4, np.float32)
        if len(self._blocks) < _KEPT:
            self._blocks.append(fresh)
        return fresh
