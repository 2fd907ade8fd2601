"""A table file that was damaged in any way is refused and changes nothing, or it is the file that was written."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.errors import CorruptSnapshot, StoreError
from headrace.store import (
    Adam,
    AdmitCount,
    AdmitSketch,
    NativeTable,
    ReferenceTable,
    TableConfig,
    inspect_table_file,
    load_table,
    save_table,
)
from headrace.store.checked import CheckedTable
from headrace.store.table import load_native

pytestmark = pytest.mark.skipif(load_native() is None, reason="the native module is not built")

CONFIGS = {
    "counts": TableConfig(name="t", dim=3, rule=Adam(), admission=AdmitCount(2)),
    "sketch": TableConfig(name="t", dim=3, admission=AdmitSketch(2, cells_per_bucket=4)),
}


def filled(config: TableConfig) -> CheckedTable:
    table, generator = NativeTable(config), torch.Generator().manual_seed(3)
    for step in range(4):
        ids = torch.unique(torch.randint(-90, 90, (60,), generator=generator))
        table.update(
            ids, torch.randn(len(ids), 3, generator=generator), torch.ones_like(ids), torch.full_like(ids, step)
        )
    table.remove(torch.arange(5))
    return table


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, bytes, dict[str, Any]]]:
    """Per configuration: the bytes of a full file, those of an increment, and the state they stand for."""
    made, folder = {}, tmp_path_factory.mktemp("files")
    for name, config in CONFIGS.items():
        table = filled(config)
        full = save_table(table, folder / "full")
        table.update(torch.arange(9), torch.ones(9, 3), torch.ones(9, dtype=torch.int64), torch.full((9,), 9))
        table.remove(torch.tensor([20, 21, 22]))
        step = save_table(table, folder / "step", since=full)
        made[name] = (full.path.read_bytes(), step.path.read_bytes(), table.state())
    return made


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(
        torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        for name, value in one.items()
    )


def damaged(data: bytes, draw: st.DataObject) -> bytes:
    """Return bytes changed in one of the ways in which files break."""
    at = draw.draw(st.integers(0, len(data) - 1) | st.integers(0, 200) | st.integers(len(data) - 200, len(data) - 1))
    length = draw.draw(st.sampled_from([1, 1, 4, 8, 300]))
    kind = draw.draw(st.sampled_from(["flip", "write", "cut", "lose", "add", "swap", "zero"]))
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ draw.draw(st.integers(1, 255))]) + data[at + 1 :]
    if kind == "write":
        other = random.Random(draw.draw(st.integers(0, 999))).randbytes(length)
        return (data[:at] + other + data[at + length :])[: len(data)]
    if kind == "cut":
        return data[:at]
    if kind == "lose":
        return data[:at] + data[at + length :]
    if kind == "add":
        return data[:at] + b"\0" * length + data[at:]
    if kind == "zero":
        return data[:at] + bytes(len(data[at : at + length])) + data[at + length :]
    return data[:at] + data[at + length : at + 2 * length] + data[at : at + length] + data[at + 2 * length :]


@pytest.mark.parametrize("kind", [NativeTable, ReferenceTable])
@pytest.mark.parametrize("name", CONFIGS)
@settings(
    max_examples=100, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(data=st.data(), which=st.sampled_from([0, 0, 1]))
def test_damage_is_noticed_and_changes_nothing(
    tmp_path: Path, files: dict[str, Any], kind: type[CheckedTable], name: str, data: st.DataObject, which: int
) -> None:
    full, step, state = files[name]
    broken = damaged((full, step)[which], data)
    for place, content in enumerate((full, step)):
        (tmp_path / str(place)).write_bytes(broken if place == which else content)
    table = kind(CONFIGS[name])
    table.assign(torch.tensor([77]), torch.ones(1, 3))
    before = table.state()
    try:
        load_table(table, [tmp_path / "0", tmp_path / "1"])
    except CorruptSnapshot:
        assert same(before, table.state())
        assert broken != (full, step)[which]
    else:
        assert broken == (full, step)[which]
        assert same(state, table.state())


@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=600), head=st.integers(0, 60))
def test_bytes_from_anywhere_are_no_table_file(
    tmp_path: Path, files: dict[str, Any], content: bytes, head: int
) -> None:
    (tmp_path / "file").write_bytes(files["counts"][0][:head] + content)
    for attempt in (inspect_table_file, lambda path: load_table(NativeTable(CONFIGS["counts"]), path)):
        with pytest.raises(CorruptSnapshot):
            attempt(tmp_path / "file")


def test_a_folder_or_nothing_is_no_table_file(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing"):
        with pytest.raises(StoreError):
            load_table(NativeTable(CONFIGS["counts"]), place)
