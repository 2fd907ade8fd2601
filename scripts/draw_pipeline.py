"""Draws the recorded comparison of whole training steps into docs/benchmarks.md and docs/images.

    python scripts/draw_pipeline.py

Everything between the marks of the page is replaced by what benchmarks/results/pipeline.json holds; record it with
`python benchmarks/pipeline.py --record benchmarks/results/pipeline.json` on a machine that does nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "pipeline.json"
PAGE, CHART = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "images" / "pipeline-step.svg"
START, END = "<!-- pipeline: start -->", "<!-- pipeline: end -->"
WIDTH, LEFT, BAR, GAP, TOP = 760, 240, 18, 8, 40
OURS, BOUND = "#1668a5", "#b9c1c7"


def recorded(result: dict[str, Any]) -> str:
    """Return what stands between the marks: how it was run, all figures, all tables."""
    settings = result["settings"]
    made = settings["made"]
    lines = [
        (f"`{settings['command']}`, commit `{result['commit']}`, {result['machine']}; {settings['seconds'] / 60:.0f} "
        "minutes."), "",
        (f"The case that the goals are for: {made['ids'] / 1e6:g} M ids in {made['fields']} tables, dimension 16, "
        f"batches of 4096, Zipf {made['skew']}, {settings['threads']} threads."),
        "", f"![A training step](images/{CHART.name})", "", *figures(result),
    ]  # fmt: skip
    told = ("networks", "optimizer", "ours", "fuxictr", "deepctr", "torchrec")
    lines += ["", *(f"- **{name}**: {settings[name]}." for name in told)]
    lines += [f"- {note}" for note in settings["notes"]]
    for table in result["tables"]:
        lines += ["", f"**{table['title']}**", "", "| " + " | ".join(table["columns"]) + " |"]
        lines.append("|---|" + "---:|" * (len(table["columns"]) - 1))
        lines += ["| " + " | ".join(row) + " |" for row in table["rows"]]
        lines += ["", *table["notes"]] if table["notes"] else []
    return "\n".join(lines)


def figures(result: dict[str, Any]) -> list[str]:
    """Return every figure as a row of a Markdown table, rates left to the tables below it."""
    rows = ["| figure | value | interval | goal | |", "|---|---:|---|---|---|"]
    for name, figure in result["figures"].items():
        if figure["unit"] == "examples/s":
            continue
        value, goal = figure["value"], figure["goal"]
        interval = "" if figure["low"] is None else f"{figure['low']:,.3g} … {figure['high']:,.3g}"
        wanted = "" if goal is None else f"{goal['op']} {goal['bound']:g}"
        holds = {True: "holds", False: "missed", None: ""}[figure["holds"]]
        shown = "not measured" if value is None else f"{value:,.3g}"
        rows.append(f"| `{name}` | {shown} | {interval} | {wanted} | {holds} |")
    return rows


def bars(result: dict[str, Any]) -> list[tuple[str, float, str]]:
    """Return milliseconds of a step by network: ours, and the bound."""
    batch, found = 4096, []
    for name, figure in result["figures"].items():
        kind, _, rest = name.partition("/")
        if kind == "samples_per_s" and figure["value"]:
            model, _, who = rest.partition("/")
            found.append((f"{model}, {who}", 1e3 * batch / figure["value"], OURS if who == "ours" else BOUND))
    return found


def chart(title: str, found: Sequence[tuple[str, float, str]]) -> str:
    """Return horizontal bars as SVG."""
    height = TOP + len(found) * (BAR + GAP) + 8
    scale = (WIDTH - LEFT - 90) / max(value for _, value, _ in found)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">',
        '<g font-family="sans-serif" font-size="13" fill="#222222">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="24" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    for number, (name, value, colour) in enumerate(found):
        y = TOP + number * (BAR + GAP)
        middle = y + BAR / 2 + 4
        lines.append(f'<text x="{LEFT - 10}" y="{middle:.1f}" text-anchor="end">{escape(name)}</text>')
        lines.append(f'<rect x="{LEFT}" y="{y}" width="{value * scale:.1f}" height="{BAR}" fill="{colour}"/>')
        lines.append(f'<text x="{LEFT + value * scale + 8:.1f}" y="{middle:.1f}">{value:.0f}</text>')
    return "\n".join([*lines, "</g>", "</svg>", ""])


def main() -> None:
    """Draw."""
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    CHART.parent.mkdir(exist_ok=True)
    found = bars(result)
    if found:
        CHART.write_text(chart("A training step from Parquet, and its bound: milliseconds", found), encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.partition(START)[0], page.partition(END)[2]
    PAGE.write_text(f"{before}{START}\n{recorded(result)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
