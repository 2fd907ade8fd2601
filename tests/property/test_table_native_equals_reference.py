"""The native table and the reference, driven side by side through every operation, agree in every bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from headrace.errors import HeadraceError
from headrace.optim import CowClip, RowL2, RowNormClip
from headrace.protocols import RowTransform
from headrace.store import (
    FTRL,
    LFU,
    LRU,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    AdmitAll,
    AdmitCount,
    AdmitProbability,
    AdmitSketch,
    Constant,
    GroupFTRL,
    Momentum,
    NativeTable,
    Normal,
    ReferenceTable,
    RowWiseAdagrad,
    Storage,
    TableConfig,
    Uniform,
    Zeros,
    read_snapshot,
    write_snapshot,
)
from headrace.store.checked import CheckedTable
from headrace.store.hashing import mix64
from headrace.store.table import load_native

pytestmark = pytest.mark.skipif(load_native() is None, reason="the native module is not built")

LOW, HIGH = -(2**63), 2**63 - 1


def with_equal_tags(count: int) -> list[int]:
    """Return ids whose hashes agree in stripe and tag, so that only the key in the cell tells them apart."""
    found = []
    for high in range(count):
        value = 0xABCD << 24 | high
        value = ((value ^ value >> 31 ^ value >> 62) * 0x319642B2D24D8EC3) % 2**64  # the inverse of mix64
        value = ((value ^ value >> 27 ^ value >> 54) * 0x96DE1B173F119089) % 2**64
        value = value ^ value >> 30 ^ value >> 60
        found.append(value if value < 2**63 else value - 2**64)
    return found


EQUAL_TAGS = with_equal_tags(4)
IDS = st.one_of(
    st.sampled_from([LOW, HIGH, 0, -1, 1, LOW + 1]),
    st.integers(2, 9),
    st.sampled_from(EQUAL_TAGS),
    st.integers(LOW, HIGH),
)
UNIQUE = st.lists(IDS, max_size=24, unique=True)
VALUES = st.one_of(
    st.floats(-3.0, 3.0, width=32),
    st.floats(-3.4028234663852886e38, 3.4028234663852886e38, width=32),
    st.sampled_from([0.0, -0.0, 1e-45, 1e-30, 1e19]),
)
TIMES = st.one_of(st.integers(0, 100), st.sampled_from([LOW, HIGH]))
RULES = [
    SGD(lr=0.3), Adagrad(), Adagrad(initial_accumulator=0.0), Adam(), Adam(lr=0.1, beta1=0.0, beta2=0.5),
    FTRL(), FTRL(lr=0.3, l1=0.4, l2=0.1, beta=0.5),
    Momentum(lr=0.2, momentum=0.7), Momentum(lr=0.2, momentum=0.7, nesterov=True), RowWiseAdagrad(),
    Adam(correction="none"), AdamW(weight_decay=0.1), Adam(lr=0.1, correction="table"),
    AdamW(beta1=0.0, beta2=0.5, weight_decay=0.1, correction="table"), GroupFTRL(), GroupFTRL(lr=0.3, l1=0.4, l2=0.1),
]  # fmt: skip
INITS = [Zeros(), Constant(0.25), Uniform(), Normal(0.3)]
ADMISSIONS = [
    AdmitAll(), AdmitCount(3), AdmitCount(1), AdmitProbability(0.4), AdmitProbability(1.0),
    AdmitSketch(3, cells_per_bucket=4, depth=2, age_after=20), AdmitSketch(2, cells_per_bucket=4),
]  # fmt: skip
STORAGES = [
    Storage(), Storage(event_times=False, history=False), Storage(event_times=False), Storage(history=False),
    Storage(precision="bfloat16"), Storage(precision="float16", history=False),
    Storage(max_bytes=10**7), Storage(max_bytes=10**7, when_full=LRU()),
    Storage(max_bytes=10**7, precision="float16"), Storage(max_bytes=10**7, history=False),
]  # fmt: skip
SERVING_STORAGES = [
    Storage(), Storage(event_times=False), Storage(serving_precision="float16"), Storage(serving_precision="int8"),
    Storage(max_bytes=10**7), Storage(max_bytes=10**7, serving_precision="int8"),
]  # fmt: skip
LAZY = RowL2(weight=0.05, untouched="lazy")
TRANSFORMS: list[tuple[RowTransform, ...]] = [
    (), (), (LAZY,), (LAZY, CowClip(ratio=0.5, lower_bound=0.01)),
    (RowL2(weight=0.1, per="occurrence"), CowClip(order="code", skip=1)),
    (RowL2(weight=0.5), RowNormClip(max_norm=1.0)),
]  # fmt: skip
CAPACITIES = [None, 1, 4, 13, 30, 130]


@dataclass(frozen=True)
class Sawtooth:
    """A learning rate that rises and falls back."""

    def __call__(self, step: int) -> float:
        return step % 5 / 3


def ids_of(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def same(one: Any, other: Any) -> bool:
    """Equal in every bit, NaN and the sign of zero included."""
    if isinstance(one, torch.Tensor):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        if one.dtype.is_floating_point:
            one, other = one.contiguous().view(torch.int32), other.contiguous().view(torch.int32)
        return bool(torch.equal(one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    return bool(one == other)


class Tables(RuleBasedStateMachine):
    """Two tables of one configuration; whatever is done to both must answer alike."""

    serving = False
    storages = STORAGES

    @initialize(
        rule_=st.sampled_from(RULES), init=st.sampled_from(INITS), admission=st.sampled_from(ADMISSIONS),
        dim=st.integers(1, 5), seed=st.integers(0, 3), capacity=st.sampled_from(CAPACITIES),
        ttl_s=st.sampled_from([None, None, 20e-6, 9e12]), schedule=st.sampled_from([None, None, Sawtooth()]),
        transforms=st.sampled_from(TRANSFORMS), data=st.data(),
    )  # fmt: skip
    def start(
        self, rule_: Any, init: Any, admission: Any, dim: int, seed: int, capacity: int | None, ttl_s: float | None,
        schedule: Any, transforms: tuple[RowTransform, ...], data: st.DataObject,
    ) -> None:  # fmt: skip
        storage = data.draw(st.sampled_from(self.storages))
        self.config = TableConfig(
            name="t", dim=dim, rule=rule_, init=init, admission=admission, seed=seed, storage=storage,
            ttl_s=ttl_s if storage.event_times else None, schedule=schedule, transforms=transforms,
        )  # fmt: skip
        self.capacity = capacity if storage.max_bytes is not None else None
        self.reference, self.native = self.opened()
        self.marks = [0, 0, 0]  # what three consumers have seen
        self.saved: list[Any] = []

    def opened(self) -> tuple[CheckedTable, CheckedTable]:
        """Return a fresh table of each kind."""
        settings: dict[str, Any] = {"serving": self.serving, "_capacity": self.capacity}
        return ReferenceTable(self.config, **settings), NativeTable(self.config, **settings)

    def both(self, call: Callable[[CheckedTable], Any]) -> Any:
        """Call both, compare answers or errors, and return the reference's answer."""
        answers: list[Any] = []
        for table in (self.reference, self.native):
            try:
                answers.append(call(table))
            except HeadraceError as error:
                answers.append((type(error), str(error)))
        assert same(answers[0], answers[1]), answers
        return answers[0]

    def floats(self, data: st.DataObject, rows: int) -> torch.Tensor:
        size = rows * self.config.dim
        values = data.draw(st.lists(VALUES, min_size=size, max_size=size))
        return torch.tensor(values, dtype=torch.float32).reshape(rows, self.config.dim)

    @rule(values=st.lists(IDS, max_size=30))
    def lookup(self, values: list[int]) -> None:
        before = self.native.state()
        self.both(lambda table: table.lookup(ids_of(values)))
        self.both(lambda table: table.contains(ids_of(values)))
        self.both(lambda table: table.initial(ids_of(values)))
        assert same(before, self.native.state())

    @rule(values=UNIQUE, data=st.data())
    def update(self, values: list[int], data: st.DataObject) -> None:
        n = len(values)
        grads = self.floats(data, n)
        counts = ids_of(data.draw(st.lists(st.sampled_from([1, 1, 2, 5, HIGH]), min_size=n, max_size=n)))
        times = ids_of(data.draw(st.lists(TIMES, min_size=n, max_size=n)))
        self.both(lambda table: table.update(ids_of(values), grads, counts, times))

    @rule(start=st.integers(-60, 60), n=st.integers(0, 150), time=TIMES, count=st.sampled_from([1, 2, 300]))
    def update_many(self, start: int, n: int, time: int, count: int) -> None:
        ids = torch.arange(start, start + n)
        grads = ((ids % 7 - 3) / 4).float()[:, None].expand(n, self.config.dim).contiguous()
        counts = 1 + (ids * count) % 5 * count
        self.both(lambda table: table.update(ids, grads, counts, torch.full_like(ids, time)))

    @rule(start=st.integers(-60, 60), n=st.integers(0, 40), time=TIMES)
    def assign_many(self, start: int, n: int, time: int) -> None:
        ids, mark = torch.arange(start, start + n), self.reference.mark()
        rows = ids.float()[:, None].expand(n, self.config.dim).contiguous()
        answer = self.both(lambda table: table.assign(ids, rows, torch.full_like(ids, time)))
        full = self.capacity is not None and n > self.capacity
        assert (answer is not None) == full
        assert self.reference.mark() == mark + (not full)

    @rule(values=st.lists(IDS, min_size=1, max_size=10, unique=True), data=st.data())
    def refused_update(self, values: list[int], data: st.DataObject) -> None:
        n = len(values)
        grads, counts, times = self.floats(data, n), torch.ones(n, dtype=torch.int64), torch.zeros(n, dtype=torch.int64)
        place = data.draw(st.integers(0, n - 1))
        kind = data.draw(st.sampled_from(["duplicate", "count", "nan", "shape"]))
        if kind == "duplicate":
            values, grads = [*values, values[place]], torch.cat([grads, grads[:1]])
            counts, times = torch.ones(n + 1, dtype=torch.int64), torch.zeros(n + 1, dtype=torch.int64)
        elif kind == "count":
            counts[place] = data.draw(st.sampled_from([0, -1, LOW]))
        elif kind == "nan":
            grads[place, 0] = data.draw(st.sampled_from([float("nan"), float("inf"), float("-inf")]))
        else:
            grads = grads[:-1]
        mark = self.reference.mark()
        error = self.both(lambda table: table.update(ids_of(values), grads, counts, times))
        assert error is not None
        assert self.reference.mark() == mark

    @rule(values=UNIQUE, timed=st.booleans(), data=st.data())
    def assign(self, values: list[int], timed: bool, data: st.DataObject) -> None:
        rows = self.floats(data, len(values))
        times = ids_of(data.draw(st.lists(TIMES, min_size=len(values), max_size=len(values)))) if timed else None
        self.both(lambda table: table.assign(ids_of(values), rows, times))

    @rule(values=st.lists(IDS, max_size=20))
    def remove(self, values: list[int]) -> None:
        self.both(lambda table: table.remove(ids_of(values)))

    @rule(before=TIMES)
    def evict(self, before: int) -> None:
        self.both(lambda table: table.evict(before))

    @rule()
    def clear(self) -> None:
        self.both(lambda table: table.clear())

    @rule(consumer=st.integers(0, 2), advance=st.booleans())
    def changes(self, consumer: int, advance: bool) -> None:
        since = self.marks[consumer]

        def read(table: CheckedTable) -> tuple[torch.Tensor, ...]:
            change = table.changes(since)
            return change.ids, change.rows, change.removed

        answer = self.both(lambda table: dict(enumerate(read(table))))
        if isinstance(answer, dict) and advance:
            self.marks[consumer] = self.reference.mark()

    @rule()
    def rows(self) -> None:
        self.both(lambda table: {"ids": table.rows().ids, "rows": table.rows().rows})

    @rule(back=st.integers(-1, 12))
    def forget(self, back: int) -> None:
        mark = self.reference.mark() - back
        self.both(lambda table: table.forget(mark))

    @rule(since=st.sampled_from([-1, 2**62, 2**63, 2**64]))
    def changes_out_of_range(self, since: int) -> None:
        error = self.both(lambda table: table.changes(since))
        assert isinstance(error, tuple)

    @rule()
    def save(self) -> None:
        self.saved.append((self.reference.state(), self.native.state(), list(self.marks)))

    @rule(crossed=st.booleans())
    def restore(self, crossed: bool) -> None:
        if not self.saved:
            return
        reference, native, self.marks = self.saved.pop()
        if crossed:
            reference, native = native, reference
        self.reference.restore(reference)
        self.native.restore(native)

    @rule()
    def reopen(self) -> None:
        reference, native = self.opened()
        reference.restore(self.native.state())
        native.restore(self.reference.state())
        self.reference, self.native = reference, native

    @invariant()
    def equal(self) -> None:
        if not hasattr(self, "config"):
            return
        assert same(self.reference.state(), self.native.state())
        assert len(self.reference) == len(self.native)
        assert self.reference.clipping() == self.native.clipping()
        one, other = self.reference.stats(), self.native.stats()
        same_numbers = ("rows", "pending", "admitted", "filtered", "evicted", "capacity", "max_bytes")
        assert all(getattr(one, name) == getattr(other, name) for name in same_numbers), (one, other)
        assert other.max_bytes is None or other.bytes <= other.max_bytes


class ServingTables(Tables):
    """The same for tables that only serve."""

    serving = True
    storages = SERVING_STORAGES


_SETTINGS = settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)  # fmt: skip
Tables.TestCase.settings = _SETTINGS
ServingTables.TestCase.settings = settings(_SETTINGS, max_examples=60)
TestTables = Tables.TestCase
TestServingTables = ServingTables.TestCase


def test_the_ids_chosen_for_it_have_equal_tags() -> None:
    hashes = mix64(np.array(EQUAL_TAGS, np.int64).view(np.uint64))
    assert len(set(hashes.tolist())) == 4
    assert {(one >> 56, one >> 24 & 0xFFFFFFFF) for one in hashes.tolist()} == {(0, 0xABCD)}


def walk(reference: CheckedTable, native: CheckedTable, spread: int, steps: int = 60) -> None:
    """Drive both through growth, removal, expiry and forgetting, and compare as they go."""
    generator = torch.Generator().manual_seed(17)
    for step in range(steps):
        ids = torch.unique(torch.randint(0, spread * (step + 1), (400,), generator=generator)) * (2**40 + 1)
        grads, ones = torch.randn(len(ids), 3, generator=generator), torch.ones_like(ids)
        gone = ids[torch.randint(0, len(ids), (30,), generator=generator)]
        answers = []
        for table in (reference, native):
            table.update(ids, grads, ones + 1, ones * step)
            if step % 7 == 3:
                table.remove(gone)
            if step % 10 == 9:
                answers.append(table.evict(step - 6))
            if step == 45:
                table.forget(table.mark() - 20)
        assert answers[:1] == answers[1:]
        if step % 10 == 9:
            assert same(reference.state(), native.state())
            since = max(reference.mark() - 12, int(reference.state()["floor"]))  # type: ignore[arg-type]
            one, other = reference.changes(since), native.changes(since)
            assert torch.equal(one.ids, other.ids)
            assert torch.equal(one.removed, other.removed)
            assert same(one.rows, other.rows)


@pytest.mark.parametrize(
    "admission", [AdmitAll(), AdmitCount(4), AdmitProbability(0.3), AdmitSketch(4, cells_per_bucket=4)],
    ids=lambda item: type(item).__name__,
)  # fmt: skip
@pytest.mark.parametrize("rule_", [SGD(), Adagrad(), Adam(), FTRL(l1=0.01)], ids=lambda item: type(item).__name__)
def test_a_long_walk_with_growth_and_eviction_stays_equal(rule_: Any, admission: Any) -> None:
    config = TableConfig(name="walk", dim=3, rule=rule_, admission=admission)
    walk(ReferenceTable(config), NativeTable(config), 60)


@pytest.mark.parametrize("admission", [AdmitAll(), AdmitCount(4)], ids=lambda item: type(item).__name__)
@pytest.mark.parametrize("when_full", [LFU(), LRU()], ids=lambda item: type(item).__name__)
@pytest.mark.parametrize("ttl_s", [None, 8e-6])
def test_a_long_walk_that_is_always_full_stays_equal_and_within_its_bytes(
    when_full: Any, admission: Any, ttl_s: float | None
) -> None:
    storage = Storage(max_bytes=250_000, when_full=when_full)
    config = TableConfig(name="walk", dim=3, rule=Adagrad(), admission=admission, ttl_s=ttl_s, storage=storage)
    reference, native = ReferenceTable(config), NativeTable(config)
    walk(reference, native, 400, steps=80)
    stats = native.stats()
    assert stats.evicted > 0
    assert stats.bytes <= 250_000


def test_snapshot_file_carries_a_table_bit_by_bit(tmp_path: Path) -> None:
    config = TableConfig(name="t", dim=3, rule=Adam(), admission=AdmitCount(2))
    native, generator = NativeTable(config), torch.Generator().manual_seed(5)
    for step in range(40):
        ids = torch.unique(torch.randint(-50, 50, (20,), generator=generator))
        grads = torch.randn(len(ids), 3, generator=generator)
        native.update(ids, grads, torch.ones_like(ids), torch.full_like(ids, step))
    native.evict(20)
    write_snapshot(tmp_path / "t", native.state())
    reference = ReferenceTable(config)
    reference.restore(read_snapshot(tmp_path / "t"))
    assert same(reference.state(), native.state())
