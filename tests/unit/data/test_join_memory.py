"""What a join holds: memory within its bound, the rest on disk, and nothing longer than needed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from headrace.data.join import EventJoin, JoinConfig
from headrace.data.spill import DiskTier
from headrace.errors import StoreError
from headrace.types import Events

SECOND = 1_000_000


def impressions(times: list[int], *, key: str = "r", first: int = 0, **columns: object) -> Events:
    count = len(times)
    items = [f"i{first + number}" for number in range(count)]
    return Events.from_columns({
        "key": [key] * count, "kind": ["impression"] * count, "event_time": [time * SECOND for time in times],
        "item": items,
    } | columns)  # fmt: skip


def action(item: str, time: int, *, key: str = "r", kind: str = "click", **columns: object) -> Events:
    return Events.from_columns({"key": [key], "kind": [kind], "event_time": [time * SECOND], "item": [item]} | columns)


def heartbeat(time: int) -> Events:
    return Events.from_columns({"key": [""], "kind": ["heartbeat"], "event_time": [time * SECOND]})


def join(window: float = 10, lateness: float = 0, **more: object) -> EventJoin:
    return EventJoin(JoinConfig(window_s=window, lateness_s=lateness, **more))  # type: ignore[arg-type]


def labels(examples: Events | None) -> dict[str, float]:
    if examples is None:
        return {}
    return dict(zip(examples.column("item").to_pylist(), examples.column("label").to_pylist(), strict=True))


def test_memory_is_bounded_and_the_rest_is_on_disk(tmp_path: Path) -> None:
    joiner = join(window=100, memory_rows=64, spill=tmp_path)
    for number in range(40):
        joiner.push(impressions([number] * 10, key=f"r{number}"))
        assert joiner.stats().in_memory <= 64
    stats = joiner.stats()
    assert (stats.pending, stats.in_memory + stats.on_disk) == (400, 400)


def test_a_late_action_finds_its_impression_on_disk(tmp_path: Path) -> None:
    joiner = join(window=100, memory_rows=8, spill=tmp_path)
    for number in range(20):
        joiner.push(impressions([number] * 4, key=f"r{number}", price=[float(number)] * 4))
    example = joiner.push(action("i2", 50, key="r0"))
    assert example is not None
    assert example.column("price").to_pylist() == [0.0]


def test_large_pushes_are_cut_before_they_spill(tmp_path: Path) -> None:
    whole, cut = join(memory_rows=10**6), join(memory_rows=1000, spill=tmp_path)
    rows = impressions(list(range(9)) * 500)
    whole.push(rows)
    cut.push(rows)
    assert cut.stats().in_memory <= 1000
    clicks = Events.concat([action(f"i{number}", 9) for number in (4400, 3, 777)])
    first, second = whole.push(clicks), cut.push(clicks)
    assert first is not None
    assert second is not None
    assert first.batch.equals(second.batch)
    ends = whole.flush(), cut.flush()
    assert ends[0] is not None
    assert ends[1] is not None
    assert ends[0].batch.equals(ends[1].batch)


def test_emitted_rows_leave_the_disk_tier(tmp_path: Path) -> None:
    joiner = join(window=10, memory_rows=8, spill=tmp_path)
    for number in range(20):
        joiner.push(impressions([0] * 4, key=f"r{number}"))
    assert joiner.stats().on_disk > 0
    joiner.push(heartbeat(10))
    assert (joiner.stats().on_disk, joiner.stats().in_memory) == (0, 0)


def test_closing_deletes_the_files(tmp_path: Path) -> None:
    joiner = join(window=10, memory_rows=4, spill=tmp_path)
    joiner.push(impressions([0] * 20))
    assert any(tmp_path.rglob("*"))
    joiner.close()
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_without_a_disk_tier_the_bound_is_exceeded_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    joiner = join(window=10, memory_rows=5)
    with caplog.at_level(logging.WARNING):
        joiner.push(impressions([0] * 20))
        joiner.push(impressions([0] * 20, first=20))
    assert len(caplog.records) == 1
    assert "no spill folder" in caplog.text
    assert len(labels(joiner.flush())) == 40


def test_a_disk_tier_that_cannot_be_written_leaves_the_rows_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    joiner = join(window=10, memory_rows=5, spill=tmp_path / "taken")
    with caplog.at_level(logging.WARNING):
        joiner.push(impressions([0] * 20))
    assert "disk tier" in caplog.text
    assert len(labels(joiner.flush())) == 20


def test_two_joins_cannot_share_a_spill_folder(tmp_path: Path) -> None:
    first, second = DiskTier(tmp_path), DiskTier(tmp_path)
    rows = impressions([0]).batch
    first.put(0, rows)
    with pytest.raises(StoreError, match="disk tier"):
        second.put(0, rows)


def test_a_state_holds_the_rows_on_disk(tmp_path: Path) -> None:
    joiner = join(window=10, memory_rows=4, spill=tmp_path / "one")
    joiner.push(impressions([0] * 20))
    state = joiner.state()
    joiner.close()
    other = join(window=10, memory_rows=4, spill=tmp_path / "two")
    other.restore(state)
    assert other.stats().in_memory <= 4
    assert len(labels(other.flush())) == 20


def test_forgotten_ids_leave_memory() -> None:
    joiner = join(window=10)
    for number in range(50):
        joiner.push(impressions([number * 5] * 10, key=f"r{number}"))
    assert len(joiner._ledger._numbers) <= 10 * (2 * 10 // 5 + 2)
