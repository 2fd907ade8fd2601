from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
import torch

from headrace.cli.main import main
from headrace.data.log import EmbeddedLog
from headrace.errors import VersionError
from headrace.online import RunFolder
from headrace.online.versions import list_versions, order_versions
from headrace.publish import Acknowledgement, AcknowledgementFolder, LogPublisher, Sluice, publishing
from headrace.serve import AuditLog
from headrace.types import Change, RowChange, Version


def learned(number: int) -> Change:
    rows = RowChange(torch.tensor([number, number + 1]), torch.full((2, 3), float(number)), torch.tensor([number - 1]))
    return Change(version=Version(number, number - 1), tables={"user": rows}, dense={"w": torch.tensor([number])},
                  full=number == 0)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run that published five versions."""
    folder = RunFolder(tmp_path / "run")
    with EmbeddedLog(folder.log("changes"), durability="process") as log:
        sluice = Sluice(LogPublisher(log, folder.snapshots))
        for number in range(5):
            sluice.publish(learned(number))
    acknowledgements = AcknowledgementFolder(folder.acknowledgements)
    acknowledgements.record(Acknowledgement(replica="server-1", version=4, time=1))
    acknowledgements.record(Acknowledgement(replica="server-2", version=2, time=1))
    return folder


def facts(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert main(["versions", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_list_tells_versions_rows_and_replicas(folder: RunFolder, capsys) -> None:
    assert main(["versions", str(folder.root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:5] == ["version", "parent", "staged", "put", "removed"]
    newest = lines[5].split()
    assert newest[:5] == ["4", "3", "4", "2", "1"]
    assert newest[-1] == "server-1"
    assert lines[6] == "a rollback reaches back to version 0"
    found = facts(capsys, str(folder.root), "list", "--count", "3")
    assert found["version"] == 4
    assert [record["version"] for record in found["records"]] == [2, 3, 4]
    assert [record["acknowledged_by"] for record in found["records"]] == [["server-1", "server-2"], ["server-1"],
                                                                          ["server-1"]]  # fmt: skip
    assert found["hold"] is None


def test_inspect_lists_them_too(folder: RunFolder, capsys) -> None:
    assert main(["versions", str(folder.root)]) == 0
    listed = capsys.readouterr().out
    assert main(["inspect", "versions", str(folder.root)]) == 0
    assert capsys.readouterr().out == listed
    assert main(["inspect", "versions"]) == 2


def test_a_rollback_and_a_release_without_a_publisher(folder: RunFolder, capsys) -> None:
    assert main(["versions", str(folder.root), "rollback", "--to", "2", "--reason", "clicks fell"]) == 0
    begun, done = AuditLog(folder.root / "audit.jsonl").lines()
    assert (begun["what"], begun["details"]["to"], done["state"]) == ("versions rollback", 2, "done")
    assert capsys.readouterr().out.startswith("version 5 has the content of version 2;")
    assert main(["versions", str(folder.root)]) == 0
    shown = capsys.readouterr().out
    assert "rollback to 2: clicks fell" in shown
    assert "on hold" in shown
    assert facts(capsys, str(folder.root))["hold"]["reason"] == "rolled back to version 2: clicks fell"
    assert main(["versions", str(folder.root), "release"]) == 0
    assert "goes out when the run's publisher runs" in capsys.readouterr().out
    assert main(["versions", str(folder.root), "release", "--unchecked"]) == 0
    assert "all that was learned is version 6" in capsys.readouterr().out
    with EmbeddedLog(folder.log("changes")) as log:
        publisher = LogPublisher(log, folder.snapshots)
        assert next(publisher.read_since(5)).dense["w"].tolist() == [4]
        assert Sluice(publisher).status()["pending"] == 0


def test_a_publisher_that_runs_carries_the_order_out(folder: RunFolder, capsys) -> None:
    stop = threading.Event()

    def publish() -> None:
        with EmbeddedLog(folder.log("changes"), durability="process") as log, publishing(log) as alone:
            assert alone
            sluice = Sluice(LogPublisher(log, folder.snapshots))
            started.set()
            while not stop.is_set():
                sluice.obey()
                time.sleep(0.01)

    started = threading.Event()
    thread = threading.Thread(target=publish)
    thread.start()
    started.wait(30)
    try:
        done = facts(capsys, str(folder.root), "hold", "--reason", "night")
    finally:
        stop.set()
        thread.join()
    assert done["record"]["kind"] == "hold"
    assert done["record"]["reason"] == "night"


def test_an_order_that_nobody_carries_out_yet_is_said_to_wait(folder: RunFolder, capsys) -> None:
    with EmbeddedLog(folder.log("changes")) as log:
        with publishing(log):
            assert main(["versions", str(folder.root), "hold", "--wait", "0.1"]) == 3
            assert "durable" in capsys.readouterr().out
        sluice = Sluice(LogPublisher(log, folder.snapshots))
        assert sluice.obey() == 1
        assert sluice.standing.hold is not None


@pytest.mark.parametrize(
    ("words", "said"),
    [(["rollback", "--to", "4"], "one from 0 to 3"), (["rollback", "--to", "9"], "one from 0 to 3"),
     (["rollback"], "--to"), (["hold", "--to", "1"], "--to"), (["hold", "--unchecked"], "--unchecked"),
     (["holt"], "'hold'"), (["hold", "release"], "headrace versions"), (["hold", "dim=3"], "a folder alone")],
)  # fmt: skip
def test_mistakes_are_named_and_change_nothing(folder: RunFolder, capsys, words: list[str], said: str) -> None:
    assert main(["versions", str(folder.root), *words]) == 2
    assert said in capsys.readouterr().err
    assert list_versions(folder).newest == 4
    with EmbeddedLog(folder.log("changes")) as log:
        assert not log.end("changes-orders")


def test_a_folder_without_versions_is_refused(tmp_path: Path, capsys) -> None:
    assert main(["versions", str(tmp_path)]) == 2
    assert "no change log" in capsys.readouterr().err


def test_versions_published_without_records_are_listed_too(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with EmbeddedLog(folder.log("changes"), durability="process") as log:
        publisher = LogPublisher(log, folder.snapshots)
        for number in range(3):
            publisher.publish(learned(number))
        Sluice(publisher).publish(learned(3))
    found = list_versions(folder)
    assert [record.version for record in found.records] == [0, 1, 2, 3]
    assert all(record.time > 0 for record in found.records)
    assert found.reach == range(4)


def test_an_order_that_fails_says_why(folder: RunFolder, monkeypatch) -> None:
    monkeypatch.setattr("headrace.online.versions._check_reach", lambda *_: None)
    with pytest.raises(VersionError, match="an older one"):
        order_versions(folder, "rollback", to=4)
    assert list_versions(folder).records[-1].kind == "failed"
