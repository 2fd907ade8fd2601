"""Every row of the table in docs/how-to/errors.md is provoked: what is printed, and that nothing is lost.

A provoker has the row's number in its name; those of most rooms are in errors_of_*.py. It makes the error
happen, checks that nothing was lost or half-written, and returns the error. Its text must be the one in the table,
where … stands for anything.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import httpx
import numpy as np
import pyarrow as pa
import pytest
import torch

from headrace.config import data_folder
from headrace.data import DenseFeature, IdFeature, Schema
from headrace.data.evolution import plan
from headrace.data.layout import Layout
from headrace.data.log import EmbeddedLog
from headrace.data.source import FileSource
from headrace.errors import HeadraceError, VersionError
from headrace.learn import ManifestCheckpoint
from headrace.online import build, find_recipe
from headrace.publish import LogPublisher, Replica
from headrace.serve import RankPredictor, create_app
from headrace.serve.server import bind
from headrace.store import ReferenceTable, TableConfig, read_snapshot, write_snapshot
from headrace.types import Change, Events, RowChange, Version

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "errors.md"
CSV = "user,item,price,at\nu1,i1,10.5,100\nu2,i2,cheap,101\nu3,i3,12.0,102\n"
STATUSES = {"400", "401", "403", "404", "409", "429", "503"}
CLICKS = Layout(time="at", time_unit="s", key=("user",), kind="click", types={"price": "float32"})
SCHEMA = Schema(features=(IdFeature("user", 4), DenseFeature("price")), item="item")


def load(name: str) -> ModuleType:
    """Import a file beside this one: test folders are no packages."""
    spec = importlib.util.spec_from_file_location(f"provokers_{name}", Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


TABLES, SERVERS, CLUSTERS, LANGUAGE = (
    load(f"errors_of_{room}") for room in ("tables", "servers", "clusters", "language")
)
caught, file_size_limit = TABLES.caught, TABLES.file_size_limit


@dataclass(frozen=True)
class Row:
    number: int
    situation: str
    kind: str
    printed: str
    do: str


def table() -> dict[int, Row]:
    rows = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if re.match(r"\| \d+ \|", line):
            number, situation, kind, printed, do = (cell.strip() for cell in line.strip("| ").split(" | "))
            rows[int(number)] = Row(int(number), situation, kind.strip("`"), printed.strip("`"), do)
    return rows


def events(**columns: object) -> Events:
    rows = {"key": ["r1", "r2"], "kind": ["example"] * 2, "event_time": [1, 2], "item": ["a", "b"]}
    rows |= {"user": ["u1", "u2"], "price": pa.array([1.0, 2.0]), "label": pa.array([0.0, 1.0], pa.float32())}
    return Events.from_columns(rows | columns)


def rows_of(source: FileSource) -> list[str]:
    return source.read(100).column("item").to_pylist()


def change(number: int, ids: list[int], value: float = 1.0) -> Change:
    rows = torch.full((len(ids), 4), value)
    put = RowChange(torch.tensor(ids, dtype=torch.int64), rows, torch.empty(0, dtype=torch.int64))
    return Change(version=Version(number, number - 1), tables={"user": put})


def replica() -> Replica:
    return Replica({"user": ReferenceTable(TableConfig(name="user", dim=4), serving=True)})


def error_1(folder: Path) -> HeadraceError:
    """A value in a CSV row that is not what its column is."""
    path = folder / "clicks.csv"
    path.write_text(CSV)
    source = FileSource(path, CLICKS)
    error = caught(lambda: source.read(100))
    assert source.position() == {}  # nothing was read: the same call says the same again
    assert str(caught(lambda: source.read(100))) == str(error)
    path.write_text(CSV.replace("cheap", "11"))
    assert rows_of(source) == ["i1", "i2", "i3"]
    return error


def error_2(folder: Path) -> HeadraceError:
    """The same row, skipped: the error is only logged."""
    path = folder / "clicks.csv"
    path.write_text(CSV)
    source = FileSource(path, CLICKS, on_bad_row="skip")
    assert rows_of(source) == ["i1", "i3"]
    assert source.bad_rows.count == 1
    first = source.bad_rows.first[0]
    return HeadraceError(f"{first.place}: got {first.got}, expected {first.expected}; such rows are skipped")


def error_3(folder: Path) -> HeadraceError:
    """A column that the layout names and the file does not have."""
    path = folder / "clicks.csv"
    path.write_text(CSV.replace("price", "prise"))
    return caught(lambda: FileSource(path, CLICKS).read(100))


def error_4(folder: Path) -> HeadraceError:
    """A column that a feature reads and the events do not have."""
    rows = events().batch.drop_columns(["price"])
    return caught(lambda: SCHEMA.validate(Events(rows)))


def error_5(folder: Path) -> HeadraceError:
    """A field in a request that the schema does not name."""
    log = EmbeddedLog(folder / "events.db", durability="process")
    app = create_app(RankPredictor(_FirstColumn(), _served(), SCHEMA), log)
    body = {"user": {"user": "u1"}, "candidates": [{"item": "a", "prise": 1.0}]}
    answer = _post(app, body)
    assert answer.status_code == 400
    assert log.rows("events") == 0  # nothing was logged
    log.close()
    return HeadraceError(**answer.json())


class _FirstColumn(torch.nn.Module):
    def forward(self, batch: object) -> torch.Tensor:
        return torch.zeros(len(batch))  # type: ignore[arg-type]


def _served() -> Replica:
    held = replica()
    held.apply(change(0, [1]))
    return held


def _post(app: object, body: object) -> httpx.Response:
    async def talk() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
        client = httpx.AsyncClient(transport=transport, base_url="http://test")
        async with app.router.lifespan_context(app), client:  # type: ignore[attr-defined]
            return await client.post("/v1/rank", json=body)

    return asyncio.run(talk())


def error_6(folder: Path) -> HeadraceError:
    """Text where the schema has a number."""
    return caught(lambda: SCHEMA.validate(events(price=pa.array(["1.0", "2.0"]))))


def error_7(folder: Path) -> HeadraceError:
    """A label that is NaN."""
    return caught(lambda: SCHEMA.validate(events(label=pa.array([0.0, np.nan], pa.float32()))))


def error_8(folder: Path) -> HeadraceError:
    """A data set that is not there."""
    os.environ["HEADRACE_DATA"] = str(folder)
    return caught(lambda: build(find_recipe("headrace.online.demo:trivago"), []))


def error_9(folder: Path) -> HeadraceError:
    """A data folder that is not there."""
    os.environ["HEADRACE_DATA"] = str(folder / "nowhere")
    return caught(data_folder)


def error_10(folder: Path) -> HeadraceError:
    """A snapshot that was cut short."""
    path = folder / "user.snapshot"
    write_snapshot(path, {"rows": torch.arange(1000.0)})
    path.write_bytes(path.read_bytes()[:-100])
    return caught(lambda: read_snapshot(path))


def error_11(folder: Path) -> HeadraceError:
    """The newest checkpoint is damaged: the one before it is taken, and a warning logged."""
    checkpoint = ManifestCheckpoint(folder)
    checkpoint.save({"step": 1, "weights": torch.arange(100.0)})
    checkpoint.save({"step": 2, "weights": torch.arange(100.0)})
    _flip(folder / "00000001" / "tensors.safetensors")
    messages: list[str] = []
    catcher = logging.Handler()
    catcher.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("headrace.learn.checkpoint").addHandler(catcher)
    try:
        state = ManifestCheckpoint(folder).load()
    finally:
        logging.getLogger("headrace.learn.checkpoint").removeHandler(catcher)
    assert state is not None
    assert state["step"] == 1
    return HeadraceError(messages[0])


def error_12(folder: Path) -> HeadraceError:
    """All checkpoints are damaged."""
    checkpoint = ManifestCheckpoint(folder)
    checkpoint.save({"step": 1, "weights": torch.arange(100.0)})
    _flip(folder / "00000000" / "tensors.safetensors")
    return caught(ManifestCheckpoint(folder).load)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def error_13(folder: Path) -> HeadraceError:
    """A schema whose learned state would get another meaning."""
    wider = SCHEMA.evolved(drop=["user"], add=[IdFeature("user", 8)])
    return caught(plan(SCHEMA, wider).check)


def error_14(folder: Path) -> HeadraceError:
    """A change that does not follow the version held."""
    held = replica()
    held.apply(change(0, [1]))
    error = caught(lambda: held.apply(change(2, [2])))
    assert held.version.number == 0
    held.apply(change(1, [2]))  # the missing one is still welcome
    assert held.version.number == 1
    return error


def error_15(folder: Path) -> HeadraceError:
    """A version number that was published with other content."""
    log = EmbeddedLog(folder / "changes.db", durability="process")
    publisher = LogPublisher(log, snapshots=folder / "snapshots")
    publisher.publish(change(0, [1]))
    publisher.publish(change(1, [2]))
    error = caught(lambda: publisher.publish(change(1, [2], value=2.0)))
    assert publisher.last().number == 1
    log.close()
    return error


def error_16(folder: Path) -> HeadraceError:
    """A request before anything was published."""
    predictor = RankPredictor(_FirstColumn(), replica(), SCHEMA)
    error = caught(lambda: predictor.predict(events()))
    assert isinstance(error, VersionError)
    return error


def error_17(folder: Path) -> HeadraceError:
    """A port that somebody else listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        return caught(lambda: bind("127.0.0.1", other.getsockname()[1]))


def error_18(folder: Path) -> HeadraceError:
    """A log on a disk that is full: the entry is not half there, and the log goes on when there is room."""
    log = EmbeddedLog(folder / "events.db", durability="process")
    log.append("events", events())
    log.limit_bytes(200_000)
    big = events().take(np.zeros(200_000, dtype=np.int64))
    error = caught(lambda: log.append("events", big))
    assert (log.rows("events"), log.end("events")) == (2, 1)
    log.limit_bytes(100_000_000)
    assert log.append("events", events()) == 1
    log.close()
    return error


def error_19(folder: Path) -> HeadraceError:
    """A checkpoint on a disk that is full: the earlier one counts."""
    checkpoint = ManifestCheckpoint(folder / "checkpoint")
    checkpoint.save({"step": 1})
    with file_size_limit(100_000):
        error = caught(lambda: checkpoint.save({"step": 2, "weights": torch.zeros(100_000)}))
    assert checkpoint.load() == {"step": 1}
    assert sorted(item.name for item in (folder / "checkpoint").iterdir()) == ["00000000", "CURRENT"]
    checkpoint.save({"step": 2})
    return error


def error_20(folder: Path) -> HeadraceError:
    """A snapshot on a disk that is full: the earlier file is untouched."""
    path = folder / "user.snapshot"
    write_snapshot(path, {"step": 1})
    with file_size_limit(100_000):
        error = caught(lambda: write_snapshot(path, {"weights": torch.zeros(100_000)}))
    assert read_snapshot(path) == {"step": 1}
    assert [item.name for item in folder.iterdir()] == ["user.snapshot"]
    return error


def error_21(folder: Path) -> HeadraceError:
    """A setting that the recipe does not have."""
    return caught(lambda: build(find_recipe("headrace.online.demo:world"), ["requets=10"]))


def error_22(folder: Path) -> HeadraceError:
    """A recipe that is not there."""
    return caught(lambda: find_recipe("headrace.online.demo:trivgo"))


PROVOKERS = {
    int(name.removeprefix("error_")): value
    for names in (globals(), *(vars(room) for room in (TABLES, SERVERS, CLUSTERS, LANGUAGE)))
    for name, value in list(names.items())
    if name.startswith("error_")
}


def matches(pattern: str, text: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace("…", ".*"), text, re.DOTALL) is not None


@pytest.fixture
def _own_environment(monkeypatch):
    # some provokers set it; monkeypatch puts back what was there
    monkeypatch.setenv("HEADRACE_DATA", "")
    monkeypatch.setenv("HEADRACE_CACHE", "")


@pytest.mark.usefixtures("_own_environment")
@pytest.mark.parametrize("number", sorted(PROVOKERS))
def test_the_error_is_as_the_table_says(number: int, tmp_path) -> None:
    error, row = PROVOKERS[number](tmp_path), table()[number]
    assert matches(row.printed, str(error)), f"row {number}\ntable: {row.printed}\nerror: {error}"
    assert row.kind in {type(error).__name__, "warning"} or row.kind in STATUSES


def test_every_row_is_provoked() -> None:
    assert sorted(table()) == sorted(PROVOKERS)


def test_every_row_says_what_to_do() -> None:
    assert all(len(row.do) > 15 for row in table().values())


def test_the_table_would_notice_another_message() -> None:
    row = table()[17]
    assert not matches(row.printed, "Port 80 on 127.0.0.1: got something else")


def test_a_command_prints_it_as_one_line_with_code_2(tmp_path) -> None:
    environment = {**os.environ, "HEADRACE_DATA": str(tmp_path), "PYTHONPATH": str(ROOT / "src")}
    command = [
        sys.executable,
        "-m",
        "headrace",
        "run",
        "headrace.online.demo:trivago",
        "--folder",
        str(tmp_path / "run"),
    ]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert run.stdout == ""
    line = run.stderr.strip()
    assert "\n" not in line
    assert matches(f"headrace: {table()[8].printed}", line)
    assert not (tmp_path / "run").exists()
