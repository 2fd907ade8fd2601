"""Counts how many lines each method took and writes the table into docs/explanation/adding-a-method.md.

    python scripts/method_sizes.py

What belongs to a method is read from its card: the files that "What we built" links to. Lines are those of the files as
they are, without blank lines.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAPERS = ROOT / "src" / "headrace" / "papers"
PAGE = ROOT / "docs" / "explanation" / "adding-a-method.md"
METHODS = {
    "vae_priors": "Objective", "cvae": "Objective", "acvae": "Objective", "vpng": "dense optimiser",
    "bfn_solver": "Predictor, Objective", "groupanno": "Feedback", "active_multitask": "Feedback, Learner",
}  # fmt: skip
"""The methods of the page by slug, and the role that each plugs into."""
START, END = "<!-- sizes: start -->", "<!-- sizes: end -->"


def lines(paths: list[Path]) -> int:
    """Return how many lines of the files are not blank."""
    return sum(bool(line.strip()) for path in paths for line in path.read_text(encoding="utf-8").splitlines())


def rooms(slug: str) -> list[Path]:
    """Return the files outside the paper folder that a card says were built."""
    card = (PAPERS / slug / "card.md").read_text(encoding="utf-8")
    built = card.partition("## What we built")[2].partition("\n## ")[0]
    linked = [(PAPERS / slug / target).resolve() for target in re.findall(r"\]\(([^)#]+\.py)\)", built)]
    return list(dict.fromkeys(path for path in linked if PAPERS not in path.parents))


def row(slug: str, role: str, counted: set[Path]) -> str:
    """Return a method's line of the table; a file counts for the first method that built it."""
    built, folder = [path for path in rooms(slug) if path not in counted], sorted((PAPERS / slug).glob("*.py"))
    counted.update(built)
    tests = [ROOT / "tests" / "unit" / path.parent.name / f"test_{path.name}" for path in built]
    tests = [path for path in tests if path.exists()] + sorted((ROOT / "tests" / "papers" / slug).glob("test_*.py"))
    names = ", ".join(f"`{path.relative_to(ROOT / 'src' / 'headrace')}`" for path in built)
    return f"| `{slug}` | {role} | {names} | {lines(built)} | {lines(folder)} | {lines(tests)} |"


def main() -> None:
    """Write the table."""
    head = ["| method | role | files in rooms | lines | paper folder | tests |", "|---|---|---|---:|---:|---:|"]
    counted: set[Path] = set()
    table = "\n".join([*head, *(row(slug, role, counted) for slug, role in METHODS.items())])
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.partition(START)[0], page.partition(END)[2]
    PAGE.write_text(f"{before}{START}\n{table}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
