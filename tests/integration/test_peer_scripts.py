"""The scripts that install peers, with a pip of the test's own: what is lacking is said, and tried again."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("peers.sh", "peers_elastic.sh", "peers_rlhf.sh", "peers_serve.sh")
PYTHON = """#!/usr/bin/env bash
if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && exit; fi
echo "$*" >>"$ASKED"
case " $* " in *" $BROKEN"*) exit 1 ;; esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def run(checkout: Path, script: str, broken: str = "nothing at all") -> tuple[int, str, list[str]]:
    """Return exit code, what was said, and what pip was asked for."""
    asked = checkout / "asked"
    asked.write_text("")
    ended = subprocess.run([str(checkout / "scripts" / script)], capture_output=True, text=True, check=False, env={
        **os.environ, "PYTHON": str(checkout / "python"), "ASKED": str(asked), "BROKEN": broken})  # fmt: skip
    return ended.returncode, ended.stderr, asked.read_text().splitlines()


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_is_there_is_not_installed_again(checkout: Path, script: str) -> None:
    code, _, asked = run(checkout, script)
    assert code == 0
    pinned = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    assert any(f"{pinned}+cpu" in line for line in asked)
    assert run(checkout, script) == (0, "", [])


@pytest.mark.parametrize(("script", "part"), [("peers.sh", "torchrec"), ("peers_serve.sh", "ray[serve]")])
def test_a_part_that_is_lacking_is_tried_again(checkout: Path, script: str, part: str) -> None:
    code, said, _ = run(checkout, script, broken=part)
    assert code == 1
    assert "its figures will be null" in said
    code, _, asked = run(checkout, script)
    assert code == 0
    assert any(part in line for line in asked)
    assert run(checkout, script)[2] == []


@pytest.mark.parametrize(("script", "part"), [("peers_elastic.sh", "torchft"), ("peers_rlhf.sh", "trl")])
def test_without_what_is_measured_no_environment_is_left(checkout: Path, script: str, part: str) -> None:
    code, said, _ = run(checkout, script, broken=part)
    assert code == 1
    assert "the peers' figures will be null" in said
    assert not list(checkout.glob("build/**/bin/python"))
