"""The source tree, read once for all architecture tests."""

from __future__ import annotations

import ast
import os
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class SourceFile:
    """One Python file: its path from the root of the checkout, text and syntax tree."""

    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, str(self.path))

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def module(self) -> str:
        """Dotted module name of a file under src/."""
        parts = list(self.path.relative_to(ROOT / "src").with_suffix("").parts)
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def room(self) -> str:
        """First name under headrace: the room, or the ground-floor module."""
        parts = self.module.split(".")
        return parts[1] if len(parts) > 1 else ""


class Tree:
    """All files of the checkout that are part of the product (whatever git would commit)."""

    def __init__(self) -> None:
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if listed.returncode == 0:
            names = listed.stdout.splitlines()
        else:  # an unpacked sdist
            names = [
                os.path.relpath(os.path.join(folder, name), ROOT)
                for folder, _, files in os.walk(ROOT)
                for name in files
            ]
        skip = {".git", ".venv", "build", "site", "__pycache__"}
        paths = [ROOT / name for name in sorted(set(names)) if not skip & set(Path(name).parts)]
        self.paths = [path for path in paths if path.is_file()]
        self.python = [SourceFile(path) for path in self.paths if path.suffix == ".py"]
        self.source = [file for file in self.python if file.name.startswith("src/headrace/")]
        self.native = [path for path in self.paths if path.suffix in {".h", ".cc"}]


@pytest.fixture(scope="session")
def tree() -> Tree:
    return Tree()


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT
