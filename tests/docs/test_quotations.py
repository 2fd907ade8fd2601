"""Pages that quote a file of the project quote what stands there."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
QUOTED = re.compile(r'^```py title="(?P<path>[^"]+)"\n(?P<code>.*?)^```$', re.M | re.S)


def quotations() -> list[tuple[str, str, str]]:
    pages = sorted((ROOT / "docs").rglob("*.md"))
    return [(page.name, match["path"], match["code"]) for page in pages
            for match in QUOTED.finditer(page.read_text(encoding="utf-8"))]  # fmt: skip


def stands_in(code: str, text: str) -> bool:
    """Whether some lines of the text, moved to the left together, are the code."""
    wanted, lines = code.splitlines(), text.splitlines()
    return any(
        textwrap.dedent("\n".join(lines[start : start + len(wanted)])).splitlines() == wanted
        for start in range(len(lines) - len(wanted) + 1)
    )


def test_what_is_quoted_stands_in_its_file() -> None:
    found = quotations()
    assert found
    wrong = [(page, path) for page, path, code in found if not stands_in(code, (ROOT / path).read_text("utf-8"))]
    assert wrong == []


def test_a_changed_line_is_noticed() -> None:
    assert stands_in("a\n  b\n", "x\n    a\n      b\n")
    assert not stands_in("a\n  c\n", "x\n    a\n      b\n")
