from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from headrace.errors import ConfigError, NumericError, StoreError
from headrace.store import (
    SGD,
    Adagrad,
    NativeTable,
    ReferenceTable,
    TableConfig,
    Uniform,
    Zeros,
    fallbacks,
    notices,
    open_table,
)
from headrace.store import table as module
from headrace.store.checked import CheckedTable
from headrace.store.hashing import IdArray
from headrace.store.row_rules import FloatArray
from headrace.store.table import load_native

Update = Callable[..., None]
needs_native = pytest.mark.skipif(load_native() is None, reason="the native module is not built")


@pytest.fixture(autouse=True)
def nothing_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test sees first fallbacks."""
    monkeypatch.setattr(notices, "_taken", {})


@needs_native
def test_open_table_takes_the_native_table(caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(open_table(TableConfig(name="t", dim=2)), NativeTable)
    assert caplog.records == []


def test_without_the_native_module_the_reference_is_used_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "load_native", lambda: None)
    with caplog.at_level(logging.WARNING, logger="headrace.store"):
        tables = [open_table(TableConfig(name=name, dim=2)) for name in ("a", "b", "c")]
    assert all(isinstance(table, ReferenceTable) for table in tables)
    assert len(caplog.records) == 1
    assert "reference table" in caplog.records[0].getMessage()
    assert len(fallbacks()) == 1
    with pytest.raises(ConfigError, match="open_table"):
        NativeTable(TableConfig(name="t", dim=2))


def test_a_build_of_another_interface_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERFACE", 999)
    assert load_native() is None


@dataclass(frozen=True)
class SignDescent:
    """A rule that only Python knows."""

    lr: float = 0.5

    def slot_count(self, dim: int) -> int:
        return 0

    def fresh_slots(self, dim: int) -> FloatArray:
        return np.zeros(0, np.float32)

    def step(self, rows: FloatArray, slots: FloatArray, grads: FloatArray, lr: np.float32) -> None:
        rows -= lr * np.sign(grads)


@dataclass(frozen=True)
class Ids:
    """An initialiser that only Python knows."""

    def __call__(self, key: int, ids: IdArray, dim: int) -> FloatArray:
        return np.repeat(ids[:, None], dim, axis=1).astype(np.float32)


def test_a_rule_and_an_init_of_ones_own_run_on_the_reference(caplog: pytest.LogCaptureFixture, update: Update) -> None:
    with caplog.at_level(logging.WARNING, logger="headrace.store"):
        table = open_table(TableConfig(name="t", dim=2, rule=SignDescent(), init=Ids()))
    assert isinstance(table, ReferenceTable)
    update(table, [4], 7.0)
    assert table.lookup(torch.tensor([4, 9])).tolist() == [[3.5, 3.5], [9.0, 9.0]]
    if load_native() is not None:
        assert [record.getMessage() for record in caplog.records] == fallbacks()
        assert "SignDescent with Ids" in fallbacks()[0]


@needs_native
def test_a_subclass_of_a_known_rule_is_not_taken_for_it() -> None:
    class Half(SGD):
        def step(self, rows: FloatArray, slots: FloatArray, grads: FloatArray, lr: np.float32) -> None:
            rows -= np.float32(0.5) * grads

    assert isinstance(open_table(TableConfig(name="t", dim=2, rule=Half())), ReferenceTable)
    with pytest.raises(ConfigError, match="native form"):
        NativeTable(TableConfig(name="t", dim=2, rule=Half()))


@dataclass(frozen=True)
class Clip:
    """Clips each row's gradient to the row's norm, times its count."""

    def __call__(self, rows: torch.Tensor, grads: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        limit = rows.norm(dim=1, keepdim=True) * counts[:, None]
        return grads * (limit / grads.norm(dim=1, keepdim=True)).clamp(max=1.0)


@dataclass(frozen=True)
class Broken:
    """Gives back what a rule cannot use."""

    kind: str

    def __call__(self, rows: torch.Tensor, grads: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        return grads[:, :1] if self.kind == "shape" else grads * torch.nan


def test_transforms_change_gradients_before_the_rule(
    kind: type[CheckedTable], update: Update, caplog: pytest.LogCaptureFixture
) -> None:
    config = TableConfig(name="t", dim=2, rule=SGD(lr=1.0), init=Uniform(0.5), transforms=(Clip(),))
    with caplog.at_level(logging.WARNING, logger="headrace.store"):
        table = kind(config)
        kind(config)
    assert len([record for record in caplog.records if "Clip" in record.getMessage()]) == 1
    ids = torch.tensor([1, 2])
    before = table.lookup(ids)
    update(table, [1, 2], 100.0, counts=[1, 2])
    moved = (table.lookup(ids) - before).norm(dim=1)
    torch.testing.assert_close(moved, before.norm(dim=1) * torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize(("what", "error"), [("shape", StoreError), ("nan", NumericError)])
def test_what_a_transform_returns_is_checked(
    kind: type[CheckedTable], update: Update, what: str, error: type[Exception]
) -> None:
    table = kind(TableConfig(name="t", dim=2, transforms=(Broken(what),)))
    with pytest.raises(error, match="gradients"):
        update(table, [1])
    assert len(table) == 0


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_seeds_reach_the_whole_range(kind: type[CheckedTable], seed: int) -> None:
    assert kind(TableConfig(name="t", dim=2, seed=seed)).lookup(torch.tensor([1])).abs().sum() > 0


def test_a_restored_table_can_be_smaller_than_the_one_before(kind: type[CheckedTable], update: Update) -> None:
    table = kind(TableConfig(name="t", dim=2))
    empty = table.state()
    update(table, list(range(1000)))
    table.restore(empty)
    assert (len(table), table.mark(), table.stats().admitted) == (0, 0, 0)


@needs_native
def test_stats_tell_memory_and_load(update: Update) -> None:
    table = NativeTable(TableConfig(name="t", dim=16, rule=Adagrad()))
    update(table, list(range(50_000)))
    stats = table.stats()
    floats = 50_000 * 32 * 4
    assert floats < stats.bytes < floats + 80 * 50_000 + 2**20
    assert 0.4 < stats.load <= 0.875


@needs_native
def test_clear_gives_memory_back(update: Update) -> None:
    table = NativeTable(TableConfig(name="t", dim=16))
    update(table, list(range(20_000)))
    full = table.stats().bytes
    table.clear()
    table.forget(table.mark())
    assert table.stats().bytes < full / 4


def test_readers_see_each_write_whole(kind: type[CheckedTable]) -> None:
    """While a writer assigns generation after generation, no lookup mixes two of them."""
    table = kind(TableConfig(name="t", dim=4, init=Zeros()), serving=True)
    ids = torch.arange(300)
    table.assign(ids, torch.zeros(300, 4))
    stop, torn, reads = threading.Event(), [], [0, 0]

    def read(number: int) -> None:
        while not stop.is_set():
            rows = table.lookup(ids)
            reads[number] += 1
            if rows.min() != rows.max():
                torn.append(rows)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    generation = 0
    while generation < 150 or min(reads) < 20:
        generation += 1
        table.assign(ids, torch.full((300, 4), float(generation)))
    stop.set()
    for thread in threads:
        thread.join()
    assert torn == []


def test_threads_that_read_and_write_leave_the_state_of_one_order(kind: type[CheckedTable]) -> None:
    """Two writers on their own ids, readers of everything beside them: the end equals the writers in turn."""
    config = TableConfig(name="t", dim=2, rule=Adagrad())
    table, oracle = kind(config), kind(config)
    stop, problems = threading.Event(), []

    def steps(writer: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(writer)
        for _ in range(60):
            ids = torch.unique(torch.randint(0, 400, (50,), generator=generator)) * 2 + writer
            yield ids, torch.randn(len(ids), 2, generator=generator)

    def write(writer: int) -> None:
        for ids, grads in steps(writer):
            table.update(ids, grads, torch.ones_like(ids), ids)

    def read() -> None:
        while not stop.is_set():
            change = table.changes(0)
            rows = table.rows()
            if not (torch.isfinite(rows.rows).all() and len(change.ids) <= len(rows.ids)):
                problems.append(change)
            table.stats()
            table.lookup(torch.arange(-50, 900))

    readers = [threading.Thread(target=read) for _ in range(2)]
    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(2)]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    for writer in range(2):
        for ids, grads in steps(writer):
            oracle.update(ids, grads, torch.ones_like(ids), ids)
    assert problems == []
    assert torch.equal(table.rows().ids, oracle.rows().ids)
    assert torch.equal(table.rows().rows, oracle.rows().rows)
    assert table.mark() == oracle.mark()


@needs_native
def test_a_writer_is_not_kept_waiting_by_readers() -> None:
    table = NativeTable(TableConfig(name="t", dim=8), serving=True)
    ids = torch.arange(20_000)
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            table.lookup(ids)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    done = threading.Thread(target=lambda: [table.assign(ids[:10], torch.ones(10, 8)) for _ in range(50)])
    done.start()
    done.join(timeout=20)
    waited = done.is_alive()
    stop.set()
    for thread in [*threads, done]:
        thread.join()
    assert not waited
