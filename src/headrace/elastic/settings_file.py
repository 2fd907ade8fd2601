"""Where a run's settings and result are written, and how they are read before anything heavy is imported."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from headrace.config import require

FILE = "elastic.json"
VARIABLE = "HEADRACE_ELASTIC"
RESULT = "result.json"


def settings_in(folder: Path) -> dict[str, Any]:
    """Return the settings of the run in a folder: from the environment of this process, else from the folder.

    Raises:
        ConfigError: If there are none.
    """
    path, text = folder / FILE, os.environ.get(VARIABLE, "")
    require(bool(text) or path.is_file(), f"Run {folder}", got=f"no {FILE}", expected="an elastic run's folder")
    found: dict[str, Any] = json.loads(text or path.read_text())
    return found


def result_in(folder: Path) -> dict[str, Any] | None:
    """Return what the run in a folder came to; None where it has not ended."""
    path = folder / RESULT
    found: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
    return found
