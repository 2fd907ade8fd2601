"""Draws the recorded comparisons of rankers into docs/how-to/choose-a-model.md and docs/benchmarks.md.

    python scripts/draw_rankers.py

Everything between the marks of the pages is replaced by what benchmarks/results/ctr_accuracy.json and prepare.json
hold; record them with `python benchmarks/ctr_accuracy.py --record benchmarks/results/ctr_accuracy.json` and
`python benchmarks/prepare.py --record benchmarks/results/prepare.json`.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CHOOSE, BENCHMARKS = ROOT / "docs" / "how-to" / "choose-a-model.md", ROOT / "docs" / "benchmarks.md"
CHART = ROOT / "docs" / "images" / "ctr-gap.svg"
TITLE = "Test AUC, ours minus FuxiCTR; the band is the spread between seeds"
WIDTH, LEFT, ROW, TOP = 760, 110, 18, 46


def recorded(result: dict[str, Any]) -> str:
    """Return what stands between the marks: what was run, one table per data set, and what was missed."""
    settings = result["settings"]
    deep = "-".join(map(str, settings["hidden"]))
    told = (
        f"Adam at {settings['lr']:g} for everything, factors of width {settings['dim']}, deep parts of {deep}, batches "
        f"of {settings['batch']}, {settings['epochs']} epochs, {len(settings['seeds'])} seeds, no regularisation. "
        "*gap*: ours minus FuxiCTR's; *spread*: the largest difference between two seeds of one side; *vs FuxiCTR*: "
        "its training time over ours, one thread each."
    )
    run = f"`{settings['command']}`, commit `{result['commit']}`, {result['machine']}; beside {settings['peer']}."
    lines = [run, told]
    for table in result["tables"]:
        lines += ["", f"**{table['title']}**", "", "| " + " | ".join(table["columns"]) + " |"]
        lines.append("|---|" + "---:|" * (len(table["columns"]) - 1))
        lines += ["| " + " | ".join(row) + " |" for row in table["rows"]]
    goals = {name: figure for name, figure in result["figures"].items() if figure["goal"] is not None}
    missed = [name.partition("/")[2] for name, figure in goals.items() if figure["holds"] is False]
    held = f"{len(goals) - len(missed)} of {len(goals)} gaps lose no more than the spread between seeds"
    lines += ["", f"{held}{'; more is lost by ' + ', '.join(missed) if missed else ''}."]
    lines += [f"- {note}" for note in settings["notes"]]
    return "\n".join(lines)


def gaps(result: dict[str, Any]) -> dict[str, dict[str, tuple[float, float]]]:
    """Return data set -> family -> (gap, spread), both in AUC."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for name, figure in result["figures"].items():
        kind, family, data = name.split("/")
        if kind == "auc_gap" and figure["value"] is not None:
            spread = result["figures"][f"auc_spread/{family}/{data}"]["value"] or 0.0
            found.setdefault(data, {})[family] = (figure["value"], spread)
    return found


def chart(result: dict[str, Any]) -> str:
    """Return the gaps as SVG: a dot per family and data set, in front of a band as wide as seeds differ."""
    found = gaps(result)
    most = max(max(abs(gap), spread) for families in found.values() for gap, spread in families.values())
    panel = (WIDTH - LEFT) / max(len(found), 1)
    families = list(next(iter(found.values())))
    height = TOP + ROW * len(families) + 24
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">',
        '<g font-family="sans-serif" font-size="12" fill="#222222">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="18" font-size="14" font-weight="bold">{TITLE}</text>',
    ]
    for place, family in enumerate(families):
        lines.append(f'<text x="{LEFT - 8}" y="{TOP + ROW * place + 13}" text-anchor="end">{escape(family)}</text>')
    for number, (data, values) in enumerate(found.items()):
        middle, scale = LEFT + panel * (number + 0.5), (panel / 2 - 12) / most
        bottom = TOP + ROW * len(families)
        lines.append(
            f'<text x="{middle:.1f}" y="{TOP - 8}" text-anchor="middle" font-weight="bold">{escape(data)}</text>'
        )
        lines.append(f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="{TOP}" y2="{bottom}" stroke="#9e9e9e"/>')
        for place, family in enumerate(families):
            if family not in values:
                continue
            gap, spread = values[family]
            y = TOP + ROW * place + 4
            band = f'x="{middle - spread * scale:.1f}" width="{2 * spread * scale:.1f}"'
            lines.append(f'<rect {band} y="{y}" height="10" fill="#e0e0e0"/>')
            colour = "#00796b" if gap >= -spread else "#c62828"
            lines.append(f'<circle cx="{middle + gap * scale:.1f}" cy="{y + 5}" r="4" fill="{colour}"/>')
        for end in (-most, most):
            lines.append(f'<text x="{middle + end * scale:.1f}" y="{bottom + 14}" text-anchor="middle" font-size="10">'
                         f"{end:+.4f}</text>")  # fmt: skip
    return "\n".join([*lines, "</g>", "</svg>", ""])


def prepared(result: dict[str, Any]) -> str:
    """Return the recorded figures of preparing and judging."""
    command = result["settings"].get("command", "python benchmarks/prepare.py")
    told = f"`{command}`, commit `{result['commit']}`, {result['machine']}."
    lines = [told, "", "| figure | value | interval | goal | |", "|---|---:|---|---|---|"]
    for name, figure in result["figures"].items():
        if figure["value"] is None:
            continue
        low, high, goal = figure["low"], figure["high"], figure["goal"]
        between = "" if low is None or high is None else f"{low:.3g} … {high:.3g}"
        wanted = "" if goal is None else f"{goal['op']} {goal['bound']:g}"
        held = {None: "", True: "holds", False: "missed"}[figure["holds"]]
        lines.append(f"| `{name}` | {figure['value']:.3g} {figure['unit']} | {between} | {wanted} | {held} |")
    return "\n".join(lines)


def fill(page: Path, name: str, text: str) -> None:
    """Put text between the marks of a page."""
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    content = page.read_text(encoding="utf-8")
    before, after = content.partition(start)[0], content.partition(end)[2]
    page.write_text(f"{before}{start}\n{text}\n{end}{after}", encoding="utf-8")


def read(name: str) -> dict[str, Any] | None:
    """Return a recorded result, or None."""
    path = RESULTS / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def main() -> None:
    """Draw."""
    accuracy = read("ctr_accuracy.json")
    if accuracy is not None:
        fill(CHOOSE, "ctr_accuracy", recorded(accuracy))
        fill(BENCHMARKS, "ctr_accuracy", "![Gaps](images/ctr-gap.svg)\n\n" + recorded(accuracy))
        CHART.write_text(chart(accuracy), encoding="utf-8")
    preparing = read("prepare.json")
    if preparing is not None:
        fill(BENCHMARKS, "prepare", prepared(preparing))


if __name__ == "__main__":
    main()
