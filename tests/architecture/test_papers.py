"""Paper folders are complete and all alike."""

from __future__ import annotations

import ast
import json
from pathlib import Path

PARTS = ("card.md", "recipe.py", "claim.py", "expected.json")


def folders(root: Path) -> list[Path]:
    papers = root / "src" / "headrace" / "papers"
    return sorted(path for path in papers.iterdir() if path.is_dir() and not path.name.startswith("_"))


def test_there_are_papers(root) -> None:
    assert folders(root) != []


def test_every_paper_folder_is_complete(root) -> None:
    missing = [f"{folder.name}/{part}" for folder in folders(root) for part in PARTS if not (folder / part).is_file()]
    assert missing == [], "\n".join(map(str, missing))


def test_every_paper_has_its_claim_test(root) -> None:
    tests = root / "tests" / "papers"
    missing = [folder.name for folder in folders(root) if not (tests / folder.name / "test_claim.py").is_file()]
    assert missing == [], "\n".join(map(str, missing))


def test_every_claim_can_be_run_and_rendered(root) -> None:
    lacking = []
    for folder in folders(root):
        tree = ast.parse((folder / "claim.py").read_text(encoding="utf-8"))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        names |= {
            alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
        }
        lacking += [f"{folder.name}.claim.{name}" for name in ("run", "render") if name not in names]
    assert lacking == [], "\n".join(map(str, lacking))


def test_every_recorded_claim_says_where_it_comes_from(root) -> None:
    lacking = []
    for folder in folders(root):
        recorded = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
        sizes = recorded if "figures" not in recorded else {"small": recorded}
        for size, record in sizes.items():
            lacking += [
                f"{folder.name} {size}: {key}"
                for key in ("figures", "commit", "machine", "settings")
                if key not in record
            ]
    assert lacking == [], "\n".join(map(str, lacking))


def test_every_recorded_plot_is_drawn(root) -> None:
    wanted, images = set[str](), root / "docs" / "images" / "papers"
    for folder in folders(root):
        recorded = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
        wanted |= {f"{folder.name}-{place}.svg" for place, _ in enumerate(recorded.get("plots", []), start=1)}
    drawn = {path.name for path in images.glob("*.svg")}
    assert wanted == drawn, f"draw_papers.py; not drawn: {wanted - drawn}, of no plot: {drawn - wanted}"
