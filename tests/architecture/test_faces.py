"""Each room shows exactly what it says it shows."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOMS = sorted(
    path.parent.name
    for path in (Path(__file__).resolve().parents[2] / "src" / "headrace").glob("*/__init__.py")
    if path.parent.name != "papers"
)


def bound_names(tree: ast.Module) -> set[str]:
    """Public names that the module's own statements bind, modules of the standard library left out."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("headrace"):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and node in tree.body:
            names.add(node.name)
        elif isinstance(node, ast.Assign) and node in tree.body:
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and node in tree.body and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_")}


def declared(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if (
            any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)
            and node.value is not None
        ):
            return list(ast.literal_eval(node.value))
    return None


@pytest.mark.parametrize("room", ROOMS)
def test_all_equals_the_public_names(root, room: str) -> None:
    tree = ast.parse((root / "src" / "headrace" / room / "__init__.py").read_text(encoding="utf-8"))
    names = declared(tree)
    assert names is not None, f"headrace/{room}/__init__.py has no __all__"
    assert len(names) == len(set(names))
    assert set(names) == bound_names(tree)


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_shown_can_be_imported(room: str) -> None:
    module = importlib.import_module(f"headrace.{room}")
    found = [name for name in module.__all__ if not hasattr(module, name)]
    assert found == [], "\n".join(map(str, found))


def test_every_room_has_a_face(root) -> None:
    folders = [path for path in (root / "src" / "headrace").iterdir() if path.is_dir() and any(path.glob("*.py"))]
    found = [folder.name for folder in folders if not (folder / "__init__.py").is_file()]
    assert found == [], "\n".join(map(str, found))


def test_the_front_door_shows_what_it_says() -> None:
    front = importlib.import_module("headrace")
    found = [name for name in front.__all__ if not hasattr(front, name)]
    assert found == [], "\n".join(map(str, found))
    assert sorted(front.__all__) == list(front.__all__)


def test_the_front_door_refuses_other_names() -> None:
    front = importlib.import_module("headrace")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        front.nonsense  # noqa: B018
