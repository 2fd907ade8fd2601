"""Every public part that fills a role, with how it is put through its contract; the lists stand in `cases_*.py`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from headrace.testing import Verdict

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """One part under one configuration: how it is checked, and the clauses that cannot be tried with it."""

    role: str
    part: type
    run: Callable[[Path], Verdict]
    untried: tuple[int, ...] = ()
    label: str = ""

    @property
    def id(self) -> str:
        return "-".join(part for part in (self.role, self.part.__name__, self.label) if part)


def load(path: Path) -> list[Case]:
    """Import a list of cases by its path: test folders are no packages."""
    spec = importlib.util.spec_from_file_location(f"contract_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return [Case(*row) for rows in module.CASES for row in rows()]


CASES = [case for path in sorted(HERE.glob("cases_*.py")) for case in load(path)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", CASES, ids=lambda case: case.id)


@pytest.fixture(scope="session")
def cases() -> list[Case]:
    return CASES
