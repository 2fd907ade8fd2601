"""Provokers of the errors that tables give: rows 23 and later of docs/how-to/errors.md. See test_errors_table.py."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from headrace.errors import HeadraceError
from headrace.store import (
    SGD,
    Disk,
    Storage,
    TableConfig,
    begin_save,
    bytes_for,
    fallbacks,
    inspect_table_file,
    load_table,
    open_table,
    reshard,
    save_table,
)
from headrace.store.checked import CheckedTable
from headrace.store.ranks import Ranks
from headrace.store.table import load_native

PLAIN = Storage(event_times=False, history=False)


def caught(action: Callable[[], object]) -> HeadraceError:
    """Return the error of an action that must have one."""
    with pytest.raises(HeadraceError) as raised:
        action()
    return raised.value


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writes beyond so many bytes of a file fail, as on a full disk."""
    handled, before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handled)


def user(**settings: object) -> CheckedTable:
    return open_table(TableConfig(name="user", dim=2, **settings))  # type: ignore[arg-type]


def learn(table: CheckedTable, *ids: int) -> None:
    count = len(ids)
    ones = torch.ones(count, dtype=torch.int64)
    table.update(torch.tensor(ids), torch.ones(count, 2), ones, ones)


def rows_of(table: CheckedTable) -> list[int]:
    ids: list[int] = table.rows().ids.tolist()
    return ids


def needs_files() -> None:
    if load_native() is None:
        pytest.skip("table files need the native module")


def error_23(folder: Path) -> HeadraceError:
    """More rows at once than the budget holds."""
    config = TableConfig(name="user", dim=2)
    budget = max(bytes_for(config, 64), bytes_for(config, 64, serving=True))
    table = user(storage=Storage(max_bytes=budget))
    learn(table, 1)
    error = caught(lambda: table.assign(torch.arange(1000), torch.zeros(1000, 2)))
    assert (rows_of(table), table.mark()) == ([1], 1)
    return error


def error_24(folder: Path) -> HeadraceError:
    """A budget that is too small."""
    return caught(lambda: user(storage=Storage(max_bytes=1000)))


def error_25(folder: Path) -> HeadraceError:
    """Expiry without event times."""
    table = user(storage=PLAIN)
    learn(table, 1)
    error = caught(lambda: table.evict(5))
    assert rows_of(table) == [1]
    return error


def error_26(folder: Path) -> HeadraceError:
    """Changes without history."""
    table = user(storage=PLAIN)
    learn(table, 1)
    learn(table, 2)
    error = caught(lambda: table.changes(1))
    assert table.changes(0).ids.tolist() == [1, 2]
    return error


def error_27(folder: Path) -> HeadraceError:
    """An increment without history."""
    needs_files()
    table = user(storage=PLAIN)
    full = save_table(table, folder / "user.full")
    error = caught(lambda: save_table(table, folder / "user.1", since=full))
    assert not (folder / "user.1").exists()
    return error


def error_28(folder: Path) -> HeadraceError:
    """An increment since a file that the table has forgotten."""
    needs_files()
    table, full, _ = _saved(folder)
    table.forget(2)
    error = caught(lambda: save_table(table, folder / "user.late", since=full))
    assert not (folder / "user.late").exists()
    return error


def _saved(folder: Path) -> tuple[CheckedTable, Path, Path]:
    """A table, its file at mark 1, and an increment at mark 2."""
    table = user()
    learn(table, 1, 2)
    full = save_table(table, folder / "user.full")
    learn(table, 2)
    step = save_table(table, folder / "user.1", since=full)
    return table, full.path, step.path


def error_29(folder: Path) -> HeadraceError:
    """A file of a table with another rule."""
    return _refused(folder, user(rule=SGD()))


def error_30(folder: Path) -> HeadraceError:
    """A file of a table with another precision."""
    return _refused(folder, user(storage=Storage(precision="float16")))


def _refused(folder: Path, table: CheckedTable) -> HeadraceError:
    needs_files()
    _, full, _ = _saved(folder)
    learn(table, 9)
    error = caught(lambda: load_table(table, full))
    assert rows_of(table) == [9]
    return error


def error_31(folder: Path) -> HeadraceError:
    """A byte in the middle of a file."""
    needs_files()
    _, full, _ = _saved(folder)
    data = bytearray(full.read_bytes())
    data[len(data) // 2] ^= 1
    full.write_bytes(bytes(data))
    table = user()
    learn(table, 9)
    error = caught(lambda: load_table(table, full))
    assert rows_of(table) == [9]
    return error


def error_32(folder: Path) -> HeadraceError:
    """An increment that is left out."""
    needs_files()
    table, full, step = _saved(folder)
    learn(table, 3)
    save_table(table, folder / "user.2", since=step)
    other = user()
    error = caught(lambda: load_table(other, [full, folder / "user.2"]))
    assert len(other) == 0
    load_table(other, [full, step, folder / "user.2"])
    assert rows_of(other) == [1, 2, 3]
    return error


def error_33(folder: Path) -> HeadraceError:
    """An increment alone."""
    needs_files()
    _, _, step = _saved(folder)
    return caught(lambda: load_table(user(), step))


def error_34(folder: Path) -> HeadraceError:
    """Two saves at once."""
    needs_files()
    table = user()
    table.assign(torch.arange(300_000), torch.zeros(300_000, 2))
    first = begin_save(table, folder / "user.full")
    error = caught(lambda: begin_save(table, folder / "user.other"))
    assert first.wait().rows == 300_000
    assert not (folder / "user.other").exists()
    return error


def error_35(folder: Path) -> HeadraceError:
    """A table file on a disk that is full: the earlier file counts, and the table learns on."""
    needs_files()
    table, full, _ = _saved(folder)
    digest = inspect_table_file(full).digest
    table.assign(torch.arange(20_000), torch.zeros(20_000, 2))
    with file_size_limit(100_000):
        error = caught(lambda: save_table(table, full))
    assert inspect_table_file(full).digest == digest
    assert sorted(path.name for path in folder.iterdir()) == ["user.1", "user.full"]
    learn(table, 5)
    assert save_table(table, full).rows == 20_000
    return error


def error_36(folder: Path) -> HeadraceError:
    """Shards that do not hold every id."""
    needs_files()
    _, full, _ = _saved(folder)
    reshard([full], [folder / "half.0", folder / "half.1"])
    error = caught(lambda: reshard([folder / "half.0"], [folder / "joined"]))
    assert not (folder / "joined").exists()
    return error


@dataclass(frozen=True)
class Broken:
    """A schedule that divides by its own end."""

    def __call__(self, step: int) -> float:
        return float("nan")


def error_37(folder: Path) -> HeadraceError:
    """A schedule that gives NaN."""
    table = user(schedule=Broken())
    error = caught(lambda: learn(table, 1))
    assert (len(table), table.mark()) == (0, 0)
    return error


@dataclass(frozen=True)
class Halved:
    """A transform of one's own."""

    def __call__(self, rows: Tensor, grads: Tensor, counts: Tensor) -> Tensor:
        return grads / 2


def error_38(folder: Path) -> HeadraceError:
    """A transform that only Python can run."""
    table = user(rule=SGD(lr=1.0), transforms=(Halved(),))
    before = table.initial(torch.tensor([1]))
    learn(table, 1)
    assert torch.equal(table.lookup(torch.tensor([1])), before - 0.5)
    return HeadraceError(next(text for text in fallbacks() if "Halved" in text))


def error_39(folder: Path) -> HeadraceError:
    """A rank that never comes."""
    return caught(lambda: Ranks.join(f"file://{folder / 'meet'}", rank=0, size=2, timeout_s=0.5))


def error_40(folder: Path) -> HeadraceError:
    """A folder for cold rows that is not there."""
    needs_files()
    return caught(lambda: user(storage=Storage(disk=Disk(folder=str(folder / "none"), memory_bytes=1 << 20))))


def error_41(folder: Path) -> HeadraceError:
    """More ids than the memory of a table on disk can map."""
    needs_files()
    table = user(storage=Storage(disk=Disk(folder=str(folder), memory_bytes=1 << 20)))
    rows = 20_000
    ones, grads = torch.ones(rows, dtype=torch.int64), torch.zeros(rows, table.config.dim)

    def fill() -> None:
        for place in range(100):
            table.update(torch.arange(place * rows, (place + 1) * rows), grads, ones, ones)

    error = caught(fill)
    assert len(table) == table.mark() * rows > 0
    return error
