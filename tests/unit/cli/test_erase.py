"""`headrace erase` and `headrace inspect traces`, as somebody types them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from headrace.cli.main import main
from headrace.online import Embedded, RunFolder, build, find_recipe

RECIPE, SETTINGS = "headrace.online.demo:world", ["requests=120", "log=true", "publish_every=256"]
USER = "u28"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("erase") / "run"
    Embedded(build(find_recipe(RECIPE), SETTINGS), RunFolder(root)).run()
    return root


def erase(folder: Path, *more: str) -> int:
    return main(["erase", RECIPE, *SETTINGS, "--folder", str(folder), *more])


def test_from_asking_to_the_proof(folder: Path, capsys, monkeypatch) -> None:
    assert main(["inspect", "traces", USER, str(folder)]) == 1
    assert "traces" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{USER}\n"))
    assert erase(folder, "--user", "-") == 0
    assert "waits for the publisher, the joiner, the learner" in " ".join(capsys.readouterr().out.split())
    assert erase(folder, "--user", USER, "--wait", "0.1") == 3, "nobody does it"
    capsys.readouterr()
    assert erase(folder, "--here", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"erasures": []}
    assert main(["inspect", "traces", USER, str(folder)]) == 0
    assert "no trace in" in capsys.readouterr().out
    assert main(["inspect", "traces", USER, str(folder), "--json"]) == 0
    scan = json.loads(capsys.readouterr().out)[str(folder)]
    assert (scan["traces"], scan["unreadable"]) == ([], [])
    assert erase(folder, "--user", USER, "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)["erasures"]
    assert told["state"] == "finished: no trace is left"
    audit = (folder / "audit.jsonl").read_text()
    assert told["subject"] in audit
    assert f'"{USER}"' not in audit


def test_again_and_back_by_consent(folder: Path, capsys) -> None:
    assert erase(folder, "--user", "u17", "--here") == 0
    assert erase(folder, "--user", "u17", "--again", "--here") == 0
    capsys.readouterr()
    assert erase(folder, "--user", "u17", "--consent", "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)["erasures"]
    assert told["state"] == "finished, and lifted by consent"
    assert erase(folder, "--user", "u17", "--consent") == 0
    assert "No erasure" in capsys.readouterr().out


def test_what_cannot_work(folder: Path, tmp_path: Path, capsys) -> None:
    assert erase(folder, "--consent") == 2
    assert "--user" in capsys.readouterr().err
    assert erase(tmp_path / "nowhere", "--user", "x") == 2
    assert main(["inspect", "traces", "x"]) == 2
    assert main(["inspect", "traces", "x", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
