"""Table files: one table in one file, or what changed in it since another; the native table writes while it learns.

A file is written beside its place, flushed to the disk and renamed, so a crash leaves the earlier file or this one.
Every byte of it is under a checksum, and nothing of it is used before all of it was found right. The layout is drawn
in `csrc/snapshot/file_format.h`; reading and writing is native code.

Increments: `save_table(table, path, since=earlier)` writes only what changed since the file `earlier`, and holds the
digest of that file. `load_table(table, [full, first, second])` takes a full file and its increments in order.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeAlias

from headrace.errors import ConfigError, CorruptSnapshot, HeadraceError, RowRuleMismatch, StoreError
from headrace.store.block_columns import (
    Answer,
    FileLayout,
    FileNumbers,
    columns_of,
    restored_state,
    write_columns,
)
from headrace.store.checked import CheckedTable
from headrace.store.parts import TableParts, slot_count, spec_of, unlike
from headrace.store.precision import encoded_bytes
from headrace.store.table import load_native

AnyPath: TypeAlias = str | os.PathLike[str]

HEADER_FORMAT = 1

# The codes of csrc/table/status.h that files give; others are the table's own.
_STALE, _INVALID, _IO, _CORRUPT = 4, 8, 9, 10


@dataclass(frozen=True, slots=True)
class TableFile:
    """What a table file says of itself.

    Attributes:
        path: Where it is.
        bytes: How long it is.
        digest: Its name, from all checksums in it, 16 hexadecimal digits.
        mark: The table's mark that it shows.
        since: The mark of the file that it continues; None for a full file.
        parent: The digest of the file that it continues; None for a full file.
        rows: Rows in it.
        table: Name of the table.
        shard: Which shard of how many it holds; (0, 1) is a whole table.
    """

    path: Path
    bytes: int
    digest: str
    mark: int
    since: int | None
    parent: str | None
    rows: int
    table: str
    shard: tuple[int, int] = (0, 1)


class Saver(Protocol):
    """A save under way, of the native table or of the reference."""

    def done(self) -> bool:
        """Return whether `wait` would return at once."""

    def wait(self) -> tuple[Answer, int, int, int, int]:
        """Return (code, detail), bytes, digest, mark and rows, once all is on the disk or has failed."""


class Saving:
    """A save that has begun. The file shows the table as it was at that moment; the table may learn on.

    Dropping a Saving that nobody waits for cancels a save of the native table.

    Thread safety: any thread may ask or wait.
    """

    def __init__(self, saver: Saver, file: TableFile) -> None:
        self._saver, self._file = saver, file

    def done(self) -> bool:
        """Return whether `wait` would return at once."""
        return self._saver.done()

    def wait(self) -> TableFile:
        """Wait until the file is in its place and on the disk.

        Raises:
            StoreError: If it could not be written (disk full); an earlier file at the path is untouched then.
        """
        answer, size, digest, mark, rows = self._saver.wait()
        accept(answer, self._file.path, "a file that can be written",
               "An earlier file there is untouched. Free space or choose another folder.")  # fmt: skip
        file = self._file
        return TableFile(file.path, size, f"{digest:016x}", mark, file.since, file.parent, rows, file.table, file.shard)


def save_table(
    table: CheckedTable, path: AnyPath, *, since: TableFile | AnyPath | None = None, shard: tuple[int, int] = (0, 1)
) -> TableFile:
    """Write a table to a file and wait for the disk; see `begin_save`.

    Example:
        >>> import torch
        >>> from headrace.store import TableConfig, open_table
        >>> table = open_table(TableConfig(name="user", dim=2))
        >>> table.assign(torch.tensor([7, 8]), torch.ones(2, 2))
        >>> full = save_table(table, "user.full")
        >>> _ = table.remove(torch.tensor([8]))
        >>> step = save_table(table, "user.step", since=full)
        >>> other = open_table(TableConfig(name="user", dim=2))
        >>> load_table(other, [full.path, step.path]).mark, other.contains(torch.tensor([7, 8])).tolist()
        (2, [True, False])
    """
    return begin_save(table, path, since=since, shard=shard).wait()


def begin_save(
    table: CheckedTable, path: AnyPath, *, since: TableFile | AnyPath | None = None, shard: tuple[int, int] = (0, 1)
) -> Saving:
    """Begin to write a table, as it is now, to a file.

    Args:
        table: The table; it may be used and changed as before while the file is written.
        path: File to write or replace; its folder must exist.
        since: An earlier file of this table: write only what changed since. None: write everything.
        shard: Which shard of how many the table is; its ids must all be of that shard (see `shards`).

    Raises:
        StaleError: If the table no longer knows what changed since that file; save everything then.
        StoreError: If the table keeps no history, or `since` is of another shard or of a later mark.

    Cost:
        The native table: readers and writers go on; memory for the rows that are changed before they are written,
        bounded by the table's budget. The reference: a copy of the table.
    """
    module, place = native_files(), Path(path)
    before = since if since is None or isinstance(since, TableFile) else inspect_table_file(since)
    _check_request(table, before, shard)
    config = table.config
    header = _header(table)
    mark, parent = (-1, 0) if before is None else (before.mark, int(before.digest, 16))
    if hasattr(table, "_begin_save"):
        saver: Saver = table._begin_save(str(place), header, mark, parent, *shard)
    else:
        columns = columns_of(table, None if before is None else before.mark)
        layout = FileLayout(
            row_bytes=encoded_bytes(_precision(table), config.dim), slots=slot_count(config, table.serving),
            has_times=config.storage.event_times, has_marks=config.storage.keeps_history(table.serving),
            has_frequencies=config.storage.keeps_frequencies(table.serving), incremental=before is not None,
            whole_pending=before is not None, shard=shard[0], shards=shard[1], since=max(mark, 0), parent=parent,
        )  # fmt: skip
        saver = _ColumnsSaver(module, place, header, layout, columns, _precision(table))
    since_mark, since_digest = (None, None) if before is None else (before.mark, before.digest)
    return Saving(saver, TableFile(place, 0, "", 0, since_mark, since_digest, 0, config.name, shard))


def load_table(table: CheckedTable, paths: AnyPath | Sequence[AnyPath]) -> TableFile:
    """Become the table of a full file, or of a full file and the increments that continue it, in order.

    All files are checked whole before the table changes: a table takes all of them or stays as it is. Event times,
    marks and frequencies that the files lack, as their table did not keep them, start at zero or without history.

    Returns:
        The last file; the next increment may continue it.

    Raises:
        RowRuleMismatch: If the files are of another table: dim, rule, init, seed, name, serving or precision.
        CorruptSnapshot: If a byte of a file is damaged or missing, or an increment does not continue the file before.
        CapacityError: If the table has no room for the rows.
        StoreError: If a file cannot be read.
    """
    places = [Path(paths)] if isinstance(paths, (str, os.PathLike)) else [Path(path) for path in paths]
    if not places:
        raise StoreError("Table files", got="no file", expected="a full file, then its increments")
    chain = native_files().TableChain()
    answer = chain.open([str(place) for place in places])
    if answer[0] == _INVALID:
        raise _broken_chain(places, chain.where())
    accept_read(answer, places[chain.where()])
    facts = chain.facts()
    files = [_described(place, fact) for place, fact in zip(places, facts, strict=True)]
    for place, fact in zip(places, facts, strict=True):
        _check_header(table, place, fact)
    storage = table.config.storage
    if hasattr(table, "_load_blocks"):
        chain.give(storage.event_times, storage.keeps_history(table.serving),
                   storage.keeps_frequencies(table.serving))  # fmt: skip
        answer = table._load_blocks(chain)
        if answer[0] not in (0, _INVALID, _IO, _CORRUPT):
            table._accept(answer, "load_table")  # type: ignore[attr-defined]
        accept_read(answer, places[chain.where()])
    else:
        chain.give(True, True, True)
        blocks, answer = _read_blocks(chain)
        accept_read(answer, places[chain.where()])
        table.restore(restored_state(table, blocks, FileNumbers(*chain.numbers()), _precision(table)))
    return files[-1]


def inspect_table_file(path: AnyPath) -> TableFile:
    """Return what a file says of itself, after checking its beginning and end; its blocks are not read.

    Raises:
        CorruptSnapshot: If it is no table file, or was cut or damaged at either end.
        StoreError: If it cannot be read.
    """
    place, reader = Path(path), native_files().TableFileReader()
    accept_read(reader.open(str(place)), place)
    return _described(place, reader.facts())


def native_files() -> ModuleType:
    """Return the native module; table files are read and written by it alone.

    Raises:
        ConfigError: If it is missing.
    """
    module = load_native()
    if module is None or not hasattr(module, "TableFileReader"):
        raise ConfigError("Table files", got="no native module", expected="headrace.store._native",
                          do="Install a wheel, or use write_snapshot(path, table.state()).")  # fmt: skip
    return module


def accept(answer: Answer, place: Path, expected: str, do: str) -> None:
    """Raise the error of an answer about a file that did not go well."""
    code, detail = answer
    if code == 0:
        return
    what = f"Table file {place}"
    if code == _CORRUPT:
        raise CorruptSnapshot(what, got=f"damage at byte {detail}", expected="a whole table file",
                              do="Nothing of it was used. Take an older file.")  # fmt: skip
    got = os.strerror(detail) if code == _IO else f"native code {code} ({detail})"
    if code == _INVALID:
        got, expected = f"stripe {detail} with ids or marks that cannot be there", "ids of the shard, sound marks"
    raise StoreError(what, got=got, expected=expected, do=do)


def accept_read(answer: Answer, place: Path) -> None:
    """Raise the error of reading a file."""
    if answer[0] == _INVALID:
        raise RowRuleMismatch(f"Table file {place}", got="a sketch or rows of another size", expected="the table's",
                              do="Open the table with the configuration that it was saved with.")  # fmt: skip
    accept(answer, place, "a readable table file", "Nothing was changed.")


def header_of(place: Path, raw: bytes) -> dict[str, Any]:
    """Return the header of a file; it passed its checksum, which says nothing about who wrote it."""
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _unknown_header(place, str(error)[:100]) from error
    if (
        not isinstance(header, dict)
        or header.get("format") != HEADER_FORMAT
        or not isinstance(header.get("spec"), dict)
    ):
        raise _unknown_header(place, raw[:100].decode("utf-8", "replace"))
    return header


def _unknown_header(place: Path, got: str) -> HeadraceError:
    return CorruptSnapshot(f"Table file {place}, header", got=got, expected=f"a header of format {HEADER_FORMAT}",
                           do="Read it with the version that wrote it.")  # fmt: skip


def _precision(table: CheckedTable) -> Any:
    return table.config.storage.row_precision(table.serving)


def _header(table: CheckedTable) -> bytes:
    header = {"format": HEADER_FORMAT, "spec": spec_of(table.config, table.serving), "precision": _precision(table)}
    return json.dumps(header, sort_keys=True).encode()


def _described(place: Path, fact: tuple[Any, ...]) -> TableFile:
    raw, layout, numbers, totals, digest, size = fact
    shape, header = FileLayout(*layout), header_of(place, raw)
    name = str(header["spec"].get("name", "")).strip('"')
    since, parent = (shape.since, f"{shape.parent:016x}") if shape.incremental else (None, None)
    return TableFile(place, size, f"{digest:016x}", FileNumbers(*numbers).mark, since, parent, totals[0], name,
                     (shape.shard, shape.shards))  # fmt: skip


def _check_request(table: CheckedTable, before: TableFile | None, shard: tuple[int, int]) -> None:
    what = f"Table '{table.config.name}', save"
    index, count = shard
    if not 0 <= index < count <= 4096:
        raise StoreError(f"{what}, shard", got=shard, expected="(shard, shards) with 0 <= shard < shards <= 4096")
    if before is None:
        return
    if not table.config.storage.keeps_history(table.serving):
        raise StoreError(f"{what}, since", got="a table without history", expected="Storage(history=True)",
                         do="Save everything.")  # fmt: skip
    if before.shard != shard:
        raise StoreError(f"{what}, since", got=f"a file of shard {before.shard}", expected=f"one of shard {shard}")
    if before.mark > table.mark():
        raise StoreError(f"{what}, since", got=f"a file of mark {before.mark}",
                         expected=f"one of a mark up to {table.mark()}", do="Save everything.")  # fmt: skip


def _check_header(table: CheckedTable, place: Path, fact: tuple[Any, ...]) -> None:
    header, layout = header_of(place, fact[0]), FileLayout(*fact[1])
    wanted = spec_of(table.config, table.serving) | {"precision": _precision(table)}
    saved = header["spec"] | {"precision": header.get("precision")}
    difference = unlike(wanted, saved)
    if difference is not None:
        name, there, here = difference
        raise RowRuleMismatch(f"Table file {place}, {name}", got=there, expected=here,
                              do="Open the table with the configuration that it was saved with.")  # fmt: skip
    sizes = encoded_bytes(_precision(table), table.config.dim), slot_count(table.config, table.serving)
    if (layout.row_bytes, layout.slots) != sizes:
        raise CorruptSnapshot(f"Table file {place}", got=f"rows of {layout.row_bytes} bytes and {layout.slots} slots",
                              expected=f"{sizes[0]} bytes and {sizes[1]} slots, as its header says")  # fmt: skip


def _broken_chain(places: list[Path], at: int) -> HeadraceError:
    file = inspect_table_file(places[at])
    if at == 0:
        return CorruptSnapshot(f"Table file {places[0]}", got=f"an increment since mark {file.since}",
                               expected="a full file first", do="Nothing was changed.")  # fmt: skip
    before = inspect_table_file(places[at - 1])
    got = "a full file" if file.since is None else f"an increment since mark {file.since} of file {file.parent}"
    return CorruptSnapshot(
        f"Table file {places[at]}", got=got, expected=f"one since mark {before.mark} of file {before.digest}",
        do=f"Nothing was changed. It does not continue {before.path}; give the files in the order they were saved.",
    )  # fmt: skip


def _read_blocks(chain: Any) -> tuple[list[tuple[Any, ...]], Answer]:
    blocks: list[tuple[Any, ...]] = []
    while True:
        answer, block = chain.next()
        if block is None:
            return blocks, answer
        blocks.append(block)


class _ColumnsSaver:
    """Writes copied columns in a thread of its own."""

    def __init__(
        self, module: ModuleType, place: Path, header: bytes, layout: FileLayout, columns: TableParts, precision: Any
    ) -> None:
        self._result: tuple[Answer, int, int, int, int] | Exception = StoreError("Table file", got="a save that ended")
        arguments = (module, place, header, layout, columns, precision)
        self._thread = threading.Thread(target=self._run, args=arguments, name="table file")
        self._thread.start()

    def _run(self, *arguments: Any) -> None:
        try:
            self._result = write_columns(*arguments)
        except Exception as error:  # noqa: BLE001 - told by wait, in the thread that asks
            self._result = error

    def done(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> tuple[Answer, int, int, int, int]:
        self._thread.join()
        if isinstance(self._result, Exception):
            raise self._result
        return self._result
