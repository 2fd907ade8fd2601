"""Draws recorded benchmarks into docs/benchmarks.md: language models, serving, slow nodes and deaths.

    python scripts/draw_results.py

Everything between a section's marks is replaced by what its files in benchmarks/results/ hold; record them on a machine
that does nothing else, each with `python benchmarks/NAME.py --record benchmarks/results/NAME.json`. Pipeline, table,
accuracy and preparation have drawings of their own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
SECTIONS = {"language": ("rlhf",), "serving": ("serve", "freshness"), "machines": ("stragglers", "recovery")}
"""What stands between the marks of each section."""


def recorded(result: dict[str, Any]) -> str:
    """Return one result as Markdown: how it was run, all figures, all tables, notes."""
    settings = result["settings"]
    lines = [f"`{settings['command']}`, commit `{result['commit']}`, {result['machine']}.", ""]
    lines += ["| figure | value | interval | goal | |", "|---|---:|---|---|---|"]
    for name, figure in result["figures"].items():
        value, goal = figure["value"], figure["goal"]
        interval = "" if figure["low"] is None else f"{figure['low']:,.3g} … {figure['high']:,.3g}"
        wanted = "" if goal is None else f"{goal['op']} {goal['bound']:g}"
        holds = {True: "holds", False: "missed", None: ""}[figure["holds"]]
        unit = "" if figure["unit"] == "ratio" else f" {figure['unit']}"
        shown = "not measured" if value is None else f"{value:,.4g}{unit}"
        rows = f"| `{name}` | {shown} | {interval} | {wanted} | {holds} |"
        lines.append(rows)
    for table in result["tables"]:
        lines += ["", f"**{table['title']}**", "", "| " + " | ".join(table["columns"]) + " |"]
        lines.append("|---|" + "---:|" * (len(table["columns"]) - 1))
        lines += ["| " + " | ".join(row) + " |" for row in table["rows"]]
    lines += ["", *(f"- {note.rstrip('.')}." for note in settings.get("notes", []))]
    return "\n".join(lines)


def main() -> None:
    """Replace what stands between the marks."""
    text = PAGE.read_text(encoding="utf-8")
    for section, names in SECTIONS.items():
        start, end = f"<!-- {section}: start -->", f"<!-- {section}: end -->"
        before, _, rest = text.partition(start)
        _, found, after = rest.partition(end)
        if not found:
            raise SystemExit(f"{PAGE}: no marks {start} and {end}")
        paths = [RESULTS / f"{name}.json" for name in names]
        parts = [f"#### {path.stem}\n\n{recorded(json.loads(path.read_text(encoding='utf-8')))}"
                 for path in paths if path.exists()]  # fmt: skip
        body = "\n\n".join(parts) or "Nothing is recorded yet."
        text = f"{before}{start}\n{body}\n{end}{after}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
