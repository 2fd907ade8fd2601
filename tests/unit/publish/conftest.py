"""Consecutive toy changes and a log to publish them in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.data.log import EmbeddedLog
from headrace.types import Change, RowChange, Version

MakeChange = Callable[..., Change]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EmbeddedLog]:
    opened = EmbeddedLog(tmp_path / "changes.db", durability="process")
    yield opened
    opened.close()


@pytest.fixture
def change() -> MakeChange:
    """Version n puts ids n and n + 1 and removes n - 1; its numbers are drawn from n."""

    def make(number: int, *, full: bool = False, salt: int = 0, spec: dict[str, str] | None = None) -> Change:
        rows = np.random.default_rng([number, salt]).normal(size=(2, 3)).astype(np.float32)
        removed = torch.tensor([number - 1] if number and not full else [], dtype=torch.int64)
        return Change(
            version=Version(number, number - 1), full=full, spec=spec or {"schema": "s"},
            tables={"user": RowChange(torch.tensor([number, number + 1]), torch.from_numpy(rows), removed)},
            dense={"weight": torch.full((2,), float(number))}, notes={"accepted_times": torch.tensor([number])},
        )  # fmt: skip

    return make
