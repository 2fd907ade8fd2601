"""Snapshot files: a state on disk, every byte of it covered by a checksum, written whole or not at all.

Layout (all numbers little-endian)::

    prefix    8 bytes magic, u32 format version, u64 length of the header
    header    JSON: the tree of plain values; tensors and bytes stand in it as the numbers of sections
              and the list of sections: dtype, shape, bytes, SHA-256
    sections  raw values, one behind the other
    footer    SHA-256 of prefix and header, u64 length of the file, 8 bytes end magic

A file is written beside its place, flushed to the disk and renamed, so a crash leaves the earlier file or this one.
Nothing in it is ever executed. Any damage raises CorruptSnapshot before anything is returned.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from headrace.errors import CorruptSnapshot, StoreError
from headrace.types import State, StateValue

MAGIC, END = b"HEADRACE", b"ECARDAEH"
FORMAT = 1
_PREFIX, _FOOTER = struct.Struct("<8sIQ"), struct.Struct("<32sQ8s")
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
                  torch.float16, torch.bfloat16, torch.float32, torch.float64)
}  # fmt: skip


def write_snapshot(path: str | os.PathLike[str], state: State) -> int:
    """Write a state to `path`, atomically and durably.

    Args:
        path: File to write or replace; its folder must exist.
        state: Nested dicts and lists of plain values, bytes and CPU tensors.

    Returns:
        Bytes written.

    Raises:
        StoreError: If the state holds something else, or the file cannot be written (disk full); an earlier file
            at `path` is untouched then.
    """
    place = Path(path)
    writer = _Writer()
    tree = writer.encode(state, "state")
    header = json.dumps({"state": tree, "sections": writer.sections}).encode()
    prefix = _PREFIX.pack(MAGIC, FORMAT, len(header))
    digest = hashlib.sha256(prefix + header).digest()
    length = len(prefix) + len(header) + sum(len(data) for data in writer.data) + _FOOTER.size
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            for part in (prefix, header, *writer.data, _FOOTER.pack(digest, length, END)):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, place)
        _sync_folder(place.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(
            f"Snapshot {place}", got=error.strerror or str(error), expected=f"room for {length} bytes",
            do="The earlier file, if any, is untouched. Free space or choose another folder.",
        ) from error  # fmt: skip
    return length


def read_snapshot(path: str | os.PathLike[str]) -> State:
    """Read what `write_snapshot` wrote.

    Raises:
        CorruptSnapshot: If any byte of the file is damaged or missing, or it is no snapshot; nothing was used.
        StoreError: If the file cannot be opened.
    """
    place = Path(path)
    try:
        with place.open("rb") as file, _as_corrupt(place):
            return _read(place, file)
    except OSError as error:
        raise StoreError(f"Snapshot {place}", got=error.strerror or str(error), expected="a readable file") from error


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # other systems have no handle on folders; the rename itself is atomic there
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(slots=True)
class _Writer:
    """Turns a state into JSON values and sections."""

    sections: list[dict[str, Any]] = field(default_factory=list)
    data: list[memoryview | bytes] = field(default_factory=list)

    def encode(self, value: StateValue, where: str) -> dict[str, Any]:
        """Return a JSON object with one key that says what the value is."""
        if isinstance(value, dict):
            if not all(isinstance(name, str) for name in value):
                raise self._refuse(where, "a key that is no text")
            return {"dict": {name: self.encode(item, f"{where}.{name}") for name, item in value.items()}}
        if isinstance(value, list):
            return {"list": [self.encode(item, f"{where}[{place}]") for place, item in enumerate(value)]}
        if isinstance(value, Tensor):
            return {"tensor": self._tensor(value, where)}
        if isinstance(value, bytes):
            return {"bytes": self._add("bytes", [len(value)], value)}
        if value is None or isinstance(value, (bool, int, float, str)):
            return {"plain": value}
        raise self._refuse(where, f"a {type(value).__name__}")

    def _refuse(self, where: str, got: str) -> StoreError:
        expected = "None, bool, int, float, str, bytes, a CPU tensor, or lists and dicts of them"
        return StoreError(f"Snapshot, {where}", got=got, expected=expected)

    def _tensor(self, value: Tensor, where: str) -> int:
        name = str(value.dtype).removeprefix("torch.")
        if name not in _DTYPES or value.device.type != "cpu" or value.layout != torch.strided:
            raise self._refuse(where, f"a {name} tensor on {value.device}")
        if sys.byteorder != "little":
            raise StoreError("Snapshot", got=f"a {sys.byteorder}-endian machine", expected="a little-endian one")
        flat = value.detach().contiguous().reshape(-1)
        data = flat.view(torch.uint8).numpy().data if flat.numel() else b""
        return self._add(name, list(value.shape), data)

    def _add(self, dtype: str, shape: list[int], data: memoryview | bytes) -> int:
        digest = hashlib.sha256(data).hexdigest()
        self.sections.append({"dtype": dtype, "shape": shape, "bytes": len(data), "sha256": digest})
        self.data.append(data)
        return len(self.data) - 1


@contextmanager
def _as_corrupt(place: Path) -> Iterator[None]:
    """Anything that breaks while reading means that the file is not what was written."""
    try:
        yield
    except (ValueError, KeyError, TypeError, IndexError, struct.error, RecursionError, RuntimeError) as error:
        raise _corrupt(place, f"{type(error).__name__}: {error}"[:200], "a whole snapshot") from error


def _corrupt(place: Path, got: str, expected: str) -> CorruptSnapshot:
    return CorruptSnapshot(f"Snapshot {place}", got=got, expected=expected,
                           do="Nothing of it was used. Take an older snapshot.")  # fmt: skip


def _read(place: Path, file: BinaryIO) -> State:
    length = os.fstat(file.fileno()).st_size
    if length < _PREFIX.size + _FOOTER.size:
        raise _corrupt(place, f"{length} bytes", "a whole snapshot")
    prefix = file.read(_PREFIX.size)
    magic, version, header_length = _PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise _corrupt(place, f"magic {magic!r}", f"magic {MAGIC!r}")
    if version != FORMAT:
        raise _corrupt(place, f"format version {version}", f"format version {FORMAT}")
    if header_length > length - _PREFIX.size - _FOOTER.size:
        raise _corrupt(place, f"a header of {header_length} bytes", "a header that fits the file")
    header = file.read(header_length)
    file.seek(length - _FOOTER.size)
    digest, written, end = _FOOTER.unpack(file.read(_FOOTER.size))
    if end != END:
        raise _corrupt(place, f"{length} bytes without an end mark", "a file that was written to its end")
    if written != length:
        raise _corrupt(place, f"{length} bytes", f"{written} bytes, as its footer says")
    if hashlib.sha256(prefix + header).digest() != digest:
        raise _corrupt(place, "another checksum of the header", digest.hex())
    content = json.loads(header)
    sections = content["sections"]
    if _PREFIX.size + header_length + sum(item["bytes"] for item in sections) + _FOOTER.size != length:
        raise _corrupt(place, f"sections that do not fill {length} bytes", "sections one behind the other")
    file.seek(_PREFIX.size + header_length)
    values = [_section(place, file, number, item) for number, item in enumerate(sections)]
    state = _decode(content["state"], values)
    if not isinstance(state, dict):
        raise _corrupt(place, f"a {type(state).__name__}", "a state")
    return state


def _section(place: Path, file: BinaryIO, number: int, section: dict[str, Any]) -> Tensor | bytes:
    raw = torch.empty(section["bytes"], dtype=torch.uint8)
    view = raw.numpy().data
    if file.readinto(view) != len(view):  # type: ignore[attr-defined]
        raise _corrupt(place, f"section {number} cut short", f"{len(view)} bytes")
    if hashlib.sha256(view).hexdigest() != section["sha256"]:
        raise _corrupt(place, f"another checksum of section {number}", section["sha256"])
    if section["dtype"] == "bytes":
        return bytes(view)
    dtype = _DTYPES[section["dtype"]]
    return (raw.view(dtype) if len(view) else torch.empty(0, dtype=dtype)).reshape(section["shape"])


def _decode(node: dict[str, Any], values: list[Tensor | bytes]) -> StateValue:
    ((kind, value),) = node.items()
    if kind == "dict":
        return {name: _decode(item, values) for name, item in value.items()}
    if kind == "list":
        return [_decode(item, values) for item in value]
    if kind in ("tensor", "bytes"):
        return values[int(value)]
    if kind != "plain" or not (value is None or isinstance(value, (bool, int, float, str))):
        raise ValueError(f"unknown kind of value {kind!r}")
    plain: StateValue = value
    return plain
