"""What every test may use: real data files when there are any, a free port, and one thread."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)

MISSING = re.compile(r"missing data|data file|HEADRACE_DATA", re.IGNORECASE)


@pytest.fixture
def data_file() -> Callable[[str], Path]:
    """Return the path of a named file in the data folder; skip, naming the file, when it is not there."""

    def find(name: str) -> Path:
        folder = os.environ.get("HEADRACE_DATA", "")
        path = Path(folder) / name
        if not folder or not path.exists():
            pytest.skip(f"missing data file {name} (HEADRACE_DATA names the folder)")
        return path

    return find


@pytest.fixture
def free_port() -> int:
    """Return a loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    # A developer's own settings must not decide what a test prints.
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the tests that were skipped for want of a data file."""
    reasons = []
    for report in terminalreporter.stats.get("skipped", []):
        where = report.longrepr
        reason = where[2] if isinstance(where, tuple) else str(where)
        if MISSING.search(reason):
            reasons.append(reason.removeprefix("Skipped: "))
    if reasons:
        terminalreporter.section("missing data files")
        for reason in sorted(set(reasons)):
            terminalreporter.write_line(f"{reasons.count(reason):4d}  {reason}")
    terminalreporter.write_line(f"{len(reasons)} tests skipped for missing data files")
