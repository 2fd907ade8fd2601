"""Reads what `headrace inspect` shows: one function per kind of file, each returning plain facts."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from headrace.errors import CorruptSnapshot, DataError
from headrace.learn.checkpoint import NUMBERED, ManifestCheckpoint
from headrace.publish.change import MAGIC as CHANGE
from headrace.publish.change import decode
from headrace.store.block_columns import FileLayout, FileNumbers
from headrace.store.snapshot import MAGIC as SNAPSHOT
from headrace.store.snapshot import read_snapshot
from headrace.store.table import load_native
from headrace.store.table_files import accept_read, header_of, inspect_table_file, native_files
from headrace.types import Change

Facts = dict[str, object]
SQLITE = b"SQLite format 3\x00"
TABLE_FILE = b"HDRTABLE"


def kind_of(path: Path) -> str:
    """Return what a path holds, from its names and first bytes alone; `unknown` when Headrace did not write it."""
    if path.is_dir():
        names = {item.name for item in path.iterdir()}
        if "CURRENT" in names or any(NUMBERED.fullmatch(name) and (path / name).is_dir() for name in names):
            return "checkpoint"
        if names & {"run.json", "checkpoint", "status"} or any(name.endswith(".db") for name in names):
            return "run folder"
        if any(kind_of(path / name) in {"change", "table snapshot"} for name in names if (path / name).is_file()):
            return "folder of changes"
        if any(kind_of(path / name) == "table file" for name in names if (path / name).is_file()):
            return "folder of table files"
        if any((path / name / "run.json").is_file() for name in names):
            return "folder of runs"
        return "unknown"
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(SQLITE):
        return "log"
    if head.startswith(CHANGE):
        return "change"
    if head.startswith(SNAPSHOT):
        return "table snapshot"
    if head.startswith(TABLE_FILE):
        return "table file"
    if head.lstrip()[:1] == b"{":
        return _json_kind(path)
    return "unknown"


def _json_kind(path: Path) -> str:
    try:
        names = read_json(path).keys()
    except DataError:
        return "run record" if path.name == "run.json" else "unknown"
    if {"config", "fingerprint"} <= names:
        return "run record"
    return "claim" if {"figures", "machine"} <= names else "unknown"


def read_json(path: Path) -> Facts:
    """Return the object of a JSON file.

    Raises:
        DataError: If it is not one JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"File {path}", got=str(error), expected="one JSON object") from error
    if not isinstance(found, dict):
        raise DataError(f"File {path}", got=type(found).__name__, expected="one JSON object")
    return found


def checkpoint(path: Path) -> Facts:
    """Return the checkpoints of a folder and the outline of the one that a restart would continue from."""
    kept = ManifestCheckpoint(path)
    entries = [{"number": entry.number, "bytes": entry.tensor_bytes} for entry in kept.entries()]
    state = kept.load()
    return {"checkpoints": entries, "state": {} if state is None else outline(state)}


def outline(value: object, depth: int = 3) -> object:
    """Return a state with tensors as their types and shapes, bytes as their length, and deep branches counted."""
    if isinstance(value, dict):
        if depth == 0:
            return f"{len(value)} entries"
        return {str(key): outline(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list):
        return f"{len(value)} entries"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"  # type: ignore[attr-defined]
    return value


def log_topics(path: Path) -> Facts:
    """Return the topics of an embedded log and where their readers stand; nothing is written, not even a header.

    Raises:
        CorruptSnapshot: If the file's pages are not whole.
    """
    topics = """
        SELECT name AS topic, partition, next_offset - first_offset AS entries, first_offset AS "first offset",
               next_offset AS "next offset", next_row AS rows, closed FROM topics ORDER BY name, partition"""
    readers = 'SELECT consumer, topic, partition, "offset" FROM consumers ORDER BY consumer, topic, partition'
    with closing(sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        verdict = str(connection.execute("PRAGMA quick_check").fetchone()[0])
        if verdict != "ok":
            raise CorruptSnapshot(f"Log {path}", got=verdict, expected="whole pages", do="Restore it from a copy.")
        found = [{**dict(row), "closed": bool(row["closed"])} for row in connection.execute(topics)]
        consumers = [dict(row) for row in connection.execute(readers)]
    return {"bytes": path.stat().st_size, "topics": found, "consumers": consumers}


def read_change(path: Path) -> Facts:
    """Return what a published change or full snapshot holds; its checksum is verified."""
    return {"bytes": path.stat().st_size, **change_facts(decode(path.read_bytes()))}


def change_facts(change: Change) -> Facts:
    """Return the outline of a change."""
    return {
        "version": change.version.number, "parent": change.version.parent, "full": change.full,
        "checksum": change.checksum(),
        "tables": [{"table": name, "rows put": int(rows.ids.numel()), "removed": int(rows.removed.numel()),
                    "dim": int(rows.rows.shape[1]) if rows.rows.dim() == 2 else 0}
                   for name, rows in sorted(change.tables.items())],
        "dense": {name: outline(tensor) for name, tensor in sorted(change.dense.items())},
        "spec": dict(sorted(change.spec.items())),
    }  # fmt: skip


def read_table(path: Path) -> Facts:
    """Return what a table snapshot holds; its checksum is verified."""
    return {"bytes": path.stat().st_size, "state": outline(read_snapshot(path))}


def read_table_file(path: Path) -> Facts:
    """Return what a table file or an increment holds; all of its blocks are read and their checksums verified."""
    size: Facts = {"bytes": path.stat().st_size}
    if load_native() is None:
        return size | {"verified": "no: table files are read by the native table, which is missing here"}
    file, reader = inspect_table_file(path), native_files().TableFileReader()
    accept_read(reader.open(str(path)), path)
    raw, layout, numbers, (rows, waiting, removed, forgotten), _, _ = reader.facts()
    block: object = ()
    while block is not None:
        answer, block = reader.next()
        accept_read(answer, path)
    header, shape, counts = header_of(path, raw), FileLayout(*layout), FileNumbers(*numbers)
    facts: Facts = {
        "table": file.table, "holds": "all rows" if file.since is None else f"what changed after mark {file.since}",
        "mark": file.mark, "digest": file.digest, "parent": file.parent, "rows": rows, "waiting": waiting,
        "removed": removed, "shard": f"{file.shard[0]} of {file.shard[1]}", "precision": header.get("precision"),
        "embedding bytes": shape.row_bytes, "slots": shape.slots,
        "numbers": {"admitted": counts.admitted, "filtered": counts.filtered, "evicted": counts.evicted,
                    "history since mark": counts.floor, "newest": counts.newest if counts.newest > 0 else None},
        "spec": {name: _parsed(value) for name, value in header["spec"].items()},
    }  # fmt: skip
    if file.since is None:
        del facts["parent"]
    else:
        facts["counts forgotten"] = forgotten
    return size | facts


def _parsed(value: object) -> object:
    """Return a value of a header, which may be JSON within JSON."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value
