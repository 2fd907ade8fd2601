"""Public docstrings and annotations: all of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

Function = ast.FunctionDef | ast.AsyncFunctionDef


def public(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Public functions and classes of a module and public methods of public classes, with their names."""
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for member in node.body:
                    if isinstance(member, Function) and not member.name.startswith("_"):
                        yield f"{node.name}.{member.name}", member


def is_overload(node: ast.AST) -> bool:
    names = [ast.unparse(decorator) for decorator in getattr(node, "decorator_list", [])]
    return any(name.endswith(("overload", ".setter")) for name in names)


def test_every_module_says_what_it_is(tree) -> None:
    found = [file.name for file in tree.source if not ast.get_docstring(file.tree)]
    assert found == [], "\n".join(map(str, found))


def test_every_public_name_has_a_docstring(tree) -> None:
    missing = [
        f"{file.name}:{node.lineno} {name}"
        for file in tree.source
        for name, node in public(file.tree)
        if not is_overload(node) and not ast.get_docstring(node)
    ]
    assert missing == [], "\n".join(map(str, missing))


def test_every_function_is_fully_annotated(tree) -> None:
    missing = []
    for file in tree.source:
        for node in ast.walk(file.tree):
            if not isinstance(node, Function):
                continue
            arguments = [
                *node.args.posonlyargs,
                *node.args.args,
                *node.args.kwonlyargs,
                node.args.vararg,
                node.args.kwarg,
            ]
            bare = [a.arg for a in arguments if a and a.annotation is None and a.arg not in {"self", "cls"}]
            if bare or node.returns is None:
                missing.append(f"{file.name}:{node.lineno} {node.name} {bare or 'return'}")
    assert missing == [], "\n".join(map(str, missing))


def test_every_module_with_annotations_defers_them(tree) -> None:
    late = [
        file.name
        for file in tree.source
        if any(isinstance(node, Function | ast.ClassDef | ast.AnnAssign) for node in ast.walk(file.tree))
        and "from __future__ import annotations" not in file.text
    ]
    assert late == [], "\n".join(map(str, late))
