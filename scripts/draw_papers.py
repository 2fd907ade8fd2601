"""Draws the plots that the papers' claims recorded into docs/images/papers/.

    python scripts/draw_papers.py [SLUG ...]

Reads `plots` from every paper's expected.json; the site shows them on the papers' pages and on their index.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from headrace.evaluate.page import read_plot, svg

ROOT = Path(__file__).resolve().parents[1]
PAPERS = ROOT / "src" / "headrace" / "papers"
IMAGES = ROOT / "docs" / "images" / "papers"


def draw(slug: str) -> list[Path]:
    """Draw one paper's plots and return the files; plots that are no longer recorded go."""
    recorded = json.loads((PAPERS / slug / "expected.json").read_text(encoding="utf-8"))
    IMAGES.mkdir(parents=True, exist_ok=True)
    for old in IMAGES.glob(f"{slug}-[0-9]*.svg"):
        old.unlink()
    drawn = []
    for place, plain in enumerate(recorded.get("plots", []), start=1):
        path = IMAGES / f"{slug}-{place}.svg"
        path.write_text(svg(read_plot(plain), f"{slug}{place}") + "\n", encoding="utf-8")
        drawn.append(path)
    return drawn


def main() -> None:
    """Draw all papers, or those named."""
    slugs = sys.argv[1:] or sorted(path.parent.name for path in PAPERS.glob("*/expected.json"))
    for slug in slugs:
        print(slug, *(path.name for path in draw(slug)))


if __name__ == "__main__":
    main()
