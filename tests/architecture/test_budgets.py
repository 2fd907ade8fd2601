"""Sizes and names: files, functions, constructors."""

from __future__ import annotations

import ast
import re

FILE_LINES = 400
GROUND_LINES = 300
FUNCTION_LINES = 60
INIT_PARAMETERS = 8
RECIPE_LINES = 120
ARCHITECTURE_LINES = 150
BANNED = {"util", "utils", "helper", "helpers", "common", "misc", "manager"} | {
    "handler",
    "engine",
    "base",
    "impl",
    "new",
    "v2",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def words(name: str) -> set[str]:
    """The words of a snake_case or CamelCase name, lower case."""
    return {
        word.lower()
        for part in re.split(r"[_\W]+", name)
        for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", part)
    }


def lines_of(function: Function) -> int:
    """Lines from `def` to the end; the docstring is free."""
    total = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        total -= (first.end_lineno or first.lineno) - first.lineno + 1
    return total


def functions(tree: ast.Module) -> list[Function]:
    return [node for node in ast.walk(tree) if isinstance(node, Function)]


def test_no_file_is_over_its_lines(tree) -> None:
    sizes = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in tree.native}
    sizes |= {file.name: len(file.text.splitlines()) for file in tree.python}
    found = {name: lines for name, lines in sizes.items() if lines > FILE_LINES}
    assert found == {}, "\n".join(map(str, found.items()))


def test_nouns_and_roles_fit_on_three_hundred_lines_each(tree) -> None:
    ground = {file.name: len(file.text.splitlines()) for file in tree.source if file.room in {"types", "protocols"}}
    assert len(ground) == 2
    found = {name: lines for name, lines in ground.items() if lines > GROUND_LINES}
    assert found == {}, "\n".join(map(str, found.items()))


def test_no_function_is_over_its_lines(tree) -> None:
    long = {
        f"{file.name}:{function.lineno} {function.name}": lines_of(function)
        for file in tree.python
        for function in functions(file.tree)
        if lines_of(function) > FUNCTION_LINES
    }
    assert long == {}, "\n".join(map(str, long.items()))


def test_no_constructor_takes_too_many_parameters(tree) -> None:
    wide = {}
    for file in tree.source:
        for function in functions(file.tree):
            arguments = function.args
            count = len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]) - 1
            if function.name == "__init__" and count > INIT_PARAMETERS:
                wide[f"{file.name}:{function.lineno}"] = count
    assert wide == {}, "\n".join(map(str, wide.items()))


def test_recipes_are_thin(tree) -> None:
    recipes = {file.name: len(file.text.splitlines()) for file in tree.source if file.path.name == "recipe.py"}
    found = {name: lines for name, lines in recipes.items() if lines > RECIPE_LINES}
    assert found == {}, "\n".join(map(str, found.items()))


def test_the_map_is_short(root) -> None:
    assert len((root / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines()) <= ARCHITECTURE_LINES


def test_file_names_say_what_is_inside(tree, root) -> None:
    paths = [path.relative_to(root) for path in [*tree.native, *(file.path for file in tree.python)]]
    bad = [str(path) for path in paths if any(BANNED & words(part) for part in path.with_suffix("").parts)]
    assert bad == [], "\n".join(map(str, bad))


def test_class_names_say_what_they_are(tree) -> None:
    bad = [
        f"{file.name}:{node.lineno} {node.name}"
        for file in tree.python
        for node in ast.walk(file.tree)
        if isinstance(node, ast.ClassDef) and BANNED & words(node.name)
    ]
    assert bad == [], "\n".join(map(str, bad))


def test_native_class_names_say_what_they_are(tree) -> None:
    bad = []
    for path in tree.native:
        for match in re.finditer(r"\b(?:class|struct|namespace)\s+([A-Za-z_]\w*)", path.read_text(encoding="utf-8")):
            if BANNED & words(match[1]):
                bad.append(f"{path.name}: {match[1]}")
    assert bad == [], "\n".join(map(str, bad))


def test_words_of_a_name() -> None:
    assert words("HTTPHandler") & BANNED == {"handler"}
    assert words("table_utils") & BANNED == {"utils"}
    assert words("rebase") & BANNED == set()
