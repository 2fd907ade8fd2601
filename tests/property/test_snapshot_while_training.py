"""A file that is written while the table learns, evicts and grows shows the table as it was when the save began."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.errors import StaleError
from headrace.store import (
    LFU,
    LRU,
    SGD,
    Adagrad,
    Adam,
    AdmitAll,
    AdmitCount,
    AdmitSketch,
    NativeTable,
    ReferenceTable,
    Storage,
    TableConfig,
    TableFile,
    begin_save,
    load_table,
    save_table,
)
from headrace.store.checked import CheckedTable
from headrace.store.table import load_native

pytestmark = pytest.mark.skipif(load_native() is None, reason="the native module is not built")

ACTS = ["fresh", "fresh", "again", "again", "assign", "remove", "evict", "clear", "forget"]
STORAGES = [
    Storage(), Storage(history=False), Storage(precision="bfloat16"), Storage(event_times=False, history=False),
    Storage(max_bytes=10**6), Storage(max_bytes=10**6, history=False, when_full=LRU()),
    Storage(max_bytes=10**6, precision="float16", when_full=LFU()),
]  # fmt: skip
_SETTINGS = settings(
    max_examples=60, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    for name, value in one.items():
        equal = torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        assert equal, name
    return one.keys() == other.keys()


class Learner:
    """Changes a table in ways that a seed chooses; ids climb, so that old rows go and new ones take their place."""

    def __init__(self, table: CheckedTable, seed: int) -> None:
        self.table, self.generator = table, torch.Generator().manual_seed(seed)
        self.next, self.now = 0, 0

    def act(self, what: str, size: int) -> None:
        """Do one thing to about `size` rows."""
        self.now += 1
        table, dim, times = self.table, self.table.config.dim, None
        if what == "fresh":
            self.next += size
            ids = torch.arange(self.next - size, self.next)
        else:
            ids = torch.unique(torch.randint(0, max(self.next, 1), (size,), generator=self.generator))
        times = torch.full_like(ids, self.now)
        if what in ("fresh", "again"):
            counts = torch.randint(1, 4, (len(ids),), generator=self.generator)
            table.update(ids, torch.randn(len(ids), dim, generator=self.generator), counts, times)
        elif what == "assign":
            capacity = table.stats().capacity
            ids, times = ids[:capacity], times[:capacity]
            table.assign(ids, torch.randn(len(ids), dim, generator=self.generator), times)
        elif what == "remove":
            table.remove(ids)
        elif what == "evict" and table.config.storage.event_times:
            table.evict(self.now - 6)
        elif what == "clear":
            table.clear()
        elif what == "forget":
            table.forget(table.mark())


def loaded(config: TableConfig, paths: list[Path], kind: type[CheckedTable] = NativeTable) -> dict[str, Any]:
    table = kind(config)
    load_table(table, paths)
    return table.state()


@st.composite
def configs(draw: st.DrawFn) -> TableConfig:
    """Draw a table, half of them with a budget that is soon used up."""
    return TableConfig(
        name="t", dim=draw(st.sampled_from([1, 4, 32])), rule=draw(st.sampled_from([SGD(), Adagrad(), Adam()])),
        storage=draw(st.sampled_from(STORAGES)),
        admission=draw(st.sampled_from([AdmitAll(), AdmitCount(2), AdmitSketch(2, cells_per_bucket=4)])),
    )  # fmt: skip


@_SETTINGS
@given(
    config=configs(), before=st.integers(1, 6000), seed=st.integers(0, 99),
    acts=st.lists(st.tuples(st.sampled_from(ACTS), st.sampled_from([1, 30, 300, 2000])), min_size=1, max_size=25),
)  # fmt: skip
def test_a_file_shows_the_table_at_the_moment_it_was_begun(
    tmp_path: Path, config: TableConfig, before: int, seed: int, acts: list[tuple[str, int]]
) -> None:
    table = NativeTable(config)
    learner = Learner(table, seed)
    for what in ("fresh", "again", "remove", "fresh", "again"):
        learner.act(what, before // (2 if what == "fresh" else 9) + 1)
    then, saving = table.state(), begin_save(table, tmp_path / "t")
    for what, size in acts:
        learner.act(what, size)
    file = saving.wait()
    assert file.mark == then["mark"]
    assert same(then, loaded(config, [file.path]))


@_SETTINGS
@given(
    config=configs(), seed=st.integers(0, 99),
    steps=st.lists(
        st.lists(st.tuples(st.sampled_from(ACTS), st.sampled_from([1, 30, 900])), max_size=6), min_size=1, max_size=4
    ),
)  # fmt: skip
def test_increments_written_while_learning_make_the_same_table(
    tmp_path: Path, config: TableConfig, seed: int, steps: list[list[tuple[str, int]]]
) -> None:
    table = NativeTable(config)
    learner = Learner(table, seed)
    learner.act("fresh", 900)
    files: list[TableFile] = [save_table(table, tmp_path / "0")]
    for step, acts in enumerate(steps, 1):
        for what, size in acts:
            learner.act(what, size)
        then = table.state()
        try:
            saving = begin_save(table, tmp_path / str(step), since=files[-1] if config.storage.history else None)
        except StaleError:  # forgotten, or more removals than are kept: everything is saved again
            saving = begin_save(table, tmp_path / str(step))
        for what, size in acts:
            learner.act(what, size)
        file = saving.wait()
        files = [*files, file] if file.since is not None else [file]
        assert same(then, loaded(config, [one.path for one in files]))
    assert same(then, loaded(config, [one.path for one in files], ReferenceTable))


def test_places_of_rows_that_went_are_taken_again_while_a_file_is_written(tmp_path: Path) -> None:
    """Rows go and others take their places in a table large enough for that to meet the file in its middle."""
    for history in (True, False):
        config = TableConfig(name="t", dim=16, rule=SGD(), storage=Storage(history=history))
        table = NativeTable(config)
        learner = Learner(table, 1)
        learner.act("fresh", 30_000)
        for step in range(12):
            then, saving = table.state(), begin_save(table, tmp_path / "t")
            while not saving.done():
                table.remove(torch.arange(learner.next - 30_000, learner.next - 29_000))
                learner.act("fresh", 1000)
            saving.wait()
            assert same(then, loaded(config, [tmp_path / "t"])), step


@pytest.mark.parametrize("max_bytes", [None, 6_000_000])
def test_threads_that_learn_read_and_save_do_not_disturb_each_other(tmp_path: Path, max_bytes: int | None) -> None:
    config = TableConfig(name="t", dim=8, rule=Adagrad(), storage=Storage(max_bytes=max_bytes))
    table = NativeTable(config)
    learner, stop, problems = Learner(table, 3), threading.Event(), []
    learner.act("fresh", 20_000)

    def learn() -> None:
        step = 0
        while not stop.is_set():
            learner.act(("fresh", "again", "remove", "assign")[step % 4], 400)
            step += 1

    def read() -> None:
        ids = torch.arange(0, 40_000, 7)
        while not stop.is_set():
            if not bool(torch.isfinite(table.lookup(ids)).all()):
                problems.append("a row that is not finite")

    threads = [threading.Thread(target=learn), threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    files = []
    try:
        for step in range(8):
            try:
                files.append(save_table(table, tmp_path / str(step), since=files[-1] if step % 4 else None))
            except StaleError:
                files.append(save_table(table, tmp_path / str(step)))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert problems == []
    last = max(place for place, file in enumerate(files) if file.since is None)
    other = NativeTable(config)
    assert load_table(other, [file.path for file in files[last:]]).mark == other.mark() <= table.mark()
    assert len(other) == int(other.state()["ids"].shape[0])  # type: ignore[union-attr]
    final = save_table(table, tmp_path / "end")
    assert same(table.state(), loaded(config, [final.path]))
