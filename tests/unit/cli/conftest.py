"""What the tests of the command line share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def root_text():
    """Return the text of a file of the checkout, by its path from the root."""
    root = Path(__file__).resolve().parents[3]
    return lambda name: (root / name).read_text(encoding="utf-8")
