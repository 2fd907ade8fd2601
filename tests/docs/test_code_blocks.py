"""Every Python block of the documents runs; the blocks of one page run in order, in one namespace."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "src" / "headrace" / "papers").glob("*/card.md")]
)
FENCE = re.compile(
    r"^(?P<mark><!-- tested -->\n)?^(?P<indent> *)```(?P<language>\w+)(?P<title>[^\n]*)\n(?P<code>.*?)^(?P=indent)```$",
    re.M | re.S,
)
PRINTS = 'title="prints"'


@dataclass(frozen=True)
class Block:
    language: str
    title: str
    code: str
    line: int
    marked: bool


def blocks(text: str) -> list[Block]:
    return [
        Block(
            match["language"],
            match["title"].strip(),
            re.sub(rf"^{match['indent']}", "", match["code"], flags=re.M),
            text[: match.start("code")].count("\n") + 1,
            match["mark"] is not None,
        )
        for match in FENCE.finditer(text)
    ]


def wanted(page: Path) -> bool:
    return any(b.language == "python" or (b.language == "bash" and b.marked) for b in blocks(page.read_text("utf-8")))


@pytest.mark.parametrize("page", [p for p in PAGES if wanted(p)], ids=lambda page: str(page.relative_to(ROOT)))
def test_code_blocks_run(page: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__docs__"}
    printed = ""
    for block in blocks(page.read_text("utf-8")):
        if block.language == "python":
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                # line numbers of a failure are those of the page
                code = "\n" * (block.line - 1) + block.code
                exec(compile(code, str(page), "exec", dont_inherit=True), namespace)
            printed = output.getvalue()
        elif block.title == PRINTS:
            assert printed == block.code
        elif block.language == "bash" and block.marked:
            printed = run_bash(block.code)


def run_bash(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    prelude = f'set -euo pipefail\nheadrace() {{ "{sys.executable}" -m headrace "$@"; }}\n'
    run = subprocess.run(["bash", "-c", prelude + code], env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, f"{code}\n{run.stdout}\n{run.stderr}"
    return run.stdout


def test_blocks_are_found() -> None:
    page = 'a\n```python\nx = 1\n```\n\n```text title="prints"\n1\n```\n'
    page += "<!-- tested -->\n```bash\ntrue\n```\n```bash\nfalse\n```\n"
    found = blocks(page)
    assert [(b.language, b.code, b.marked) for b in found] == [
        ("python", "x = 1\n", False), ("text", "1\n", False), ("bash", "true\n", True), ("bash", "false\n", False),
    ]  # fmt: skip
    assert found[0].line == 3
    assert found[1].title == PRINTS
