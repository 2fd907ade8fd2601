from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from headrace.errors import ConfigError, CorruptSnapshot, RowRuleMismatch, StaleError, StoreError
from headrace.store import SGD, Adam, AdmitCount, NativeTable, ReferenceTable, TableConfig, table_files
from headrace.store.admission import AdmitSketch
from headrace.store.checked import CheckedTable
from headrace.store.storage import Storage
from headrace.store.table import load_native
from headrace.store.table_files import begin_save, inspect_table_file, load_table, save_table

pytestmark = [
    pytest.mark.skipif(not hasattr(load_native(), "TableFileReader"), reason="native module not built"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
KINDS = [
    ReferenceTable,
    pytest.param(
        NativeTable, marks=pytest.mark.skipif(not hasattr(NativeTable, "_begin_save"), reason="no native save yet")
    ),
]
CONFIG = TableConfig(name="user", dim=3, rule=Adam(), admission=AdmitCount(2))
Kind = type[CheckedTable]


def same(one: CheckedTable, other: CheckedTable) -> bool:
    a, b = one.state(), other.state()
    assert a.keys() == b.keys()
    return all(torch.equal(v, b[k]) if isinstance(v, torch.Tensor) else v == b[k] for k, v in a.items())


def learn(table: CheckedTable, ids: torch.Tensor, seed: int, times: int = 5) -> None:
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 3, (len(ids),), generator=generator)
    table.update(ids, torch.randn(len(ids), 3, generator=generator), counts, torch.full_like(ids, times))


def grown(kind: Kind, config: TableConfig = CONFIG) -> CheckedTable:
    table = kind(config)
    learn(table, torch.arange(-40, 60), 1)
    learn(table, torch.tensor([-(2**63), 2**63 - 1, 0, 7]), 2)
    table.remove(torch.tensor([0, 1]))
    return table


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        TableConfig(name="user", dim=3, rule=SGD()),
        TableConfig(name="user", dim=3, rule=SGD(), storage=Storage(precision="bfloat16")),
        TableConfig(name="user", dim=3, rule=SGD(), storage=Storage(event_times=False, history=False)),
        TableConfig(name="user", dim=3, rule=SGD(), admission=AdmitSketch(2, cells_per_bucket=8)),
    ],
    ids=["counts", "plain", "bfloat16", "bare", "sketch"],
)
def test_what_is_saved_is_loaded(tmp_path: Path, kind: Kind, config: TableConfig) -> None:
    table, other = grown(kind, config), kind(config)
    file = save_table(table, tmp_path / "file")
    assert file.path.stat().st_size == file.bytes
    assert (file.mark, file.since, file.rows, file.table) == (table.mark(), None, len(table), "user")
    assert inspect_table_file(file.path) == file
    assert load_table(other, file.path) == file
    assert same(table, other)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(not hasattr(NativeTable, "_begin_save"), reason="no native save yet")
@pytest.mark.parametrize("forget", [0, 1, 3])
def test_both_kinds_write_the_same_bytes_and_read_each_other(tmp_path: Path, forget: int) -> None:
    for config in (CONFIG, TableConfig(name="user", dim=3, rule=SGD(), storage=Storage(precision="float16"))):
        one, two = grown(ReferenceTable, config), grown(NativeTable, config)
        for table in (one, two):
            table.forget(forget)
        files = save_table(one, tmp_path / "one"), save_table(two, tmp_path / "two")
        assert files[0].path.read_bytes() == files[1].path.read_bytes()
        learn(one, torch.arange(9), 3)
        learn(two, torch.arange(9), 3)
        steps = save_table(one, tmp_path / "more", since=files[0]), save_table(two, tmp_path / "less", since=files[1])
        for step in steps:
            for kind in (ReferenceTable, NativeTable):
                other = kind(config)
                load_table(other, [files[0].path, step.path])
                assert same(other, one)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_table_is_saved_too(tmp_path: Path, kind: Kind) -> None:
    other = grown(kind)
    load_table(other, save_table(kind(CONFIG), tmp_path / "file").path)
    assert same(other, kind(CONFIG))


@pytest.mark.parametrize("kind", KINDS)
def test_a_serving_table_is_saved_too(tmp_path: Path, kind: Kind) -> None:
    table, other = kind(CONFIG, serving=True), kind(CONFIG, serving=True)
    table.assign(torch.arange(9), torch.randn(9, 3))
    load_table(other, save_table(table, tmp_path / "file").path)
    assert same(table, other)


@pytest.mark.parametrize("kind", KINDS)
def test_increments_continue_a_full_file(tmp_path: Path, kind: Kind) -> None:
    table = grown(kind)
    files = [save_table(table, tmp_path / "0")]
    for step in range(1, 5):
        if step == 2:
            table.evict(5)
        learn(table, torch.arange(step * 10, step * 10 + 15), step, times=step)
        table.remove(torch.arange(step, 60, 7))
        table.forget(files[-1].mark)
        before = files[-1] if step % 2 else files[-1].path
        files.append(save_table(table, tmp_path / str(step), since=before))
        other = kind(CONFIG)
        assert load_table(other, [file.path for file in files]) == files[-1]
        assert same(table, other)
    assert [file.since for file in files] == [None, *[file.mark for file in files[:-1]]]
    assert [file.parent for file in files] == [None, *[file.digest for file in files[:-1]]]
    assert all(file.rows < files[0].rows for file in files[1:])


def test_a_table_that_was_loaded_continues_the_chain(tmp_path: Path) -> None:
    table, other, third = grown(ReferenceTable), ReferenceTable(CONFIG), ReferenceTable(CONFIG)
    full = load_table(other, save_table(table, tmp_path / "full").path)
    learn(other, torch.arange(5), 9)
    step = save_table(other, tmp_path / "step", since=full)
    load_table(third, [full.path, step.path])
    assert same(other, third)


@pytest.mark.parametrize("order", [["step"], ["step", "full"], ["full", "full"], ["full", "late"], ["full", "strange"]])
def test_files_that_do_not_continue_each_other_are_refused(tmp_path: Path, order: list[str]) -> None:
    table, strange = grown(ReferenceTable), grown(ReferenceTable)
    learn(strange, torch.arange(3), 77)
    full, other = save_table(table, tmp_path / "full"), save_table(strange, tmp_path / "other")
    learn(table, torch.arange(5), 3)
    step = save_table(table, tmp_path / "step", since=full)
    learn(table, torch.arange(5), 4)
    save_table(table, tmp_path / "late", since=step)
    learn(strange, torch.arange(5), 4)
    save_table(strange, tmp_path / "strange", since=other)
    target = grown(ReferenceTable)
    with pytest.raises(CorruptSnapshot, match=r"expected (a full file first|one since mark \d+ of file [0-9a-f]{16})"):
        load_table(target, [tmp_path / name for name in order])
    assert same(target, grown(ReferenceTable))


def test_increments_need_the_history(tmp_path: Path) -> None:
    table = grown(ReferenceTable)
    full = save_table(table, tmp_path / "full")
    with pytest.raises(StoreError, match="shard"):
        save_table(table, tmp_path / "step", since=full, shard=(0, 2))
    with pytest.raises(StoreError, match="a file of mark"):
        save_table(ReferenceTable(CONFIG), tmp_path / "step", since=full)
    learn(table, torch.arange(5), 3)
    table.forget(table.mark())
    with pytest.raises(StaleError, match="Start again from a snapshot"):
        save_table(table, tmp_path / "step", since=full)
    bare = ReferenceTable(TableConfig(name="user", dim=3, storage=Storage(history=False)))
    with pytest.raises(StoreError, match="without history"):
        save_table(bare, tmp_path / "step", since=full)
    assert os.listdir(tmp_path) == ["full"]


@pytest.mark.parametrize(
    "config",
    [
        TableConfig(name="other", dim=3, rule=Adam()),
        TableConfig(name="user", dim=4, rule=Adam()),
        TableConfig(name="user", dim=3, rule=SGD()),
        TableConfig(name="user", dim=3, rule=Adam(), seed=1),
        TableConfig(name="user", dim=3, rule=Adam(), storage=Storage(precision="float16")),
    ],
    ids=["name", "dim", "rule", "seed", "precision"],
)
def test_another_table_refuses_the_file(tmp_path: Path, config: TableConfig) -> None:
    file = save_table(grown(ReferenceTable), tmp_path / "file")
    with pytest.raises(RowRuleMismatch, match="Open the table with the configuration"):
        load_table(ReferenceTable(config), file.path)
    with pytest.raises(RowRuleMismatch, match="serving"):
        load_table(ReferenceTable(CONFIG, serving=True), file.path)


def test_columns_may_come_and_go(tmp_path: Path) -> None:
    bare = TableConfig(name="user", dim=3, rule=SGD(), storage=Storage(event_times=False, history=False))
    rich = TableConfig(name="user", dim=3, rule=SGD())
    for one, other in ((bare, rich), (rich, bare)):
        table, target = grown(ReferenceTable, one), ReferenceTable(other)
        load_table(target, save_table(table, tmp_path / "file").path)
        assert torch.equal(target.rows().ids, table.rows().ids)
        assert torch.equal(target.rows().rows, table.rows().rows)
        assert target.mark() == table.mark()
        with pytest.raises(StaleError):
            target.changes(table.mark() - 1)


def test_damage_is_found_and_nothing_used(tmp_path: Path) -> None:
    file = save_table(grown(ReferenceTable), tmp_path / "file")
    good = file.path.read_bytes()
    target = grown(ReferenceTable)
    for place in [*range(0, 400, 7), *range(400, len(good), 211), len(good) - 1]:
        damaged = bytearray(good)
        damaged[place] ^= 0x10
        file.path.write_bytes(damaged)
        with pytest.raises(CorruptSnapshot, match="damage at byte"):
            load_table(target, file.path)
    file.path.write_bytes(good[:-1])
    with pytest.raises(CorruptSnapshot, match="Take an older file"):
        inspect_table_file(file.path)
    assert same(target, grown(ReferenceTable))


def write_with(header: bytes, path: Path, row_bytes: int = 12) -> None:
    module = load_native()
    writer = module.TableFileWriter()
    assert writer.open(str(path), header, (row_bytes, 0, True, True, False, False, False, 0, 1, 0, 0)) == (0, 0)
    empty = torch.zeros(0, dtype=torch.int64).numpy()
    small = empty.astype("uint8")
    for stripe in range(256):
        rows, slots = small.reshape(0, row_bytes), empty.astype("float32").reshape(0, 0)
        answer = writer.add(stripe, empty, empty, empty, small, rows, slots, *[empty] * 6, small)
        assert answer == (0, 0)
    assert writer.finish((0, 0, 0, 0, 0, 0, 0))[0] == (0, 0)


@pytest.mark.parametrize("header", [b"", b"\xff", b"[]", b'{"format": 2, "spec": {}}', b'{"format": 1, "spec": 3}'])
def test_a_header_that_is_not_ours_is_refused(tmp_path: Path, header: bytes) -> None:
    write_with(header, tmp_path / "file")
    for read in (inspect_table_file, lambda path: load_table(ReferenceTable(CONFIG), path)):
        with pytest.raises(CorruptSnapshot, match="header"):
            read(tmp_path / "file")


def test_a_header_must_fit_the_rows(tmp_path: Path) -> None:
    table = ReferenceTable(TableConfig(name="user", dim=3, rule=SGD()))
    write_with(table_files._header(table), tmp_path / "good")
    load_table(table, tmp_path / "good")
    write_with(table_files._header(table), tmp_path / "bad", row_bytes=8)
    with pytest.raises(CorruptSnapshot, match="rows of 8 bytes and 0 slots"):
        load_table(table, tmp_path / "bad")


def test_files_that_cannot_be_opened_are_told(tmp_path: Path) -> None:
    for read in (inspect_table_file, lambda path: load_table(ReferenceTable(CONFIG), path)):
        with pytest.raises(StoreError, match="No such file"):
            read(tmp_path / "absent")
    with pytest.raises(StoreError, match=r"No such file.*earlier file there is untouched"):
        save_table(grown(ReferenceTable), tmp_path / "no" / "folder")
    with pytest.raises(StoreError, match="no file"):
        load_table(ReferenceTable(CONFIG), [])
    with pytest.raises(StoreError, match="shard"):
        save_table(grown(ReferenceTable), tmp_path / "file", shard=(2, 2))
    with pytest.raises(StoreError, match="ids of the shard"):
        save_table(grown(ReferenceTable), tmp_path / "file", shard=(0, 2))
    assert os.listdir(tmp_path) == []


def test_without_the_native_module_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "load_native", lambda: None)
    with pytest.raises(ConfigError, match=r"write_snapshot\(path, table.state\(\)\)"):
        save_table(grown(ReferenceTable), tmp_path / "file")


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_shows_the_moment_it_was_begun(tmp_path: Path, kind: Kind) -> None:
    table, other, then = grown(kind), kind(CONFIG), grown(kind)
    saving = begin_save(table, tmp_path / "file")
    learn(table, torch.arange(-40, 60), 3)
    table.remove(torch.arange(20))
    file = saving.wait()
    assert saving.done()
    assert saving.wait() == file
    load_table(other, file.path)
    assert same(other, then)


class Hooked(ReferenceTable):
    """A table with the native hooks, which tells what they were given."""

    class _Saver:
        def done(self) -> bool:
            return True

        def wait(self) -> tuple[tuple[int, int], int, int, int, int]:
            return (9, 28), 0, 0, 0, 0

    def _begin_save(self, *arguments: object) -> _Saver:
        self.seen = arguments
        return self._Saver()

    def _load_blocks(self, chain: object) -> tuple[int, int]:
        self.chain = chain
        return 10, 77


def test_a_native_table_saves_and_loads_itself(tmp_path: Path) -> None:
    full = save_table(grown(ReferenceTable), tmp_path / "full", shard=(0, 1))
    table = Hooked(CONFIG)
    for _ in range(full.mark):
        table.clear()
    with pytest.raises(StoreError, match=r"No space left.*Free space"):
        save_table(table, tmp_path / "step", since=full)
    path, header, since, parent, shard, shards = table.seen
    assert (path, header) == (str(tmp_path / "step"), table_files._header(table))
    assert (since, f"{parent:016x}", shard, shards) == (full.mark, full.digest, 0, 1)
    begin_save(table, tmp_path / "file")
    assert table.seen[2:] == (-1, 0, 0, 1)
    with pytest.raises(CorruptSnapshot, match="full: got damage at byte 77"):
        load_table(table, full.path)
    assert table.chain.next()[1][0] == 0


def born(work: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    table = grown(ReferenceTable)
    old = save_table(table, tmp_path / "file")
    learn(table, torch.arange(300), 3)

    def save() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        with pytest.raises(StoreError, match="File too large"):
            save_table(table, tmp_path / "file")

    _, status = os.waitpid(born(save), 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert os.listdir(tmp_path) == ["file"]
    assert inspect_table_file(tmp_path / "file") == old
    load_table(ReferenceTable(CONFIG), tmp_path / "file")


def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    small, large = grown(ReferenceTable), grown(ReferenceTable)
    learn(large, torch.arange(2000), 3)
    save_table(small, tmp_path / "file")

    def save_forever() -> None:
        while True:
            for table in (large, small):
                save_table(table, tmp_path / "file")

    seen = set()
    for round_ in range(12):
        child = born(save_forever)
        time.sleep(0.02 + 0.007 * round_)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        target = ReferenceTable(CONFIG)
        seen.add(load_table(target, tmp_path / "file").digest)
        assert same(target, small) or same(target, large)
    assert len(seen) <= 2


@pytest.mark.parametrize("kind", KINDS)
def test_tables_may_be_saved_by_several_threads_at_once(tmp_path: Path, kind: Kind) -> None:
    table, errors = grown(kind), []

    def save(number: int) -> None:
        try:
            save_table(table, tmp_path / str(number % 2))
        except StoreError as error:
            errors.append(error)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("one at a time" in str(error) for error in errors)  # the native table has one snapshot under way
    assert len(errors) < 4
    if errors:
        for number in range(2):
            save(number)
    assert sorted(os.listdir(tmp_path)) == ["0", "1"]
    other = kind(CONFIG)
    load_table(other, tmp_path / "0")
    assert same(other, table)
