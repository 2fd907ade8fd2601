"""Draws the recorded benchmark results into docs/benchmarks.md and docs/images/.

    python scripts/draw_benchmarks.py

Everything between the two marks of the page is replaced by what benchmarks/results/table.json holds; record that file
with `python benchmarks/table.py --full --record benchmarks/results/table.json`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "table.json"
PAGE = ROOT / "docs" / "benchmarks.md"
IMAGES = ROOT / "docs" / "images"
START, END = "<!-- recorded: start -->", "<!-- recorded: end -->"
WIDTH, LEFT, BAR, GAP = 760, 210, 22, 10
COLOURS = {"ours": "#00796b", "bound": "#9e9e9e"}
"""By the first word of a contender's name; peers have the last colour."""
PEER = "#e08e45"


def chart(title: str, bars: Sequence[tuple[str, float, float | None, float | None]]) -> str:
    """Return horizontal bars as SVG: name, value, and the ends of its interval."""
    top = 40
    height = top + len(bars) * (BAR + GAP) + 8
    most = max(max(value, high or 0.0) for _, value, _, high in bars)
    scale = (WIDTH - LEFT - 90) / most
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">',
        '<g font-family="sans-serif" font-size="13" fill="#222222">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="24" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    for number, (name, value, low, high) in enumerate(bars):
        y = top + number * (BAR + GAP)
        middle, end = y + BAR / 2, LEFT + value * scale
        colour = COLOURS.get(name.split(",")[0], PEER)
        lines.append(f'<text x="{LEFT - 10}" y="{middle + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        lines.append(f'<rect x="{LEFT}" y="{y}" width="{value * scale:.1f}" height="{BAR}" fill="{colour}"/>')
        if low is not None and high is not None:
            ends = f'x1="{LEFT + low * scale:.1f}" x2="{LEFT + high * scale:.1f}"'
            lines.append(f'<line {ends} y1="{middle}" y2="{middle}" stroke="#222222" stroke-width="1.5"/>')
        text = f"{value:.1f}" if value >= 1 else f"{value:.2f}"
        after = max(end, LEFT + (high or 0.0) * scale) + 8
        lines.append(f'<text x="{after:.1f}" y="{middle + 4:.1f}">{text}</text>')
    return "\n".join([*lines, "</g>", "</svg>", ""])


def rate_bars(result: dict[str, Any], kind: str) -> list[tuple[str, float, float | None, float | None]]:
    """Return the main case's rates of one kind in millions of ids per second, the fastest first."""
    found = []
    for name, figure in result["figures"].items():
        if name.startswith(f"{kind}_ids_per_s/"):
            numbers = [None if figure[part] is None else figure[part] / 1e6 for part in ("value", "low", "high")]
            found.append((name.partition("/")[2], *numbers))
    return sorted(found, key=lambda bar: -bar[1])


def figure_rows(result: dict[str, Any]) -> list[str]:
    """Return every ratio and size of the main case as rows of a Markdown table."""
    rows = ["| figure | value | 95 % interval | goal | |", "|---|---:|---|---|---|"]
    for name, figure in result["figures"].items():
        if "/" in name:
            continue
        value, goal = figure["value"], figure["goal"]
        interval = "" if figure["low"] is None else f"{figure['low']:,.3g} … {figure['high']:,.3g}"
        wanted = "" if goal is None else f"{goal['op']} {goal['bound']:g}"
        holds = {True: "holds", False: "missed", None: ""}[figure["holds"]]
        unit = "" if figure["unit"] == "ratio" else f" {figure['unit']}"
        shown = "not measured" if value is None else f"{value:,.3g}{unit}"
        rows.append(f"| `{name}` | {shown} | {interval} | {wanted} | {holds} |")
    return rows


def tables(result: dict[str, Any]) -> list[str]:
    """Return the tables of all cases."""
    lines: list[str] = []
    for table in result["tables"]:
        lines += ["", f"**{table['title']}**", "", "| " + " | ".join(table["columns"]) + " |"]
        lines.append("|---|" + "---:|" * (len(table["columns"]) - 1))
        lines += ["| " + " | ".join(row) + " |" for row in table["rows"]]
    return lines


def recorded(result: dict[str, Any]) -> str:
    """Return what stands between the marks."""
    settings = result["settings"]
    work = settings["main"]
    case = (
        f"{work['rows'] / 1e6:g} M rows in {work['features']} tables, dimension {work['dim']}, batches of "
        f"{work['batch']} examples, Zipf {work['skew']}, {settings['threads']} threads, {settings['rounds']} rounds"
    )
    lines = [
        f"`{settings['command']}`, commit `{result['commit']}`, {result['machine']}, {settings['processor']}.",
        "", f"The case that the goals are for: {case}.",
        "", "![Training step](images/table-train.svg)",
        "", "![Lookup](images/table-lookup.svg)", "", *figure_rows(result),
    ]  # fmt: skip
    lines += ["", *(f"- {note}" for note in settings["notes"])] if settings["notes"] else []
    return "\n".join([*lines, "", "### All cases", *tables(result)])


def main() -> None:
    """Draw."""
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    IMAGES.mkdir(exist_ok=True)
    for kind, title in (("train", "Training step"), ("lookup", "Lookup alone")):
        drawing = chart(f"{title}: millions of ids per second", rate_bars(result, kind))
        (IMAGES / f"table-{kind}.svg").write_text(drawing, encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.partition(START)[0], page.partition(END)[2]
    PAGE.write_text(f"{before}{START}\n{recorded(result)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
