"""Who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator

import grimp

WEB = {"starlette", "uvicorn", "httptools"}
ONLY_IN = {
    "ray": "runtime",
    "rocksdict": "data",
    "confluent_kafka": "data",
    "optuna": "ranking",
    "tokenizers": "data",
    "transformers": "nn",
}


def imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every imported module name with its line, wherever it stands; `from a import b` gives `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in {
            "import_module", "__import__", "find_spec",
        }:  # fmt: skip
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value, node.lineno


def offenders(tree, wrong) -> list[str]:
    return sorted(
        {
            f"{file.name}:{line} imports {name}"
            for file in tree.source
            for name, line in imports(file.tree)
            if wrong(file, name)
        }
    )


def test_the_floors_hold(root) -> None:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr


def test_no_module_stands_in_an_import_circle() -> None:
    graph = grimp.build_graph("headrace", cache_dir=None)
    below = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert circles(below) == []


def circles(below: dict[str, set[str]]) -> list[list[str]]:
    """Modules that can reach themselves, grouped: what is left after peeling off everything that cannot."""
    left = {module: set(targets) for module, targets in below.items()}
    while True:
        leaves = {module for module, targets in left.items() if not targets & left.keys()}
        pointed = set().union(*left.values()) if left else set()
        loose = leaves | {module for module in left if module not in pointed}
        if not loose:
            return [sorted(left)] if left else []
        left = {module: targets - loose for module, targets in left.items() if module not in loose}


def test_the_circle_finder_finds_circles() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == [["b", "c"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_each_outside_library_stays_in_its_room(tree) -> None:
    def wrong(file, name: str) -> bool:
        room = ONLY_IN.get(name.split(".")[0])
        # doctor looks for extras by name to say whether they are installed
        return room is not None and file.room != room and file.name != "src/headrace/cli/doctor.py"

    found = offenders(tree, wrong)
    assert found == [], "\n".join(map(str, found))


def test_web_framework_only_in_the_http_face(tree) -> None:
    def wrong(file, name: str) -> bool:
        if name.split(".")[0] not in WEB:
            return False
        room, _, place = file.name.partition("src/headrace/serve/")
        face = place in ("http.py", "server.py", "door.py") or place.endswith("_routes.py")
        return bool(room) or not face

    found = offenders(tree, wrong)
    assert found == [], "\n".join(map(str, found))


def test_native_module_only_in_store(tree) -> None:
    found = offenders(tree, lambda file, name: name.startswith("headrace.store._native") and file.room != "store")
    assert found == [], "\n".join(map(str, found))


def test_product_code_does_not_use_the_test_room(tree) -> None:
    def wrong(file, name: str) -> bool:
        return (name + ".").startswith("headrace.testing.") and file.room not in {"testing", "papers"}

    found = offenders(tree, wrong)
    assert found == [], "\n".join(map(str, found))


def test_models_never_see_a_table(tree) -> None:
    found = offenders(tree, lambda file, name: file.room == "nn" and name.startswith("headrace.store"))
    assert found == [], "\n".join(map(str, found))


def test_papers_do_not_import_each_other(tree) -> None:
    def wrong(file, name: str) -> bool:
        parts = file.module.split(".")
        inside = f"headrace.papers.{parts[2]}" if file.room == "papers" and len(parts) > 2 else "-"
        return name.startswith("headrace.papers.") and not (name + ".").startswith(inside + ".")

    found = offenders(tree, wrong)
    assert found == [], "\n".join(map(str, found))


def test_nobody_imports_papers(tree) -> None:
    def wrong(file, name: str) -> bool:
        # the command line lists and runs them by name: the package itself, no paper in it
        listing = file.name == "src/headrace/cli/papers.py" and name == "headrace.papers"
        return name.startswith("headrace.papers") and file.room != "papers" and not listing

    found = offenders(tree, wrong)
    assert found == [], "\n".join(map(str, found))


def test_imports_of_our_own_are_absolute(tree) -> None:
    relative = [
        f"{file.name}:{node.lineno}"
        for file in tree.source
        for node in ast.walk(file.tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == [], "\n".join(map(str, relative))
