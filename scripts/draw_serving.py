"""Draws the recorded benchmarks of serving into docs/benchmarks.md.

    python scripts/draw_serving.py

Everything between the marks of the page is replaced by what benchmarks/results/serve.json and freshness.json hold;
record them on a machine that does nothing else:

    python benchmarks/serve.py --record benchmarks/results/serve.json
    python benchmarks/freshness.py --record benchmarks/results/freshness.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
START, END = "<!-- serving: start -->", "<!-- serving: end -->"


def recorded(result: dict[str, Any], seconds: float) -> str:
    """Return one result as Markdown: how it was run, all figures, all tables, notes."""
    settings = result["settings"]
    lines = [(f"`{settings['command']}`, commit `{result['commit']}`, {result['machine']}; "
              f"{seconds / 60:.0f} minutes."), ""]  # fmt: skip
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
    lines += ["", *(f"- {note}." for note in settings["notes"])]
    return "\n".join(lines)


def main() -> None:
    """Replace what stands between the marks."""
    parts = []
    for name, seconds in (("serve", "seconds"), ("freshness", "seconds_in_all")):
        path = RESULTS / f"{name}.json"
        if path.exists():
            result = json.loads(path.read_text(encoding="utf-8"))
            parts.append(f"#### {name}\n\n{recorded(result, result['settings'][seconds])}")
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{START}\n" + "\n\n".join(parts) + f"\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
