"""The end of a benchmark: its result is written, printed for people or programs, and becomes an exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headrace.evaluate.claims import render_tables


def deliver(result: dict[str, Any], *, record: Path | None, as_json: bool) -> int:
    """Write and print a result.

    Args:
        result: What `Figures.result` returned.
        record: A file to write it to as well.
        as_json: Print one JSON object and nothing else.

    Returns:
        The exit code: 0 if every goal holds, 3 if one was missed.
    """
    if record is not None:
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if as_json:
        print(json.dumps(result))
    else:
        show(result)
    return 3 if any(figure["holds"] is False for figure in result["figures"].values()) else 0


def show(result: dict[str, Any]) -> None:
    """Print a result for people."""
    if result["tables"]:
        print(render_tables(result) + "\n")
    for name, figure in result["figures"].items():
        value = "not measured" if figure["value"] is None else f"{figure['value']:,.4g} {figure['unit']}"
        interval = "" if figure["low"] is None else f"[{figure['low']:,.4g}, {figure['high']:,.4g}]"
        goal = "" if figure["goal"] is None else f"{figure['goal']['op']} {figure['goal']['bound']:g}"
        holds = {True: "holds", False: "missed", None: ""}[figure["holds"]]
        print(f"{name:42} {value:>24}  {interval:24} {goal:8} {holds}")
    for note in result["settings"]["notes"]:
        print(note)
