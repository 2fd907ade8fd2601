"""A setting that nobody reads is a lie."""

from __future__ import annotations

import ast
from collections.abc import Iterator


def frozen_settings(tree: ast.Module) -> Iterator[ast.ClassDef]:
    """Frozen dataclasses that are settings: called so, or keyword-only and checking themselves."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for decorator in node.decorator_list:
                options = {k.arg: ast.unparse(k.value) for k in getattr(decorator, "keywords", [])}
                frozen = "dataclass" in ast.unparse(decorator) and options.get("frozen") == "True"
                checks = any(getattr(member, "name", "") == "__post_init__" for member in node.body)
                named = node.name.endswith(("Config", "Settings"))
                if frozen and (named or (options.get("kw_only") == "True" and checks)):
                    yield node


def reads(tree: ast.Module) -> set[tuple[str, str]]:
    """(class whose `__post_init__` it stands in or "", attribute) of every attribute that is read."""
    found: set[tuple[str, str]] = set()

    def walk(node: ast.AST, owner: str) -> None:
        for child in ast.iter_child_nodes(node):
            inside = owner
            if isinstance(child, ast.ClassDef):
                for member in child.body:
                    walk(member, child.name if getattr(member, "name", "") == "__post_init__" else "")
                continue
            if isinstance(child, ast.Attribute) and isinstance(child.ctx, ast.Load):
                found.add((inside, child.attr))
            if isinstance(child, ast.Call) and getattr(child.func, "id", "") == "getattr" and len(child.args) > 1:
                name = child.args[1]
                if isinstance(name, ast.Constant):
                    found.add((inside, str(name.value)))
            walk(child, inside)

    walk(tree, "")
    return found


def test_every_setting_is_read_somewhere(tree) -> None:
    everywhere = set().union(*(reads(file.tree) for file in tree.source))
    unread = []
    for file in tree.source:
        for settings in frozen_settings(file.tree):
            for member in settings.body:
                if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
                    name = member.target.id
                    # its own validation alone is no use of it
                    if not any(attribute == name and owner != settings.name for owner, attribute in everywhere):
                        unread.append(f"{file.name}:{member.lineno} {settings.name}.{name}")
    assert unread == [], "\n".join(map(str, unread))


def test_an_unread_setting_is_noticed() -> None:
    tree = ast.parse("class A:\n  def __post_init__(self): self.only_checked\n  def f(self): self.used")
    assert ("A", "only_checked") in reads(tree)
    assert ("", "only_checked") not in reads(tree)
    assert ("", "used") in reads(tree)
