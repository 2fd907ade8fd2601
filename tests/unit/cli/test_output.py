from __future__ import annotations

import json
from pathlib import Path

from headrace.cli.output import human_bytes, plain, print_json


def test_json_has_no_nan(capsys) -> None:
    print_json({"auc": float("nan"), "loss": float("inf"), "rows": 3})
    assert json.loads(capsys.readouterr().out) == {"auc": None, "loss": None, "rows": 3}


def test_anything_else_becomes_text() -> None:
    assert plain({1: Path("a"), "t": (True, None)}) == {"1": "a", "t": [True, None]}


def test_sizes_for_people() -> None:
    assert [human_bytes(n) for n in (0, 1023, 1024, 5 * 1024**3, 2 * 1024**5)] == [
        "0 B", "1023 B", "1.0 KiB", "5.0 GiB", "2048.0 TiB",
    ]  # fmt: skip
