"""The scanner: proves that a folder holds no trace of a user, or says where one is.

Every file is searched for the user's id as bytes: as text, as the 64-bit hash that tables use, as an integer; live
entries, free pages, write-ahead logs and files of unknown kinds alike. What can be read as rows, versions or states is
read as well, because `user-1` also stands in `user-17`, and 7 stands everywhere.
"""

from __future__ import annotations

import json
import mmap
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import torch

from headrace.data.features import Schema
from headrace.data.hashing import hash_text, is_text
from headrace.data.join_state import MAGIC as STATE
from headrace.data.join_state import decode_state, read_rows
from headrace.data.subjects import UserColumns, integer_of
from headrace.errors import ConfigError, CorruptSnapshot, DataError, HeadraceError
from headrace.learn import ManifestCheckpoint
from headrace.learn.erasure import mentions
from headrace.publish.change import MAGIC as CHANGE
from headrace.publish.change import decode
from headrace.publish.erasure import scrubbed
from headrace.types import Events, State, StateValue

SQLITE = b"SQLite format 3\x00"
ARROW = b"\xff\xff\xff\xff"
PIECE_BYTES = 8 << 20
SHORT = 5
"""Texts of fewer bytes stand by chance in any file; they are looked for in rows and names only."""
FAR = 1 << 40
"""Integers nearer to 0 stand by chance in any file; they are looked for in rows, versions and states only."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Something of a user that was found: in which file, where in it, and as what."""

    path: str
    where: str
    form: str


@dataclass(slots=True)
class Scan:
    """What a scan looked at and found.

    Attributes:
        files: Files that were searched.
        bytes: Their size.
        entries: Log entries, versions and states that were read as what they are.
        traces: What was found; none is the proof.
        unreadable: Files that were searched as bytes, but could not be read as what they claim to be.
    """

    files: int = 0
    bytes: int = 0
    entries: int = 0
    traces: list[Trace] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def find_traces(folder: Path, name: str, users: UserColumns | None = None) -> Scan:
    """Search everything below a folder for a user.

    What is read as rows, versions and states comes first. It also tells which longer texts hold the user's id as a
    part; where those stand in the bytes of a file, they are no trace.

    Args:
        folder: A run folder, a folder of changes, or any other.
        name: The user's id, as text.
        users: The columns that name users, and their tables; None: as the newest version's schema says, or every
            column where there is none.

    Raises:
        DataError: If there is no such folder.

    Cost: reads every file twice.
    """
    return find_all_traces(folder, [name], users)[name]


def find_all_traces(folder: Path, names: Sequence[str], users: UserColumns | None = None) -> dict[str, Scan]:
    """Search everything below a folder for several users at once; see `find_traces`.

    Cost: reads every file twice, and looks once for each user.
    """
    if not folder.is_dir():
        raise DataError(f"Folder {folder}", got="no such folder", expected="one that Headrace wrote")
    known = users or schema_users(folder)
    looks = [_Looks(name, known) for name in names]
    for look in (_read, _search):
        for path in sorted(folder.rglob("*")):
            with suppress(FileNotFoundError):  # a run at work removes files
                look(path, looks)
    return {one.name: one.scan for one in looks}


def schema_users(folder: Path) -> UserColumns | None:
    """Return the user columns that the newest snapshot below a folder names, or None."""
    for path in sorted(folder.rglob("*.snapshot"), reverse=True):
        try:
            spec = decode(path.read_bytes()).spec
            return UserColumns.of(Schema.from_json(spec["schema_json"])) if "schema_json" in spec else None
        except (ConfigError, CorruptSnapshot, FileNotFoundError):
            continue
    return None


class _Looks:
    """What a user looks like."""

    def __init__(self, name: str, users: UserColumns | None) -> None:
        self.name, self.users, self.number, self.scan = name, users, integer_of(name), Scan()
        self.text = name.encode()
        self._longer: dict[tuple[int, int], set[bytes]] = {}  # by place of the id in them and by length
        self.exact = {"hash": hash_text(name).to_bytes(8, "little", signed=True),
                      "hash in digits": str(hash_text(name)).encode()}  # fmt: skip
        if self.number is not None and abs(self.number) >= FAR:
            self.exact["integer"] = self.number.to_bytes(8, "little", signed=True)
        escaped = json.dumps(name)[1:-1].encode()
        self.loose = {} if len(self.text) < SHORT else {"text": self.text}
        if escaped != self.text:
            self.exact["text in JSON"] = escaped

    def found(self, path: Path, where: str, form: str) -> None:
        """Take down a trace."""
        self.scan.traces.append(Trace(str(path), where, form))

    def ids(self, table: str) -> list[int]:
        """Return the ids under which a table would hold the user."""
        if self.users is not None:
            return self.users.ids(self.name) if table in self.users.tables else []
        return [hash_text(self.name)]

    def columns(self, rows: pa.RecordBatch) -> list[str]:
        """Return the columns of rows that hold the user: those of users, and any that holds the very text."""
        found = []
        for name, column in zip(rows.schema.names, rows.columns, strict=True):
            values = _flat(column)
            integers = pa.types.is_integer(values.type) and self.users is not None and name in self.users.names
            if (
                integers
                and self.number is not None
                and pc.any(pc.equal(values, pa.scalar(self.number).cast(values.type, safe=False))).as_py()
            ):
                found.append(name)  # fmt: skip
            elif is_text(values.type):
                if pc.any(pc.equal(values, self.name)).as_py():
                    found.append(name)
                self.meet(
                    pc.unique(values.filter(pc.fill_null(pc.match_substring(values, self.name), False))).to_pylist()
                )
        return found

    def meet(self, texts: Iterable[str]) -> None:
        """Take notice of texts of which the user's id may be a part."""
        for text in texts:
            longer = text.encode()
            place = longer.find(self.text) if longer != self.text else -1
            while place >= 0:
                self._longer.setdefault((place, len(longer)), set()).add(longer)
                place = longer.find(self.text, place + 1)

    def meet_state(self, value: StateValue) -> None:
        """Take notice of the texts in a state, and in the rows that it holds."""
        if isinstance(value, dict):
            self.meet(key for key in value if self.name in key)
            for item in value.values():
                self.meet_state(item)
        elif isinstance(value, list):
            for item in value:
                self.meet_state(item)
        elif isinstance(value, str) and self.name in value:
            self.meet([value])
        elif isinstance(value, bytes) and value.startswith(ARROW) and self.text in value:
            self.columns(read_rows(value))

    @property
    def longest(self) -> int:
        """Bytes of the longest of these texts."""
        return max((size for _, size in self._longer), default=0)

    def part_of_longer(self, data: mmap.mmap | bytes, place: int) -> bool:
        """Return whether what stands at a place of a file is a part of a longer text that live rows have."""
        return any(data[place - start : place - start + size] in texts
                   for (start, size), texts in self._longer.items() if place >= start)  # fmt: skip


def _flat(column: pa.Array) -> pa.Array:
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_dictionary(column.type):
        column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column.flatten()
    return column


def _read(path: Path, looks: Sequence[_Looks]) -> None:
    """Read a file, or a folder of checkpoints, as what it claims to be."""
    if path.is_dir():
        if (path / "CURRENT").is_file():
            _read_checkpoint(path, looks)
        return
    with path.open("rb") as file:
        head = file.read(len(SQLITE))
    if head == SQLITE:
        _read_log(path, looks)
    elif head.startswith(CHANGE):
        _read_change(path, path.read_bytes(), "", looks)


def _read_log(path: Path, looks: Sequence[_Looks]) -> None:
    """Read all live values of a database."""
    uri = f"file:{quote(str(path.resolve()))}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=30.0)) as connection:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                for row in connection.execute(f'SELECT * FROM "{table}"'):
                    where = f"{table} {' '.join(str(cell) for cell in row[:2] if not isinstance(cell, bytes))}"
                    for value in row:
                        _read_value(path, where, value, looks)
    except sqlite3.Error:
        _unreadable(str(path), looks)


def _read_value(path: Path, where: str, value: object, looks: Sequence[_Looks]) -> None:
    if isinstance(value, str):
        for one in looks:
            one.meet([value])
            if value == one.name and one.loose:
                one.found(path, where, "text")
    elif not isinstance(value, bytes):
        return
    elif value.startswith(CHANGE):
        _read_change(path, value, where, looks)
    elif value.startswith(ARROW):
        _read_rows(path, value, where, looks)
    elif value.startswith(STATE):
        _read_state(path, where, decode_state(value), looks)


def _unreadable(what: str, looks: Sequence[_Looks]) -> None:
    for one in looks:
        one.scan.unreadable.append(what)


def _read_rows(path: Path, value: bytes, where: str, looks: Sequence[_Looks]) -> None:
    likely = []
    for one in looks:
        one.scan.entries += 1
        if one.text in value or (one.number is not None and one.users is not None):
            likely.append(one)
    if not likely:
        return
    try:
        rows = Events.from_bytes(value).batch
    except HeadraceError:
        _unreadable(f"{path}, {where}", looks)
        return
    for one in likely:
        for name in one.columns(rows):
            one.found(path, f"{where}, column '{name}'", "row")


def _read_change(path: Path, value: bytes, where: str, looks: Sequence[_Looks]) -> None:
    try:
        change = decode(value)
    except CorruptSnapshot:
        _unreadable(f"{path}, {where}" if where else str(path), looks)
        return
    where = where or f"version {change.version.number}"
    for one in looks:
        one.scan.entries += 1
        for table in change.tables:
            if (ids := one.ids(table)) and scrubbed(change, {table: ids}) is not None:
                one.found(path, f"{where}, table '{table}'", "row")


def _read_state(path: Path, where: str, state: State, looks: Sequence[_Looks]) -> None:
    for one in looks:
        one.scan.entries += 1
        one.meet_state(state)
        if one.users is not None:
            for part in mentions(state, one.users, [one.name]):
                one.found(path, f"{where}, {part}" if where else part, "state")


def _read_checkpoint(path: Path, looks: Sequence[_Looks]) -> None:
    """Read the checkpoint that counts; the older ones are searched as bytes like any file."""
    try:
        state = ManifestCheckpoint(path).load()
    except HeadraceError:
        _unreadable(str(path), looks)
        return
    if state is not None:
        _read_state(path, "", state, looks)


def _search(path: Path, looks: Sequence[_Looks]) -> None:
    """Search the bytes of a file."""
    if not path.is_file():
        return
    size = path.stat().st_size
    for one in looks:
        one.scan.files, one.scan.bytes = one.scan.files + 1, one.scan.bytes + size
    if not size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
        wanted = [(one, form, needle) for one in looks for form, needle in {**one.exact, **one.loose}.items()]
        counts = [_count(data, size, one, form, needle) for one, form, needle in wanted]
        if data[: len(SQLITE)] == SQLITE:  # a value that overflows a page goes on behind the next one's first bytes
            overlap = max([one.longest for one in looks] + [len(needle) for _, _, needle in wanted])
            joined = [0 for _ in wanted]
            for part, core in _joined(data, overlap):
                joined = [so_far + _count(part, core, *look) for so_far, look in zip(joined, wanted, strict=True)]
            counts = [max(pair) for pair in zip(counts, joined, strict=True)]
        for (one, form, _), found in zip(wanted, counts, strict=True):
            if found:
                one.found(path, f"{found} times in its bytes", form)


def _count(data: mmap.mmap | bytes, core: int, looks: _Looks, form: str, needle: bytes) -> int:
    """Return how often a byte string begins in the first `core` bytes, other than as a part of a longer live text."""
    found, place = 0, data.find(needle)
    while 0 <= place < core:
        found += form in looks.exact or not looks.part_of_longer(data, place)
        place = data.find(needle, place + 1)
    return found


def _joined(data: mmap.mmap, overlap: int) -> Iterator[tuple[bytes, int]]:
    """Yield a database's pages without the 4 bytes that link overflow pages, a few MiB at a time.

    Yields bytes, and how many of them are not in the next piece as well.
    """
    page = int.from_bytes(data[16:18], "big")
    page = 65536 if page == 1 else page
    kept, pages = b"", max(PIECE_BYTES // page, 1)
    for start in range(0, len(data), pages * page):
        end = min(start + pages * page, len(data))
        piece = kept + b"".join(data[place + 4 : place + page] for place in range(start, end, page))
        core = len(piece) if end == len(data) else max(len(piece) - overlap, 0)
        yield piece, core
        kept = piece[core:]


def rows_held(tables: dict[str, object], users: UserColumns, name: str) -> list[str]:
    """Return the tables that hold a row of a user: of a replica or a learner, in memory."""
    ids = torch.tensor(users.ids(name), dtype=torch.int64)
    held = []
    for table in users.tables:
        contains = getattr(tables.get(table), "contains", None)
        if contains is not None and bool(contains(ids).any()):
            held.append(table)
    return held
