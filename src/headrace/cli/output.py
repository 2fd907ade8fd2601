"""How verbs speak: tables and bars for people, one JSON object for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping

from rich.console import Console


def print_json(value: object) -> None:
    """Print one JSON object on standard output; NaN and infinities become null, because JSON has no word for them."""
    print(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def plain(value: object) -> object:
    """Return the value with mappings and sequences copied and non-finite numbers replaced by None.

    Example:
        >>> plain({"auc": float("nan"), "rows": (1, 2)})
        {'auc': None, 'rows': [1, 2]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def console() -> Console:
    """Return the console that people read: standard output, coloured when it is a terminal."""
    return Console(highlight=False, soft_wrap=True)


def say_error(text: str) -> None:
    """Print one clear line on standard error."""
    print(f"headrace: {text}", file=sys.stderr)


def human_bytes(count: float) -> str:
    """Return a size for people.

    Example:
        >>> human_bytes(3 * 1024**2)
        '3.0 MiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
