"""The bound: `plain_array.cc`, compiled for this machine, called through ctypes."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from table_contenders.protocol import serve
from table_contenders.workload import EPS, INITIAL_ACCUMULATOR, LR, PATTERNS, Floats, Ids, Material

SOURCE = Path(__file__).with_name("plain_array.cc")
FLAGS = ("-std=c++20", "-O3", "-march=native", "-mprefer-vector-width=512", "-ffp-contract=off", "-fno-math-errno",
         "-fno-trapping-math", "-shared", "-fPIC", "-pthread")  # fmt: skip


def compiled() -> ctypes.CDLL:
    """Return the library, built once per state of its source in build/peers."""
    stamp = hashlib.sha256(SOURCE.read_bytes() + " ".join(FLAGS).encode()).hexdigest()[:16]
    library = SOURCE.parents[2] / "build" / "peers" / f"plain_array-{stamp}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        finished = library.with_suffix(f".{os.getpid()}.tmp")
        flags = [flag for flag in FLAGS if "vector-width" not in flag or os.uname().machine == "x86_64"]
        subprocess.run([os.environ.get("CXX", "g++"), *flags, str(SOURCE), "-o", str(finished)], check=True)
        finished.rename(library)
    return ctypes.CDLL(str(library))


class PlainArray:
    """One array of cells per feature."""

    def __init__(self, material: Material, options: Mapping[str, Any]) -> None:
        work = material.work
        self._library, self._work, self._material = compiled(), work, material
        self._out = np.empty_like(material.grads)
        self._library.plain_open.restype = ctypes.c_void_p
        numbers = [ctypes.c_int64(number) for number in (work.features, work.rows_each, work.dim)]
        rule = [ctypes.c_float(number) for number in (LR, INITIAL_ACCUMULATOR, EPS)]
        pattern = (_pointer(material.pattern), ctypes.c_int64(PATTERNS))
        self._array = ctypes.c_void_p(self._library.plain_open(*numbers, options["threads"], *rule, *pattern))
        if not self._array:
            raise MemoryError("no memory for the plain array")

    def _forward(self, batch: int) -> None:
        ids = _pointer(self._material.ids[batch])
        self._library.plain_forward(self._array, ids, ctypes.c_int64(self._work.batch), _pointer(self._out))

    def lookup(self, batch: int) -> None:
        """Look up one batch."""
        self._forward(batch)

    def train(self, batch: int) -> None:
        """Look up, then learn."""
        self._forward(batch)
        ids, grads = _pointer(self._material.ids[batch]), _pointer(self._material.grads)
        self._library.plain_backward(self._array, ids, grads, ctypes.c_int64(self._work.batch))

    def rows(self, feature: int, ids: Ids) -> Floats:
        """Return rows of one feature."""
        asked = np.zeros((self._work.features, len(ids)), np.int64)
        asked[feature] = ids
        out = np.empty((*asked.shape, self._work.dim), np.float32)
        self._library.plain_forward(self._array, _pointer(asked), ctypes.c_int64(len(ids)), _pointer(out))
        found: Floats = out[feature]
        return found

    def use_threads(self, count: int) -> None:
        """Replace the pool of threads."""
        self._library.plain_threads(self._array, count)


def _pointer(array: Ids | Floats) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


if __name__ == "__main__":
    serve(PlainArray)
