"""A model in memory that several processes share: versions whole, readers never waiting, nothing left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from headrace.errors import CapacityError, ConfigError, CorruptSnapshot, StaleError, StoreError
from headrace.store import Storage, TableConfig, open_table
from headrace.store.shared_memory import ABOUT, SharedReader, SharedSpace, remove_abandoned

DENSE = {"bias": torch.zeros(2), "steps": torch.zeros(1, dtype=torch.int64), "none": torch.zeros(0, 3)}


def opened(parent: Path, **storage: object) -> SharedSpace:
    tables = {name: TableConfig(name=name, dim=dim, seed=3, storage=Storage(**storage))  # type: ignore[arg-type]
              for name, dim in (("user", 4), ("item", 2))}  # fmt: skip
    return SharedSpace(tables, DENSE, parent=parent)


@pytest.fixture
def space(tmp_path):
    made = opened(tmp_path)
    yield made
    made.close()


def version(space: SharedSpace, number: int, *, full: bool = False, ids: int = 10) -> None:
    space.begin(full=full)
    space.put("user", torch.arange(ids), torch.full((ids, 4), float(number)))
    space.put_dense({"bias": torch.full((2,), float(number)), "steps": torch.tensor([number])})
    space.commit(number, number - 1)


def test_a_reader_finds_the_newest_version_whole_and_initial_rows_elsewhere(space):
    reader = SharedReader(space.folder, place=0)
    assert reader.version == -1
    with pytest.raises(StaleError), reader.reading():
        pass
    version(space, 4)
    with reader.reading() as number:
        assert (number, reader.parent) == (4, 3)
        assert torch.equal(reader.tables["user"].lookup(torch.tensor([3, 3, 9])), torch.full((3, 4), 4.0))
        dense = reader.dense(reader.half)
        assert dense["bias"].tolist() == [4.0, 4.0]
        assert dense["steps"].tolist() == [4]
        assert dense["none"].shape == (0, 3)
    twin = open_table(space.configs["item"], serving=True)
    ids = torch.tensor([5, -(2**63), 2**63 - 1])
    assert torch.equal(reader.tables["item"].lookup(ids), twin.lookup(ids))
    assert reader.tables["user"].contains(torch.tensor([9, 10])).tolist() == [True, False]
    assert len(reader.tables["user"]) == 10
    assert reader.tables["user"].rows().ids.tolist() == list(range(10))


def test_a_version_stays_for_those_who_read_it_while_the_next_one_comes(space):
    version(space, 0)
    early, late = SharedReader(space.folder, place=0), SharedReader(space.folder, place=1)
    with early.reading():
        held = early.dense(early.half)["bias"]
        version(space, 1, full=True, ids=5000)  # another file for the table
        assert torch.equal(early.tables["user"].lookup(torch.arange(10)), torch.zeros(10, 4))
        assert held.tolist() == [0.0, 0.0]
        with late.reading() as number:
            assert number == 1
            assert len(late.tables["user"]) == 5000
        with pytest.raises(CapacityError, match="reader 0"):
            space.begin(full=False, wait_us=1000)
    version(space, 2)
    assert early.version == 2


def test_what_is_aborted_was_never_there(space):
    version(space, 0)
    reader = SharedReader(space.folder, place=0)
    for full in (False, True):
        space.begin(full=full)
        space.put("user", torch.arange(500), torch.ones(500, 4))
        space.remove("user", torch.arange(5))
        space.put_dense({"bias": torch.ones(2)})
        space.abort()
        with reader.reading() as number:
            assert number == 0
            assert torch.equal(reader.tables["user"].lookup(torch.arange(10)), torch.zeros(10, 4))
            assert len(reader.tables["user"]) == 10
            assert reader.dense(reader.half)["bias"].tolist() == [0.0, 0.0]
    version(space, 1)
    assert reader.version == 1


@pytest.mark.parametrize(("precision", "bytes_less"), [("float16", 0.86), ("int8", 0.85)])
def test_short_rows_read_as_a_serving_table_reads_them(tmp_path, precision, bytes_less):
    space, whole = opened(tmp_path, serving_precision=precision), opened(tmp_path)
    ids, rows = torch.arange(1000), torch.randn(1000, 4, generator=torch.Generator().manual_seed(1))
    for one in (space, whole):
        one.begin(full=True)
        one.put("user", ids, rows)
        one.commit(0, -1)
    twin = open_table(space.configs["user"], serving=True)
    twin.assign(ids, rows)  # type: ignore[attr-defined]
    assert torch.equal(SharedReader(space.folder, place=0).tables["user"].lookup(ids), twin.lookup(ids))
    assert space.stats("user").bytes < bytes_less * whole.stats("user").bytes
    space.close()
    whole.close()


def test_wrong_tensors_and_places_are_refused(space, tmp_path):
    space.begin(full=True)
    with pytest.raises(StoreError, match="bias"):
        space.put_dense({"bias": torch.zeros(3)})
    with pytest.raises(StoreError, match="other"):
        space.put_dense({"other": torch.zeros(3)})
    with pytest.raises(StoreError, match="rows"):
        space.put("user", torch.arange(2), torch.zeros(2, 5))
    space.abort()
    with pytest.raises(ConfigError, match="place"):
        SharedReader(space.folder, place=256)
    with pytest.raises(StoreError, match="Start the process"):
        SharedReader(tmp_path / "nowhere", place=0)
    (space.folder / "control").write_bytes(b"x" * 100)
    with pytest.raises(CorruptSnapshot):
        SharedReader(space.folder, place=0)


def test_threads_read_one_version_each_time_while_versions_come(space):
    version(space, 0)
    ended, seen = threading.Event(), set()

    def read(place: int) -> None:
        reader, last = SharedReader(space.folder, place=place), -1
        while not ended.is_set():
            with reader.reading() as number:
                rows = reader.tables["user"].lookup(torch.arange(10))
                bias = reader.dense(reader.half)["bias"].clone()
                assert torch.equal(rows, torch.full((10, 4), float(number)))
                assert bias.tolist() == [float(number)] * 2
                assert number >= last
            last = number
            seen.add(number)

    threads = [threading.Thread(target=read, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for number in range(1, 200):
        version(space, number, full=number % 50 == 0)
    while len(seen) < 2:
        time.sleep(0.001)
    ended.set()
    for thread in threads:
        thread.join()


def _read_for_ever(folder: Path, ready: object) -> None:
    reader = SharedReader(folder, place=7)
    with reader.reading():
        ready.set()  # type: ignore[attr-defined]
        time.sleep(60)


def test_a_reader_that_was_killed_is_forgotten(space):
    version(space, 0)
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_read_for_ever, args=(space.folder, ready))
    process.start()
    assert ready.wait(60)
    version(space, 1)
    os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
    process.join()
    with pytest.raises(CapacityError):
        space.begin(full=False, wait_us=1000)
    space.release([7])
    version(space, 2)


def test_spaces_of_writers_that_are_gone_are_removed_and_others_are_not(tmp_path):
    living, left = opened(tmp_path), opened(tmp_path)
    left._lock.close()  # as when its process is killed
    assert remove_abandoned(tmp_path) == 1
    assert (living.folder / ABOUT).exists()
    assert not left.folder.exists()
    living.close()
    assert not living.folder.exists()
