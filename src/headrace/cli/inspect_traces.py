"""`headrace inspect traces ID FOLDER...`: whether folders hold any trace of a user, and where."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from headrace.cli.output import console, human_bytes, print_json
from headrace.errors import ConfigError
from headrace.online.traces import Scan, find_traces

SHOWN = 40


def traces(words: Sequence[str], *, as_json: bool) -> int:
    """Scan folders for a user; exit code 1 when there is a trace, or a file that cannot be read.

    Args:
        words: The user's id (`-`: from standard input), then the folders.
        as_json: Whether to print JSON.

    Raises:
        ConfigError: If there is no id or no folder.
    """
    if len(words) < 2:
        raise ConfigError("inspect traces", got=f"{len(words)} words", expected="a user's id and one or more folders",
                          do="headrace inspect traces ID FOLDER")  # fmt: skip
    name = sys.stdin.readline().rstrip("\r\n") if words[0] == "-" else words[0]
    scans = {word: find_traces(Path(word), name) for word in words[1:]}
    if as_json:
        print_json({word: asdict(scan) for word, scan in scans.items()})
    else:
        for word, scan in scans.items():
            _print(word, scan)
    return 1 if any(scan.traces or scan.unreadable for scan in scans.values()) else 0


def _print(word: str, scan: Scan) -> None:
    out = console()
    read = f"{scan.files:,} files ({human_bytes(scan.bytes)}), {scan.entries:,} entries, versions and states"
    if not scan.traces:
        out.print(f"[bold]{escape(word)}[/bold]: no trace in {read}")
    else:
        out.print(f"[bold]{escape(word)}[/bold]: [red]{len(scan.traces):,} traces[/red] in {read}")
        table = Table(box=None, header_style="dim", pad_edge=False)
        for heading in ("file", "where", "as"):
            table.add_column(heading)
        for trace in scan.traces[:SHOWN]:
            table.add_row(*(escape(text) for text in (trace.path, trace.where, trace.form)))
        out.print(table)
        if len(scan.traces) > SHOWN:
            out.print(f"… {len(scan.traces) - SHOWN:,} more; --json shows all")
    for path in scan.unreadable:
        out.print(f"[red]could not be read as what it claims to be[/red]: {escape(path)}")
