"""Look into what Headrace wrote: a run, a checkpoint, a log, a change, a snapshot, a table file, a run record.

headrace inspect PATH          what it is and what is in it; files are verified by their checksums
headrace inspect diff A B      what differs between two run records (files or run folders)
headrace inspect traces ID DIR whether a folder holds any trace of a user (exit code 1 if it does)
headrace inspect experiment X  what a server's arms did, and whether anything may be concluded (exit code 1 if not)
headrace inspect profile X     where a step's time goes: of a recipe (with its name=value) or of a run folder
headrace inspect cluster X     workers, servers, shards and decisions of a run on many machines (--watch: live)
headrace inspect versions DIR  what became of a run's versions, as `headrace versions DIR` lists them
"""

from __future__ import annotations

import argparse
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from headrace.cli.inspect_cluster import add_cluster_arguments, cluster, refuse_without_cluster
from headrace.cli.inspect_experiment import add_experiment_arguments, experiment
from headrace.cli.inspect_files import (
    checkpoint,
    kind_of,
    log_topics,
    read_change,
    read_json,
    read_table,
    read_table_file,
)
from headrace.cli.inspect_profile import profile
from headrace.cli.inspect_traces import traces
from headrace.cli.output import console, human_bytes, print_json
from headrace.cli.versions import show
from headrace.config import tree
from headrace.errors import ConfigError, DataError, HeadraceError
from headrace.online import RunFolder
from headrace.online.versions import list_versions
from headrace.publish import AcknowledgementFolder

NAME = "inspect"
HELP = "look into a run folder, checkpoint, log, change, snapshot or table file; diff two run records; profile a step"
RECORD = "run.json"
SHOWN_DEPTH, SHOWN_LINES, SHOWN_ITEMS, SHOWN_LETTERS = 3, 60, 8, 50
TIMES = ("event_time", "accepted_time", "watermark", "newest", "oldest_pending", "said")
Facts = dict[str, object]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `PATH...`, `diff A B`, `profile X` and `--json`."""
    parser.add_argument("paths", nargs="+", metavar="PATH",
                        help="what to look into; or: diff A B; traces ID FOLDER; experiment FOLDER; profile RECIPE "
                        "name=value... or FOLDER; cluster FOLDER or ADDRESS; versions FOLDER")  # fmt: skip
    parser.add_argument("--steps", type=int, default=50, help="learning steps that `profile` measures of a recipe")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    add_experiment_arguments(parser)
    add_cluster_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Look at each path; exit code 1 when something is damaged, for `diff` 1 when the records differ."""
    words: list[str] = arguments.paths
    if words[0] != "cluster":
        refuse_without_cluster(arguments)
    if words[0] == "diff":
        if len(words) != 3:
            raise ConfigError("inspect diff", got=f"{len(words) - 1} paths", expected="two run records",
                              do="headrace inspect diff A B")  # fmt: skip
        return _diff(Path(words[1]), Path(words[2]), arguments.json)
    if words[0] == "experiment":
        return experiment(words[1:], arguments)
    if words[0] == "cluster":
        return cluster(words[1:], arguments)
    if words[0] == "traces":
        return traces(words[1:], as_json=arguments.json)
    if words[0] == "versions":
        if len(words) != 2:
            raise ConfigError("inspect versions", got=f"{len(words) - 1} folders", expected="one run folder")
        show(list_versions(RunFolder(Path(words[1]))), arguments.json)
        return 0
    if words[0] == "profile":
        return profile(words[1:], steps=arguments.steps, as_json=arguments.json)
    results = [describe(Path(word)) for word in words]
    if arguments.json:
        print_json(results[0] if len(results) == 1 else results)
    else:
        for facts in results:
            _print(facts)
    return 1 if any(_damaged(facts) for facts in results) else 0


def describe(path: Path) -> Facts:
    """Return what stands at a path: its kind and facts; a run folder holds the facts of its parts.

    Raises:
        DataError: If there is nothing, or nothing that Headrace wrote.
    """
    if not path.exists():
        raise DataError(f"Path {path}", got="nothing there", expected="a file or folder that Headrace wrote")
    kind = kind_of(path)
    facts: Facts = {"path": str(path), "kind": kind}
    readers = {
        "run folder": _run_folder, "checkpoint": checkpoint, "folder of changes": _changes, "log": log_topics,
        "change": read_change, "table snapshot": read_table, "run record": _record, "claim": read_json,
        "folder of runs": _runs, "table file": read_table_file, "folder of table files": _changes,
    }  # fmt: skip
    if kind not in readers:
        raise DataError(f"Path {path}", got="a file or folder of another kind",
                        expected="a run folder, checkpoint, log, change, snapshot, table file or run.json")  # fmt: skip
    try:
        facts |= readers[kind](path)
    except (HeadraceError, sqlite3.Error) as error:
        facts["damaged"] = str(error)
    return facts


def _parts(paths: Iterable[Path]) -> list[Facts]:
    return [describe(path) for path in sorted(paths) if kind_of(path) != "unknown"]


def _run_folder(path: Path) -> Facts:
    facts: Facts = {"bytes": sum(item.stat().st_size for item in path.rglob("*") if item.is_file())}
    status = path / "status"
    if status.is_dir():
        facts["status"] = {item.stem: read_json(item) for item in sorted(status.glob("*.json"))}
    told = AcknowledgementFolder(RunFolder(path).acknowledgements).newest()
    if told:
        facts["replicas"] = [{"replica": name, "version": one.version, "said": one.time} for name, one in told.items()]
    inside = [item for item in path.iterdir() if item.name != "status"]
    facts["parts"] = _parts(item for item in inside if item.is_dir() or item.suffix in {".db", ".json"})
    return facts


def _runs(path: Path) -> Facts:
    return {"parts": _parts(item for item in path.iterdir() if item.is_dir())}


def _changes(path: Path) -> Facts:
    return {"parts": _parts(item for item in path.iterdir() if item.is_file())}


def _record(path: Path) -> Facts:
    return {"record": read_json(path)}


def _damaged(facts: Mapping[str, object]) -> bool:
    parts = facts.get("parts", [])
    assert isinstance(parts, list)
    return "damaged" in facts or any(_damaged(part) for part in parts)


# ----------------------------------------------------------------------------------------------------------- diff


def load_record(path: Path) -> Facts:
    """Return a run record from its file, or from the run folder that holds it."""
    file = path / RECORD if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"Run record {file}", got="no such file", expected=f"a {RECORD} or a folder with one")
    return read_json(file)


def flatten(value: object, name: str = "") -> dict[str, object]:
    """Return nested values by dotted name.

    Example:
        >>> flatten({"table": {"dim": 8, "rules": ["sgd"]}})
        {'table.dim': 8, 'table.rules.0': 'sgd'}
    """
    items: Iterable[tuple[object, object]]
    if isinstance(value, Mapping) and value:
        items = value.items()
    elif isinstance(value, list) and value:
        items = enumerate(value)
    else:
        return {name: value}
    flat: dict[str, object] = {}
    for key, item in items:
        flat |= flatten(item, f"{name}.{key}" if name else str(key))
    return flat


def differences(first: object, second: object) -> dict[str, tuple[object, object]]:
    """Return dotted name to both values wherever two records differ; an absent value is None."""
    left, right = flatten(tree(first)), flatten(tree(second))
    names = sorted(left.keys() | right.keys())
    return {name: (left.get(name), right.get(name)) for name in names if left.get(name) != right.get(name)}


def _diff(first: Path, second: Path, as_json: bool) -> int:
    found = differences(load_record(first), load_record(second))
    if as_json:
        print_json({name: {"a": a, "b": b} for name, (a, b) in found.items()})
    elif not found:
        console().print("The two records are equal.")
    else:
        table = Table(box=None, header_style="bold")
        for heading in ("setting", str(first), str(second)):
            table.add_column(heading)
        for name, values in found.items():
            table.add_row(name, *(escape(json.dumps(value, default=str)) for value in values))
        console().print(table)
    return 1 if found else 0


# ---------------------------------------------------------------------------------------------------------- print


def _print(facts: Mapping[str, object], inside: str = "") -> None:
    """Print what was found at a path; the parts of a folder briefly, because each can be looked into by itself."""
    path, left = str(facts["path"]), "  " if inside else ""
    shown = path.removeprefix(inside).lstrip("/") if inside else path
    console().print(f"{left}[bold]{escape(shown)}[/bold]  {facts['kind']}")
    for name, value in facts.items():
        if name not in {"path", "kind", "parts"}:
            _print_value(name, value, left + "  ", brief=bool(inside))
    parts = facts.get("parts", [])
    assert isinstance(parts, list)
    for part in parts:
        _print(part, inside or path)


def _print_value(name: str, value: object, left: str, *, brief: bool) -> None:
    out = console()
    if name == "damaged":
        out.print(f"{left}[red]damaged[/red]: {escape(str(value))}")
    elif name == "status" and isinstance(value, Mapping):
        for role, facts in value.items():
            _print_status(str(role), facts, left)
    elif isinstance(value, Mapping) and brief:
        items = [(key, item) for key, item in value.items() if not isinstance(item, (Mapping, list)) or item]
        text = ", ".join(f"{key} {_cut(_text(key, shallow(item, 0)))}" for key, item in items[:SHOWN_ITEMS])
        out.print(f"{left}{name}: {escape(text)}{', …' if len(items) > SHOWN_ITEMS else ''}")
    elif isinstance(value, Mapping):
        flat = flatten(shallow(value, SHOWN_DEPTH))
        width = max((len(key) for key in flat), default=0)
        for key, item in list(flat.items())[:SHOWN_LINES]:
            out.print(f"{left}{escape(key):<{width}}  {escape(_text(key, item))}")
        if len(flat) > SHOWN_LINES:
            out.print(f"{left}… {len(flat) - SHOWN_LINES} more; --json shows all")
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        _print_rows(value, left)
    elif value != []:
        out.print(f"{left}{name}: {escape(_text(name, value))}")


def _print_status(role: str, facts: object, left: str) -> None:
    """Print a role's plain facts on one line, and its tables below."""
    assert isinstance(facts, Mapping)
    plain = {name: item for name, item in facts.items() if not isinstance(item, (Mapping, list)) and name != "time"}
    console().print(
        f"{left}{role:<10} " + escape(", ".join(f"{name} {_text(name, item)}" for name, item in plain.items()))
    )
    tables = facts.get("tables")
    if isinstance(tables, Mapping):
        _print_rows([{"table": name, **stats} for name, stats in tables.items()], left + "  ")


def _print_rows(rows: Sequence[Mapping[str, object]], left: str) -> None:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in rows[0]:
        numeric = isinstance(rows[0][heading], (int, float))
        table.add_column(str(heading), justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(_text(str(key), item)) for key, item in row.items()))
    console().print(Padding(table, (0, 0, 0, len(left))))


def shallow(value: object, depth: int) -> object:
    """Return nested values with what lies deeper than `depth` counted instead of shown.

    Example:
        >>> shallow({"model": {"layers": {"a": 1, "b": 2}}, "steps": 3}, depth=2)
        {'model': {'layers': '2 entries'}, 'steps': 3}
    """
    if not isinstance(value, (Mapping, list)) or not value:
        return value
    if depth == 0:
        return f"{len(value)} entries"
    if isinstance(value, list):
        return [shallow(item, depth - 1) for item in value]
    return {key: shallow(item, depth - 1) for key, item in value.items()}


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}…"


def _text(name: str, value: object) -> str:
    last = name.rsplit(".", 1)[-1]
    if isinstance(value, int) and not isinstance(value, bool):
        if last == "bytes" or last.endswith("_bytes"):
            return human_bytes(value)
        if last in TIMES and value > 0:
            return datetime.fromtimestamp(value / 1e6, UTC).isoformat(sep=" ", timespec="seconds")
        return f"{value:,}" if abs(value) >= 10_000 and last != "pid" else str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)
