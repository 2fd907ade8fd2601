"""Tables and dense tensors of a served model in memory that several processes share: one writes, any number read.

A `SharedSpace` is a folder of files, by default in `/dev/shm`, which is memory. Its writer makes version after
version; a `SharedReader` in another process (or thread) finds each version whole, sparse and dense, without a lock and
without a copy of its own. `csrc/shared/layout.h` says how.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headrace.config import require
from headrace.errors import CapacityError, CorruptSnapshot, HeadraceError, StaleError, StoreError
from headrace.store.arguments import Arguments
from headrace.store.precision import PRECISION_CODES
from headrace.store.table import load_native, native_initial
from headrace.store.table_config import TableConfig, TableStats
from headrace.types import RowChange

MEMORY = Path("/dev/shm")
"""Where spaces lie if nothing else is said, on systems that have it; else in the folder for temporary files."""
PREFIX, LOCK, ABOUT = "headrace-space-", "lock", "about.json"
PLACES = 256
"""Readers that a space has places for."""
GRACE_US = 2_000_000
"""How long the writer waits for readers of the version before last."""
_ALIGN = 64
_STALE, _NO_MEMORY, _BUSY = 4, 7, 14
_TYPES = {str(kind).removeprefix("torch."): kind for kind in (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class DensePlace:
    """Where a dense tensor lies: bytes from the start of the dense part, its type and shape."""

    at: int
    dtype: str
    shape: tuple[int, ...]


class SharedSpace:
    """The writing end: the one process that moves a space from version to version.

    Args:
        tables: What each table is made of; rows are kept in its `storage.serving_precision`.
        dense: The dense tensors by name, for their types and shapes.
        parent: Folder in which the space gets a folder of its own; None: `MEMORY`.

    Raises:
        ConfigError: Without the native module, or for initial rows that it does not know.
        CapacityError: If the folder has no room.

    Thread-safety: one thread at a time writes. Cost: `begin` copies the dense part once and waits until no reader is
        two versions behind; `put` writes each row once.

    Example:
        >>> space = SharedSpace({"user": TableConfig(name="user", dim=2)}, {"bias": torch.zeros(1)})
        >>> reader = SharedReader(space.folder, place=0)
        >>> space.begin(full=True)
        >>> space.put("user", torch.tensor([7]), torch.tensor([[0.5, 1.0]]))
        >>> space.commit(0, -1)
        >>> with reader.reading():
        ...     reader.tables["user"].lookup(torch.tensor([7])).tolist(), reader.version
        ([[0.5, 1.0]], 0)
        >>> space.close()
    """

    def __init__(
        self, tables: Mapping[str, TableConfig], dense: Mapping[str, Tensor], *, parent: Path | None = None
    ) -> None:
        module = _native()
        self.configs = dict(tables)
        self.dense = places_of(dense)
        self.dense_bytes = max([place.at + _bytes(place) for place in self.dense.values()], default=0)
        self._numbers = {name: number for number, name in enumerate(self.configs)}
        self._arguments = {name: Arguments(name, config.dim) for name, config in self.configs.items()}
        remove_abandoned(parent)
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent or default_parent()))
        self._lock = (self.folder / LOCK).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._writer = module.SpaceWriter()
        shapes = [(c.dim, PRECISION_CODES[c.storage.row_precision(True)]) for c in self.configs.values()]
        try:
            self._check(self._writer.create(str(self.folder), shapes, self.dense_bytes), "create")
            (self.folder / ABOUT).write_text(json.dumps(self._about()))
        except (HeadraceError, OSError):
            self.close()
            raise

    def _about(self) -> dict[str, object]:
        tables = []
        for name, config in self.configs.items():
            initial = native_initial(config.init)
            require(initial is not None, f"Table '{name}', init", got=type(config.init).__name__,
                    expected="an initial row of headrace.store", do="Serve it without worker processes.")  # fmt: skip
            assert initial is not None
            tables.append([name, config.dim, [*initial, config.row_key]])
        dense = {name: [place.at, place.dtype, list(place.shape)] for name, place in self.dense.items()}
        return {"tables": tables, "dense": dense}

    def begin(self, *, full: bool, wait_us: int = GRACE_US) -> None:
        """Begin the next version; `full` drops all rows.

        Raises:
            CapacityError: If a reader has not left the version before last in time, or there is no room.
        """
        self._check(self._writer.begin(full, wait_us), "begin")

    def put(self, table: str, ids: Tensor, rows: Tensor) -> None:
        """Put rows (N, D) under distinct ids (N,).

        Raises:
            StoreError: For another shape or type.
            CapacityError: If there is no room.
        """
        wanted = self._arguments[table].int64("ids", ids)
        self._check(
            self._writer.put(self._numbers[table], wanted, self._arguments[table].float32("rows", rows, len(wanted))),
            "put",
        )

    def remove(self, table: str, ids: Tensor) -> None:
        """Remove the rows of ids (N,); ids without one are passed over."""
        self._check(self._writer.remove(self._numbers[table], self._arguments[table].int64("ids", ids)), "remove")

    def put_dense(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace dense tensors by name.

        Raises:
            StoreError: If one is not of this space, or has another type or shape.
        """
        for name, tensor in tensors.items():
            place = self.dense.get(name)
            if place is None or place.shape != tuple(tensor.shape) or place.dtype != _type_name(tensor):
                raise StoreError(f"Dense tensor '{name}'", got=f"{tensor.dtype} {tuple(tensor.shape)}",
                                 expected=str(place))  # fmt: skip
            raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy() if tensor.numel() else None
            if raw is not None:
                self._check(self._writer.put_dense(place.at, raw), "put_dense")

    def commit(self, number: int, parent: int) -> None:
        """Give the version to readers: those that come from now on find it."""
        self._check(self._writer.commit(number, parent), "commit")
        self._writer.settle(0)

    def abort(self) -> None:
        """Take back what was begun; readers have noticed nothing."""
        self._writer.abort()

    def release(self, places: Sequence[int]) -> None:
        """Forget readers that are gone, by their places."""
        for place in places:
            self._writer.release(place, place + 1)

    def stats(self, table: str) -> TableStats:
        """Return numbers about a table, as of the newest version."""
        number = self._numbers[table]
        return TableStats(rows=self._writer.rows(number), bytes=self._writer.bytes(number), admitted=0, filtered=0,
                          evicted=0, load=0.0)  # fmt: skip

    def close(self) -> None:
        """Remove the space's files; readers keep what they have mapped until they end."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def _check(self, answer: tuple[int, int], what: str) -> None:
        _raise_for(answer, f"Shared space {self.folder}, {what}")


class SharedReader:
    """The reading end, in any process: the newest version, whole, for the length of a `reading` block.

    Args:
        folder: The space's folder.
        place: This reader's place, from 0 to 255; no two readers may have the same.

    Raises:
        StoreError: If there is no space.
        CorruptSnapshot: If the files are something else.

    Thread-safety: one thread at a time.
    """

    def __init__(self, folder: Path, *, place: int) -> None:
        module = _native()
        require(0 <= place < PLACES, "SharedReader.place", got=place, expected=f"0 to {PLACES - 1}")
        self.folder, self.place = Path(folder), place
        try:
            about = json.loads((self.folder / ABOUT).read_text())
        except (OSError, ValueError) as error:
            raise StoreError(f"Shared space {folder}", got=str(error), expected="a space that its writer has made",
                             do="Start the process that writes it first.") from error  # fmt: skip
        self.native = module.SpaceReader()
        initial = [(int(kind), float(value), int(key)) for _, _, (kind, value, key) in about["tables"]]
        _raise_for(self.native.open(str(folder), place, initial), f"Shared space {folder}, open")
        self.dense_places = {name: DensePlace(int(at), str(kind), tuple(shape))
                             for name, (at, kind, shape) in about["dense"].items()}  # fmt: skip
        self._halves = [self.native.dense_half(half) for half in (0, 1)]
        self.tables = {name: SharedRows(self, number, name, int(dim))
                       for number, (name, dim, _) in enumerate(about["tables"])}  # fmt: skip

    @contextlib.contextmanager
    def reading(self) -> Iterator[int]:
        """Stay at the newest version for the length of the block; yields its number.

        Raises:
            StaleError: If there is no version yet.
        """
        _raise_for(self.native.enter(), f"Shared space {self.folder}")
        try:
            yield self.version
        finally:
            self.native.leave()

    @property
    def version(self) -> int:
        """The version that is being read; outside of `reading` the newest one, -1 before the first."""
        return int(self.native.version[0] if self.native.inside else self.native.newest())

    @property
    def parent(self) -> int:
        """The number that the version being read was made from."""
        return int(self.native.version[1])

    @property
    def half(self) -> int:
        """Which of the two dense halves belongs to the version being read."""
        return int(self.native.half)

    def dense(self, half: int) -> dict[str, Tensor]:
        """Return the dense tensors of one half: views of the shared memory, to be read while inside only."""
        return {name: _view(self._halves[half], place) for name, place in self.dense_places.items()}


class SharedRows:
    """One table of a space, to be read: what a model's embedding module needs of a table.

    Args:
        reader: Whose version is read.
        number: The table's number in the space.
        name: Its name.
        dim: Width of its rows.

    Thread-safety: one thread at a time, as its reader.
    """

    def __init__(self, reader: SharedReader, number: int, name: str, dim: int) -> None:
        self._reader, self._number, self.name, self.dim = reader, number, name, dim
        self._arguments = Arguments(name, dim)

    def lookup(self, ids: Tensor) -> Tensor:
        """Return rows (N, D) for ids (N,); an id without a row reads its initial one."""
        wanted = self._arguments.int64("ids", ids)
        out = torch.empty((len(wanted), self.dim), dtype=torch.float32)
        if not len(wanted):
            return out
        with self._inside():
            answer = self._reader.native.read(self._number, wanted, out.numpy())
        _raise_for(answer, f"Table '{self.name}'")
        return out

    def contains(self, ids: Tensor) -> Tensor:
        """Return (N,) bool: which ids have a row."""
        wanted = self._arguments.int64("ids", ids)
        out = np.zeros(len(wanted), np.uint8)
        with self._inside():
            self._reader.native.contains(self._number, wanted, out)
        return torch.from_numpy(out.astype(np.bool_))

    def rows(self) -> RowChange:
        """Return every row, ids ascending, and nothing removed."""
        with self._inside():
            ids, rows = self._reader.native.read_all(self._number)
        return RowChange(torch.from_numpy(ids), torch.from_numpy(rows), torch.zeros(0, dtype=torch.int64))

    def __len__(self) -> int:
        with self._inside():
            return int(self._reader.native.rows(self._number))

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        if self._reader.native.inside:
            yield
        else:
            with self._reader.reading():
                yield


def places_of(dense: Mapping[str, Tensor]) -> dict[str, DensePlace]:
    """Return a place for every tensor, one behind another in the order of their names, each at a multiple of 64."""
    places, at = {}, 0
    for name, tensor in sorted(dense.items()):
        places[name] = DensePlace(at, _type_name(tensor), tuple(tensor.shape))
        at += -(-_bytes(places[name]) // _ALIGN) * _ALIGN
    return places


def default_parent() -> Path:
    """Return the folder in which spaces are made: `MEMORY` where the system has it."""
    return MEMORY if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir())


def remove_abandoned(parent: Path | None = None) -> int:
    """Remove spaces of this user whose writer is gone (killed, say); returns how many."""
    removed = 0
    for folder in (parent or default_parent()).glob(f"{PREFIX}*"):
        try:
            if folder.stat().st_uid != os.getuid():
                continue
            with (folder / LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                removed += 1
        except OSError:  # somebody writes it, or it is just being made or removed
            continue
    return removed


def _native() -> Any:
    module = load_native()
    require(module is not None, "Shared memory", got="no native module", expected="headrace.store._native",
            do="Install a wheel, or serve without worker processes.")  # fmt: skip
    return module


def _type_name(tensor: Tensor) -> str:
    name = str(tensor.dtype).removeprefix("torch.")
    require(name in _TYPES, "Dense tensor", got=name, expected=f"one of {sorted(_TYPES)}")
    return name


def _bytes(place: DensePlace) -> int:
    return int(np.prod(place.shape, dtype=np.int64)) * _TYPES[place.dtype].itemsize


def _view(half: Any, place: DensePlace) -> Tensor:
    raw = torch.from_numpy(half[place.at : place.at + _bytes(place)])
    return raw.view(_TYPES[place.dtype]).reshape(place.shape) if raw.numel() else torch.empty(place.shape)


def _raise_for(answer: tuple[int, int], what: str) -> None:
    code, detail = answer
    if code == 0:
        return
    if code == _STALE:
        raise StaleError(what, got="no version yet", expected="one published version",
                         do="Wait until the first one is applied.")  # fmt: skip
    if code == _BUSY:
        raise CapacityError(what, got=f"reader {detail}, which is two versions behind", expected="readers that move on",
                            do="A process that reads hangs; it is tried again with the next look.")  # fmt: skip
    if code == _NO_MEMORY:
        raise CapacityError(what, got="no room", expected="memory for the rows",
                            do="Give /dev/shm more room (docker: --shm-size), or use smaller rows.")  # fmt: skip
    if code == 9:
        raise StoreError(what, got=os.strerror(detail), expected="files that can be read and written")
    if code == 10:
        raise CorruptSnapshot(what, got="another content", expected="the files of a shared space of this release")
    raise StoreError(what, got=f"code {code}, detail {detail}", expected="valid arguments")
