"""Reads MATLAB files of version 5 (MAT 5.0 to 7, not the HDF5 files of 7.3): numbers, text, sparse matrices and cells.

No object and no code is made from the file: what is not numbers, text or cells is refused. Compressed files (`.gz`,
`.zst`) are decompressed on the way, and so are MATLAB's own compressed variables.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from headrace.data.files import chunks
from headrace.errors import DataError

Numbers: TypeAlias = npt.NDArray[Any]
MatValue: TypeAlias = "Numbers | Sparse | str | list[MatValue]"

HEADER_BYTES = 128
LIMIT_BYTES = 1 << 30
"""The most bytes that a file, or one variable of it, may unpack to."""
DEEPEST = 8
"""How deep cells may lie in each other."""

_MATRIX, _COMPRESSED = 14, 15
_KINDS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8", 16: "u1",
          17: "u2", 18: "u4"}  # fmt: skip
_CELL, _CHAR, _SPARSE = 1, 4, 5
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_COMPLEX = 0x08


@dataclass(frozen=True, slots=True, eq=False)
class Sparse:
    """A sparse matrix, row by row: row r has `values[starts[r]:starts[r+1]]` in `columns[...]`, columns ascending.

    Shapes: starts (rows + 1,) int64; columns (N,) int64; values (N,) of the file's type.
    """

    shape: tuple[int, int]
    starts: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    values: Numbers

    def dense(self) -> Numbers:
        """Return the whole matrix. Cost: rows times columns."""
        whole = np.zeros(self.shape, dtype=self.values.dtype)
        whole[np.repeat(np.arange(self.shape[0]), np.diff(self.starts)), self.columns] = self.values
        return whole


def read_matlab(path: Path) -> dict[str, MatValue]:
    """Return the variables of a MATLAB file by name.

    Matrices keep their two or more dimensions; text becomes `str`, a cell array a list in MATLAB's order (down the
    columns), a sparse matrix `Sparse`.

    Raises:
        DataError: If it is not such a file, is damaged, unpacks to more than 1 GiB, or holds structs, objects,
            functions or complex numbers.

    Source:
        MathWorks, "MAT-File Format", level 5.

    Cost: the file and the variable at hand are held in memory.
    """
    reader = _Reader(str(path.name))
    data = reader.whole(path)
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if len(data) < HEADER_BYTES or order is None:
        hdf = data[:19] == b"MATLAB 7.3 MAT-file"
        raise reader.error("an HDF5 file of MATLAB 7.3" if hdf else "no MATLAB header", "a MATLAB file of version 5",
                           "Save it with `save(name, '-v7')`.")  # fmt: skip
    reader.order = order
    found: dict[str, MatValue] = {}
    for kind, content in reader.elements(memoryview(data)[HEADER_BYTES:]):
        parts = list(reader.elements(reader.unpacked(content))) if kind == _COMPRESSED else [(kind, content)]
        for inner, matrix in parts:
            if inner != _MATRIX:
                raise reader.error(f"an element of type {inner} between the variables", "matrices")
            name, value = reader.matrix(matrix, 0)
            found[name] = value
    return found


class _Reader:
    """The state of one reading: the file's name for errors, and its byte order."""

    def __init__(self, name: str) -> None:
        self.name, self.order = name, "<"

    def error(self, got: str, expected: str, do: str = "It is damaged, or not what its name says.") -> DataError:
        return DataError(f"MATLAB file {self.name}", got=got, expected=expected, do=do)

    def whole(self, path: Path) -> bytes:
        parts, size = [], 0
        for chunk in chunks(path):
            parts.append(chunk)
            size += len(chunk)
            if size > LIMIT_BYTES:
                raise self.error(f"more than {LIMIT_BYTES} bytes", "a smaller file", "Split it.")
        return b"".join(parts)

    def unpacked(self, data: memoryview) -> memoryview:
        stream = zlib.decompressobj()
        try:
            content = stream.decompress(data, LIMIT_BYTES)
        except zlib.error as error:
            raise self.error(f"compressed data that does not unpack ({error})", "whole zlib data") from error
        if not stream.eof:
            raise self.error("compressed data that is cut short or unpacks to too much", "whole data below 1 GiB")
        return memoryview(content)

    def elements(self, data: memoryview) -> list[tuple[int, memoryview]]:
        """Return the data elements that follow each other: type and content."""
        found, place = [], 0
        while place < len(data):
            if place + 8 > len(data):
                raise self.error("an element that is cut short", "8 bytes of tag")
            kind, size = struct.unpack_from(f"{self.order}II", data, place)
            if kind >> 16:  # a small element: size, type and up to 4 bytes in one tag
                kind, size, start, step = kind & 0xFFFF, kind >> 16, place + 4, 8
            else:
                start, step = place + 8, 8 + size + (0 if kind == _COMPRESSED else -size % 8)
            if start + size > len(data) or (start == place + 4 and size > 4):
                raise self.error(f"an element of {size} bytes where {len(data) - start} are left", "whole elements")
            found.append((kind, data[start : start + size]))
            place += step
        return found

    def numbers(self, element: tuple[int, memoryview]) -> Numbers:
        kind, content = element
        if kind not in _KINDS or len(content) % np.dtype(_KINDS[kind]).itemsize:
            raise self.error(f"{len(content)} bytes of type {kind}", "numbers")
        return np.frombuffer(content, dtype=self.order + _KINDS[kind])

    def matrix(self, data: memoryview, depth: int) -> tuple[str, MatValue]:
        """Return name and value of one matrix."""
        parts = self.elements(data)
        if len(parts) < 3:
            raise self.error(f"a matrix of {len(parts)} parts", "flags, dimensions, name and content")
        flags = self.numbers(parts[0])
        shape = tuple(int(size) for size in self.numbers(parts[1]))
        if not len(flags) or len(shape) < 2 or min(shape) < 0:
            raise self.error(f"a matrix of shape {shape}", "two or more dimensions")
        kind, name = int(flags[0]) & 0xFF, bytes(parts[2][1]).decode("utf-8", "replace")
        if (int(flags[0]) >> 8) & _COMPLEX:
            raise self.error(f"complex numbers in '{name}'", "real numbers", "Split them into two matrices.")
        if kind == _CELL:
            return name, self.cells(parts[3:], shape, depth, name)
        if kind == _SPARSE:
            return name, self.sparse(parts[3:], shape, name)
        if kind != _CHAR and kind not in _CLASSES:
            raise self.error(f"a struct, object or function in '{name}' (class {kind})", "numbers, text or cells")
        flat = self.numbers(parts[3]) if len(parts) > 3 else np.zeros(0)
        if len(flat) != math.prod(shape):
            raise self.error(f"{len(flat)} values in '{name}'", f"{math.prod(shape)}, as its shape {shape} says")
        if kind == _CHAR:
            return name, "".join(map(chr, flat.tolist()))
        return name, np.array(flat, dtype=_CLASSES[kind]).reshape(shape, order="F")

    def cells(self, parts: list[tuple[int, memoryview]], shape: tuple[int, ...], depth: int, name: str) -> MatValue:
        if depth >= DEEPEST or len(parts) != math.prod(shape) or any(kind != _MATRIX for kind, _ in parts):
            raise self.error(f"{len(parts)} parts in the cell array '{name}', {depth + 1} deep",
                             f"{math.prod(shape)} matrices, at most {DEEPEST} deep")  # fmt: skip
        return [self.matrix(content, depth + 1)[1] for _, content in parts]

    def sparse(self, parts: list[tuple[int, memoryview]], shape: tuple[int, ...], name: str) -> Sparse:
        """Return a matrix stored column by column in order of rows."""
        if len(parts) < 3 or len(shape) != 2:
            raise self.error(f"{len(parts)} parts in the sparse matrix '{name}'", "rows, column starts and values")
        starts = self.numbers(parts[1]).astype(np.int64)
        count = int(starts[-1]) if len(starts) else 0
        rows, values = self.numbers(parts[0])[:count].astype(np.int64), self.numbers(parts[2])[:count]
        sound = len(starts) == shape[1] + 1 and starts[0] == 0 and bool((np.diff(starts) >= 0).all())
        sound = sound and len(rows) == len(values) == count
        if not sound or (count and not 0 <= rows.min() <= rows.max() < shape[0]):
            raise self.error(f"places outside the sparse matrix '{name}' of shape {shape}", "places inside it")
        columns, order = np.repeat(np.arange(shape[1]), np.diff(starts)), np.argsort(rows, kind="stable")
        counts = np.bincount(rows, minlength=shape[0])
        row_starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
        native = values[order].astype(values.dtype.newbyteorder("="))
        return Sparse((shape[0], shape[1]), row_starts, columns[order], native)
