"""Draws the recorded comparison of model families into docs/how-to/choose-a-model.md.

    python scripts/draw_rankers.py

Everything between the two marks of the page is replaced by what benchmarks/results/ctr_accuracy.json holds; record
that file with `python benchmarks/ctr_accuracy.py --record benchmarks/results/ctr_accuracy.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "ctr_accuracy.json"
PAGE = ROOT / "docs" / "how-to" / "choose-a-model.md"
START, END = "<!-- ctr_accuracy: start -->", "<!-- ctr_accuracy: end -->"


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


def main() -> None:
    """Draw."""
    text = recorded(json.loads(RESULT.read_text(encoding="utf-8")))
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.partition(START)[0], page.partition(END)[2]
    PAGE.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
