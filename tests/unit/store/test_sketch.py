from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.errors import ConfigError, RowRuleMismatch
from headrace.store import NativeTable, ReferenceTable, TableConfig, load_table, open_table, save_table
from headrace.store.admission import AdmitSketch
from headrace.store.hashing import IdArray, mix64
from headrace.store.sketch import BUCKETS, Sketch, bucket_of, sketch_bytes
from headrace.store.table import load_native


def walk(n: int) -> tuple[IdArray, IdArray]:
    """Few ids, so that counters are shared, saturate and age; csrc/table/sketch_test.cc walks the same way."""
    words = mix64(np.arange(n, dtype=np.uint64))
    counts = (words >> np.uint64(32)).astype(np.int64) % 7 + 1
    counts[::97] = 2**63 - 1
    return mix64(words % np.uint64(3000)).view(np.int64), counts


def walk_sum(cells: int, depth: int, age_after: int) -> int:
    sketch = Sketch(cells, depth, age_after)
    total = 0xCBF29CE484222325
    for byte in [*sketch.add(*walk(20_000)).tolist(), *sketch.data().tolist()]:
        total = (total ^ byte) * 0x100000001B3 % 2**64
    return total


@pytest.mark.parametrize(
    ("settings", "total"),
    [((16, 4, 40), 0xE455F9DAC8505119), ((24, 3, 1000), 0xAF9B305D95AEA7AC), ((4, 1, 300), 0x370D56DA2DC2110F)],
)
def test_the_walk_that_the_native_sketch_must_repeat(settings: tuple[int, int, int], total: int) -> None:
    assert walk_sum(*settings) == total


def test_a_bucket_is_the_top_of_the_hash() -> None:
    ids = np.array([0, 1, -1, 2**63 - 1], np.int64)
    assert bucket_of(ids).tolist() == [int(one) >> 52 for one in mix64(ids.view(np.uint64))]
    assert bucket_of(np.arange(100_000)).max() == BUCKETS - 1


def test_an_id_alone_is_counted_exactly_up_to_255() -> None:
    sketch, one = Sketch(1024, 4, 2**31), np.array([-5], np.int64)
    counts = [3, 250, 1, 2**63 - 1, 1]
    assert [int(sketch.add(one, np.array([count]))[0]) for count in counts] == [3, 253, 254, 255, 255]
    assert sketch.estimates(one).tolist() == [255]
    assert sketch.estimates(np.array([6], np.int64)).tolist() == [0]


def test_an_estimate_is_never_too_low_before_its_bucket_ages() -> None:
    sketch, exact = Sketch(16, 4, 2**31), dict[int, int]()
    ids, counts = walk(6000)
    counts = np.minimum(counts, 3)
    estimates = sketch.add(ids, counts)
    for one, count, estimate in zip(ids.tolist(), counts.tolist(), estimates.tolist(), strict=True):
        exact[one] = exact.get(one, 0) + count
        assert estimate >= min(exact[one], 255)


def test_only_counters_that_show_too_little_rise() -> None:
    sketch = Sketch(8, 2, 2**31)
    ids, counts = walk(2000)
    before = sketch.data().reshape(BUCKETS, -1)[:, 4:].astype(int)
    for one, count in zip(ids.tolist(), counts.tolist(), strict=True):
        estimate = int(sketch.add(np.array([one]), np.array([count]))[0])
        after = sketch.data().reshape(BUCKETS, -1)[:, 4:].astype(int)
        risen = np.argwhere(after != before)
        assert len(risen) <= 2
        assert all(after[place[0], place[1]] == estimate for place in risen)
        assert set(risen[:, 0].tolist()) <= {int(bucket_of(np.array([one]))[0])}
        before = after
        if one % 40 == 0:
            break


def test_ageing_halves_one_bucket_after_the_estimate() -> None:
    sketch, zero = Sketch(64, 4, 10), np.array([0], np.int64)
    other = np.array([1], np.int64)
    assert bucket_of(zero)[0] != bucket_of(other)[0]
    sketch.add(other, np.array([6]))
    assert [int(sketch.add(zero, np.array([count]))[0]) for count in (9, 1)] == [9, 10]
    assert sketch.estimates(np.array([0, 1])).tolist() == [5, 6]
    assert int(sketch.data().reshape(BUCKETS, -1)[0, :4].view("<u4")[0]) == 5


def test_buckets_can_be_split_and_put_together() -> None:
    whole, halves = Sketch(16, 4, 100), [Sketch(16, 4, 100), Sketch(16, 4, 100)]
    ids, counts = walk(3000)
    whole.add(ids, counts)
    for number, half in enumerate(halves):
        mine = bucket_of(ids) * 2 // BUCKETS == number
        half.add(ids[mine], counts[mine])
    joined = Sketch(16, 4, 100)
    parts = [half.data().reshape(BUCKETS, -1) for half in halves]
    joined.load(np.concatenate([parts[0][: BUCKETS // 2], parts[1][BUCKETS // 2 :]]).reshape(-1))
    assert np.array_equal(joined.data(), whole.data())


def test_data_is_a_copy_and_its_length_is_checked() -> None:
    sketch = Sketch(8, 2, 100)
    data = sketch.data()
    assert len(data) == sketch.nbytes == sketch_bytes(8)
    data[:] = 7
    assert not sketch.data().any()
    with pytest.raises(ValueError, match="reshape"):
        sketch.load(data[:-1])


def test_few_ids_are_too_early_at_the_default_age() -> None:
    admission = AdmitSketch(3, cells_per_bucket=16)
    sketch, n = admission.sketch(), BUCKETS * 16 * 2
    early = sketch.add(np.arange(n), np.ones(n, np.int64)) >= 3
    assert 0 < early.mean() < 0.01


@pytest.mark.parametrize(
    "settings",
    [
        {"occurrences": 0}, {"occurrences": 256}, {"depth": 0}, {"depth": 9}, {"cells_per_bucket": 0},
        {"cells_per_bucket": 6, "depth": 2}, {"cells_per_bucket": 20, "depth": 3}, {"cells_per_bucket": 2**25},
        {"occurrences": 9, "age_after": 8}, {"age_after": 2**32},
    ],
    ids=str,
)  # fmt: skip
def test_a_value_that_cannot_work_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="AdmitSketch"):
        AdmitSketch(**{"occurrences": 5, **settings})


def test_the_default_age_goes_with_the_threshold() -> None:
    assert AdmitSketch(5).ages_at == 4 * 1024 // 3
    assert AdmitSketch(1).ages_at == 1
    assert AdmitSketch(7, age_after=9).ages_at == 9


@pytest.mark.skipif(load_native() is None, reason="the native module is not built")
def test_a_file_of_another_sketch_is_refused(tmp_path: Path) -> None:
    table = open_table(TableConfig(name="t", dim=2, admission=AdmitSketch(2, cells_per_bucket=8)))
    ones = torch.ones(1, dtype=torch.int64)
    table.update(ones, torch.ones(1, 2), ones, ones)
    save_table(table, tmp_path / "file")
    for kind in (NativeTable, ReferenceTable):
        for shape in ({"cells_per_bucket": 16}, {"cells_per_bucket": 8, "depth": 2}):
            other = kind(TableConfig(name="t", dim=2, admission=AdmitSketch(2, **shape)))
            with pytest.raises(RowRuleMismatch, match="sketch"):
                load_table(other, tmp_path / "file")
        plain = kind(TableConfig(name="t", dim=2))
        load_table(plain, tmp_path / "file")
        assert plain.stats().filtered == 1
        counted = kind(TableConfig(name="t", dim=2, admission=AdmitSketch(2, cells_per_bucket=16)))
        load_table(counted, save_table(plain, tmp_path / "plain").path)
        counted.update(ones, torch.ones(1, 2), ones, ones)
        assert len(counted) == 0
