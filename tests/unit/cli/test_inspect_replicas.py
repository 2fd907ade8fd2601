"""What replicas acknowledged, as `headrace inspect` shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace.cli.main import main
from headrace.publish import Acknowledgement, AcknowledgementFolder, ChangeFolderWriter
from headrace.types import Change, Version


def test_a_run_folder_tells_who_holds_which_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"config": {}, "fingerprint": ""}))
    told = AcknowledgementFolder(tmp_path / "acknowledgements")
    told.record(Acknowledgement(replica="shop-1", version=41, time=1_700_000_000_000_000))
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["replicas"] == [
        {"replica": "shop-1", "version": 41, "said": 1_700_000_000_000_000}
    ]
    assert main(["inspect", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "shop-1" in shown
    assert "2023-11-14" in shown


def test_a_folder_of_changes_is_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = ChangeFolderWriter(tmp_path, "run", sync=False)
    for number in range(3):
        writer.append(Change(version=Version(number, number - 1)))
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "folder of changes"
    assert [part["version"] for part in found["parts"]] == [0, 1, 2]
    (tmp_path / "000000000001.change").write_bytes((tmp_path / "000000000001.change").read_bytes()[:-1] + b"x")
    assert main(["inspect", str(tmp_path), "--json"]) == 1
