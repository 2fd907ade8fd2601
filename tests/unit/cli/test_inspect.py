from __future__ import annotations

import json

import pytest
import torch

from headrace.cli import inspect_files
from headrace.cli.inspect import describe, differences, flatten, load_record
from headrace.cli.main import main
from headrace.config import write_run_record
from headrace.data.log import EmbeddedLog
from headrace.errors import DataError
from headrace.learn import ManifestCheckpoint
from headrace.publish import encode
from headrace.store import ReferenceTable, TableConfig, save_table, write_snapshot
from headrace.types import Change, Events, RowChange, Version


def clicks(count: int) -> Events:
    rows = {"key": [f"r{n}" for n in range(count)], "kind": ["click"] * count, "event_time": list(range(count))}
    return Events.from_columns(rows)


def change() -> Change:
    put = RowChange(torch.tensor([3, 7]), torch.zeros(2, 4), torch.tensor([9]))
    return Change(version=Version(5, 4), tables={"user": put}, dense={"bias": torch.zeros(1)}, spec={"schema": "abc"})


@pytest.fixture
def run(tmp_path):
    """A run folder as the processes leave it."""
    root = tmp_path / "run"
    write_run_record(root, {"batch_rows": 32}, seed=1, data={"log.csv": "00"})
    log = EmbeddedLog(root / "events.db", durability="process")
    log.append("events", clicks(3))
    with log.transaction() as transaction:
        transaction.commit_offset("joiner", "events", 0, 1)
    log.close()
    ManifestCheckpoint(root / "checkpoint").save({"learner": {"weights": torch.zeros(2, 3)}, "progress": {"steps": 4}})
    (root / "snapshots").mkdir()
    (root / "snapshots" / "000000000005.snapshot").write_bytes(encode(change()))
    (root / "status").mkdir()
    (root / "status" / "learner.json").write_text('{"examples": 12}')
    return root


def kinds(facts) -> dict[str, str]:
    return {part["path"].rsplit("/", 1)[-1]: part["kind"] for part in facts["parts"]}


def test_a_run_folder_shows_its_parts(run) -> None:
    facts = describe(run)
    assert facts["kind"] == "run folder"
    assert kinds(facts) == {
        "checkpoint": "checkpoint", "events.db": "log", "run.json": "run record", "snapshots": "folder of changes",
    }  # fmt: skip
    assert facts["status"] == {"learner": {"examples": 12}}


def test_a_log_shows_topics_and_who_stands_where(run) -> None:
    facts = describe(run / "events.db")
    assert [(t["topic"], t["entries"], t["rows"], t["closed"]) for t in facts["topics"]] == [("events", 1, 3, False)]
    assert facts["consumers"] == [{"consumer": "joiner", "topic": "events", "partition": 0, "offset": 1}]


def test_looking_into_a_log_does_not_change_it(run) -> None:
    before = (run / "events.db").read_bytes()
    describe(run / "events.db")
    assert ((run / "events.db").read_bytes() == before) is True


def test_a_checkpoint_shows_its_outline(run) -> None:
    facts = describe(run / "checkpoint")
    assert [entry["number"] for entry in facts["checkpoints"]] == [0]
    assert facts["state"] == {"learner": {"weights": "float32 (2, 3)"}, "progress": {"steps": 4}}


def test_a_change_shows_version_and_tables(run) -> None:
    (facts,) = describe(run / "snapshots")["parts"]
    assert (facts["version"], facts["parent"], facts["full"]) == (5, 4, False)
    assert facts["tables"] == [{"table": "user", "rows put": 2, "removed": 1, "dim": 4}]
    assert facts["checksum"] == change().checksum()


def test_a_table_snapshot_shows_its_outline(tmp_path) -> None:
    table = ReferenceTable(TableConfig(name="user", dim=4))
    write_snapshot(tmp_path / "user.table", table.state())
    facts = describe(tmp_path / "user.table")
    assert facts["kind"] == "table snapshot"
    assert facts["state"]


def test_a_damaged_change_is_called_damaged(run, capsys) -> None:
    path = run / "snapshots" / "000000000005.snapshot"
    data = bytearray(path.read_bytes())
    data[-50] ^= 1
    path.write_bytes(bytes(data))
    assert "damaged" in describe(path)
    assert main(["inspect", str(run)]) == 1
    assert "damaged" in capsys.readouterr().out


def test_a_damaged_log_is_called_damaged(run) -> None:
    path = run / "events.db"
    path.write_bytes(path.read_bytes()[:5000])
    assert "damaged" in describe(path)


def test_a_damaged_checkpoint_is_called_damaged(run) -> None:
    path = run / "checkpoint" / "00000000" / "manifest.json"
    path.write_text(path.read_text()[:-10])
    assert "damaged" in describe(run / "checkpoint")


def test_whole_is_code_0(run, capsys) -> None:
    assert main(["inspect", str(run)]) == 0
    printed = capsys.readouterr().out
    for word in ("run folder", "events.db", "learner", "checkpoint", "rows put"):
        assert word in printed


def test_parts_are_brief_and_a_part_by_itself_is_not(run, capsys) -> None:
    main(["inspect", str(run)])
    brief = capsys.readouterr().out
    main(["inspect", str(run / "checkpoint")])
    whole = capsys.readouterr().out
    assert "learner 1 entries" in brief
    assert "learner.weights" not in brief
    assert "learner.weights" in whole
    assert "float32 (2, 3)" in whole


def test_tables_of_a_status_are_a_table(run, capsys) -> None:
    stats = {"rows": 12345, "bytes": 2048}
    (run / "status" / "learner.json").write_text(json.dumps({"pid": 12345, "tables": {"user": stats}}))
    main(["inspect", str(run)])
    printed = capsys.readouterr().out
    assert "pid 12345" in printed
    assert "12,345" in printed
    assert "2.0 KiB" in printed


def test_json_is_one_object(run, capsys) -> None:
    assert main(["inspect", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "run folder"


def test_several_paths_are_a_list(run, capsys) -> None:
    assert main(["inspect", str(run / "run.json"), str(run / "events.db"), "--json"]) == 0
    assert [facts["kind"] for facts in json.loads(capsys.readouterr().out)] == ["run record", "log"]


def test_a_folder_of_runs_shows_each(run) -> None:
    facts = describe(run.parent)
    assert (facts["kind"], kinds(facts)) == ("folder of runs", {"run": "run folder"})


def test_nothing_there_is_a_mistake(tmp_path, capsys) -> None:
    assert main(["inspect", str(tmp_path / "nowhere")]) == 2
    assert "nothing there" in capsys.readouterr().err


def test_other_files_are_a_mistake(tmp_path) -> None:
    for name, text in (("a.txt", "hello"), ("b.json", '{"a": 1}'), ("c.json", "{")):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match="another kind"):
            describe(tmp_path / name)


def test_diff_names_what_differs(tmp_path, capsys) -> None:
    for name, rows in (("a", 32), ("b", 64)):
        write_run_record(tmp_path / name, {"batch_rows": rows, "lr": 0.1}, seed=1, data={})
    assert main(["inspect", "diff", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found.pop("fingerprint")
    assert found == {"config.batch_rows": {"a": 32, "b": 64}}


def test_diff_of_equal_records_is_code_0(tmp_path, capsys) -> None:
    for name in ("a", "b"):
        write_run_record(tmp_path / name, {"lr": 0.1}, seed=1, data={})
    assert main(["inspect", "diff", str(tmp_path / "a"), str(tmp_path / "b" / "run.json")]) == 0
    assert "equal" in capsys.readouterr().out


def test_diff_for_people_is_a_table(tmp_path, capsys) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        write_run_record(tmp_path / name, {}, seed=seed, data={})
    assert main(["inspect", "diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert "seed" in capsys.readouterr().out


def test_diff_needs_two_records(tmp_path, capsys) -> None:
    assert main(["inspect", "diff", str(tmp_path)]) == 2
    assert "two run records" in capsys.readouterr().err


def test_a_folder_without_a_record_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match=r"run\.json"):
        load_record(tmp_path)


def test_flatten_keeps_empty_parts() -> None:
    assert flatten({"a": {}, "b": [], "c": [{"d": None}]}) == {"a": {}, "b": [], "c.0.d": None}


def test_differences_tell_absent_from_present() -> None:
    assert differences({"a": 1}, {"b": 2}) == {"a": (1, None), "b": (None, 2)}


def table_files(folder):
    """A table file and an increment that continues it."""
    table = ReferenceTable(TableConfig(name="user", dim=4))
    table.assign(torch.tensor([7, 8]), torch.ones(2, 4), torch.tensor([5, 6]))
    full = save_table(table, folder / "user.full")
    table.remove(torch.tensor([8]))
    return full, save_table(table, folder / "user.step", since=full)


def test_a_table_file_shows_table_rows_and_mark(tmp_path) -> None:
    full, _ = table_files(tmp_path)
    facts = describe(full.path)
    assert facts["kind"] == "table file"
    shown = {name: facts[name] for name in ("table", "holds", "mark", "digest", "rows", "shard", "precision", "slots")}
    assert shown == {"table": "user", "holds": "all rows", "mark": 1, "digest": full.digest, "rows": 2,
                     "shard": "0 of 1", "precision": "float32", "slots": 4}  # fmt: skip
    assert facts["numbers"]["newest"] == 6
    assert facts["spec"]["dim"] == 4


def test_an_increment_says_what_it_continues(tmp_path) -> None:
    full, step = table_files(tmp_path)
    facts = describe(step.path)
    assert facts["holds"] == "what changed after mark 1"
    assert (facts["parent"], facts["removed"], facts["rows"]) == (full.digest, 1, 0)


def test_a_folder_of_table_files_shows_each(tmp_path, capsys) -> None:
    table_files(tmp_path)
    assert kinds(describe(tmp_path)) == {"user.full": "table file", "user.step": "table file"}
    assert main(["inspect", str(tmp_path)]) == 0
    assert "what changed after mark 1" in capsys.readouterr().out


def test_a_byte_in_the_middle_of_a_table_file_is_found(tmp_path) -> None:
    full, _ = table_files(tmp_path)
    data = bytearray(full.path.read_bytes())
    data[len(data) // 2] ^= 1
    full.path.write_bytes(bytes(data))
    assert "damage at byte" in describe(full.path)["damaged"]


def test_without_the_native_table_a_table_file_is_named_but_not_verified(tmp_path, monkeypatch) -> None:
    full, _ = table_files(tmp_path)
    monkeypatch.setattr(inspect_files, "load_native", lambda: None)
    facts = describe(full.path)
    assert "damaged" not in facts
    assert str(facts["verified"]).startswith("no")
