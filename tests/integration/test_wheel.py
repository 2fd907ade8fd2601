"""The package as it is installed: with a compiler, and without one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEARN_ONE_ROW = """
import torch
from headrace.store import TableConfig, open_table
table = open_table(TableConfig(name="user", dim=4))
other = open_table(TableConfig(name="item", dim=4))
one = torch.ones(1, dtype=torch.int64)
table.update(one, torch.ones(1, 4), one, one)
print(type(table).__name__, len(table))
"""


def build(folder: Path, **environment: str) -> Path:
    """Build a wheel of a copy of the sources, as pip does in a fresh checkout."""
    sources = folder / "sources"
    sources.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt", "CMakeLists.txt", ".gitignore"):
        shutil.copy(ROOT / name, sources / name)
    shutil.copytree(ROOT / "csrc", sources / "csrc")
    skip = shutil.ignore_patterns("__pycache__", "_native*")
    shutil.copytree(ROOT / "src", sources / "src", ignore=skip)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(sources),
    ]
    run = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stdout + run.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def run_installed(wheel: Path, folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code against nothing but what the wheel holds, away from the checkout."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    # -P: not the current folder. The checkout may be installed editably, with a finder that comes before every path.
    environment = {**os.environ, "PYTHONPATH": str(folder / "installed")}
    prelude = (
        "import sys\n"
        "sys.meta_path[:] = [finder for finder in sys.meta_path if 'ScikitBuild' not in type(finder).__name__]\n"
        "import headrace; assert headrace.__file__.startswith(sys.argv[1]), headrace.__file__\n"
    )
    command = [sys.executable, "-P", "-c", prelude + code, str(folder / "installed")]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def pure(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("pure"), CXX="/bin/false", CC="/bin/false")


def test_without_a_compiler_the_wheel_is_pure(pure) -> None:
    assert pure.name.endswith("-py3-none-any.whl")
    assert not any("_native" in name for name in names(pure))


def test_without_a_compiler_tables_work_with_one_warning(pure, tmp_path) -> None:
    run = run_installed(pure, tmp_path, LEARN_ONE_ROW)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["ReferenceTable", "1"]
    assert run.stderr.count("native table is missing") == 1


def test_the_wheel_has_types_papers_and_licence(pure) -> None:
    inside = names(pure)
    assert "headrace/py.typed" in inside
    assert "headrace/papers/monolith/card.md" in inside
    assert any(name.endswith("licenses/LICENSE") for name in inside)


def test_the_wheel_has_nothing_else(pure) -> None:
    assert {name.split("/")[0] for name in names(pure)} == {"headrace", "headrace-0.1.0.dist-info"}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler on this machine")
def test_with_a_compiler_the_wheel_has_the_native_table(tmp_path) -> None:
    wheel = build(tmp_path)
    assert any(name.startswith("headrace/store/_native.") and name.endswith(".so") for name in names(wheel))
    assert "headrace/store/_native.pyi" in names(wheel)
    run = run_installed(wheel, tmp_path, LEARN_ONE_ROW)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["NativeTable", "1"]
    assert run.stderr == ""
