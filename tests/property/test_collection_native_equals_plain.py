"""A collection over native tables, all features in one native call, equals one over references, bit by bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from headrace.errors import NonFiniteLoss, StoreError
from headrace.optim import CowClip, RowNormClip, Warmup
from headrace.store import (
    LRU,
    SGD,
    Adagrad,
    Adam,
    AdmitAll,
    AdmitCount,
    AdmitProbability,
    AdmitSketch,
    EmbeddingCollection,
    FeatureLookup,
    GroupFTRL,
    NativeTable,
    Normal,
    ReferenceTable,
    RowWiseAdagrad,
    Storage,
    TableConfig,
    Uniform,
)
from headrace.store.checked import CheckedTable
from headrace.store.table import load_native
from headrace.types import Batch, Jagged

pytestmark = pytest.mark.skipif(load_native() is None, reason="the native module is not built")

IDS = st.one_of(st.integers(-3, 12), st.sampled_from([-(2**63), 2**63 - 1]), st.integers(-(2**63), 2**63 - 1))
BAGS = st.lists(st.lists(IDS, max_size=4), min_size=0, max_size=5)
RULES = [SGD(lr=0.3), Adagrad(), Adam(lr=0.1), GroupFTRL(l1=0.2), RowWiseAdagrad()]
ADMISSIONS = [
    AdmitAll(), AdmitAll(), AdmitCount(2), AdmitProbability(0.5), AdmitSketch(2, cells_per_bucket=4),
]  # fmt: skip
STORAGES = [
    Storage(), Storage(), Storage(precision="bfloat16"), Storage(precision="float16"),
    Storage(event_times=False, history=False), Storage(max_bytes=10**7), Storage(max_bytes=10**7, when_full=LRU()),
]  # fmt: skip
CLIPS = [(), (), (RowNormClip(max_norm=0.4),), (CowClip(lower_bound=0.1), RowNormClip(max_norm=1.0))]
SCHEDULES = [None, None, Warmup(steps=4)]
NAMES = ["a", "b", "c"]


@dataclass(frozen=True)
class Step:
    """What happens between two calls of `apply_gradients`."""

    bags: list[list[list[int]]]  # per feature, per example
    passes: int
    split: bool
    flows: list[bool]
    seed: int
    threads: int


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[TableConfig], list[bool], list[FeatureLookup], list[Step]]:
    """Draw tables, which of them are native, lookups, and steps."""
    configs = [
        TableConfig(
            name=name, dim=draw(st.sampled_from([1, 3, 8, 16, 19])), rule=draw(st.sampled_from(RULES)),
            init=draw(st.sampled_from([Uniform(), Normal(0.1)])), admission=draw(st.sampled_from(ADMISSIONS)),
            storage=draw(st.sampled_from(STORAGES)), transforms=draw(st.sampled_from(CLIPS)),
            schedule=draw(st.sampled_from(SCHEDULES)),
        )
        for name in NAMES[: draw(st.integers(1, 3))]
    ]  # fmt: skip
    native = [draw(st.sampled_from([True, True, True, False])) for _ in configs]
    lookups = [
        FeatureLookup(
            feature=f"f{place}", table=draw(st.sampled_from(configs)).name,
            pooling=draw(st.sampled_from(["sum", "mean", "none"])),
        )
        for place in range(draw(st.integers(1, 5)))
    ]  # fmt: skip
    return configs, native, lookups, [draw(steps(len(lookups))) for _ in range(draw(st.integers(1, 4)))]


@st.composite
def steps(draw: st.DrawFn, features: int) -> Step:
    """Draw a step; every feature has the same number of examples."""
    examples = draw(st.integers(0, 6))
    bags = st.lists(st.lists(IDS, max_size=4), min_size=examples, max_size=examples)
    return Step(
        bags=[draw(bags) for _ in range(features)], passes=draw(st.integers(1, 3)), split=draw(st.booleans()),
        flows=[draw(st.sampled_from([True, True, True, False])) for _ in range(features)],
        seed=draw(st.integers(0, 99)), threads=draw(st.integers(1, 3)),
    )  # fmt: skip


def batch_of(bags: Sequence[Sequence[Sequence[int]]], seed: int) -> Batch:
    rows = len(bags[0])
    ids = {}
    for place, feature in enumerate(bags):
        values = torch.tensor([one for bag in feature for one in bag], dtype=torch.int64)
        offsets = torch.tensor([0, *(len(bag) for bag in feature)]).cumsum(0)
        ids[f"f{place}"] = Jagged(values, offsets)
    floats, whole = torch.zeros(rows), torch.zeros(rows, dtype=torch.int64)
    times = torch.randint(-5, 100, (rows,), generator=torch.Generator().manual_seed(seed))
    return Batch(
        ids=ids, dense=torch.zeros(rows, 0), labels=floats, weights=floats + 1, event_times=times,
        accepted_times=whole, example_ids=torch.arange(rows), predictions=floats, versions=whole,
        sample_rates=floats + 1,
    )  # fmt: skip


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bits(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().contiguous()
    return tensor.view(torch.int32) if tensor.dtype == torch.float32 else tensor


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(bits(one), bits(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    return bool(one == other)


def run(collection: EmbeddingCollection, step: Step) -> list[dict[str, Tensor]]:
    """Do one step; return all outputs."""
    batch, generator, found = batch_of(step.bags, step.seed), torch.Generator().manual_seed(step.seed), []
    pieces = list(batch.split(2)) if step.split and step.bags[0] else [batch]
    for piece in pieces * step.passes:
        outputs = collection(piece)
        grads = {name: torch.randn(out.shape, generator=generator) for name, out in outputs.items()}
        flowing = [name for name, flows in zip(outputs, step.flows, strict=True) if flows]
        if flowing:
            torch.autograd.backward([outputs[name] for name in flowing], [grads[name] for name in flowing])
        found.append({name: out.detach().clone() for name, out in outputs.items()})
    with torch.no_grad():
        found.append(collection(batch))
    collection.apply_gradients(batch)
    return found


def states(tables: dict[str, CheckedTable]) -> dict[str, Any]:
    return {name: table.state() for name, table in tables.items()}


@settings(
    max_examples=250, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(world=worlds(), capacity=st.sampled_from([None, 1, 3, 9]))
def test_all_features_in_one_native_call_equal_the_plain_pass(
    world: tuple[list[TableConfig], list[bool], list[FeatureLookup], list[Step]], capacity: int | None
) -> None:
    configs, native, lookups, walk = world
    fast: dict[str, CheckedTable] = {
        one.name: (NativeTable if fused else ReferenceTable)(one, _capacity=capacity)
        for one, fused in zip(configs, native, strict=True)
    }
    plain: dict[str, CheckedTable] = {one.name: ReferenceTable(one, _capacity=capacity) for one in configs}
    one, other = EmbeddingCollection(fast, lookups), EmbeddingCollection(plain, lookups)
    for step in walk:
        with threads(step.threads):
            answers = run(one, step)
        assert same(dict(enumerate(map(dict, answers))), dict(enumerate(run(other, step))))
        assert same(states(fast), states(plain))


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(step=steps(3), bad=st.sampled_from([float("nan"), float("inf"), float("-inf")]), count=st.integers(1, 3))
def test_a_gradient_that_is_not_finite_changes_nothing_in_either(step: Step, bad: float, count: int) -> None:
    lookups = [FeatureLookup(feature=f"f{place}", table=NAMES[place], pooling="none") for place in range(3)]
    batch = batch_of(step.bags, step.seed)
    if not len(batch.ids["f2"].values):
        return
    for kinds in ([NativeTable] * 3, [ReferenceTable] * 3, [NativeTable, ReferenceTable, NativeTable]):
        tables = {name: kind(TableConfig(name=name, dim=3)) for name, kind in zip(NAMES, kinds, strict=True)}
        collection = EmbeddingCollection(tables, lookups)
        with threads(count):
            outputs = collection(batch)
            grads = [torch.ones_like(out) for out in outputs.values()]
            grads[2][-1, 1] = bad
            torch.autograd.backward(list(outputs.values()), grads)
            with pytest.raises(NonFiniteLoss, match="table 'c'"):
                collection.apply_gradients(batch)
        assert all(table.mark() == 0 and len(table) == 0 for table in tables.values())


@pytest.mark.parametrize("kind", [NativeTable, ReferenceTable])
@pytest.mark.parametrize("passes", [1, 2])
def test_a_batch_that_lacks_an_id_is_refused_by_both(kind: type[CheckedTable], passes: int) -> None:
    table = kind(TableConfig(name="a", dim=2))
    collection = EmbeddingCollection({"a": table}, [FeatureLookup(feature="f0", table="a")])
    for _ in range(passes):
        collection(batch_of([[[1], [2]]], 0))["f0"].sum().backward()
    with pytest.raises(StoreError, match="whole batch"):
        collection.apply_gradients(batch_of([[[1], [3]]], 0))
    assert table.mark() == 0
    collection(larger := batch_of([[[1], [2]]], 0))["f0"].sum().backward()
    collection.apply_gradients(larger)
    assert table.mark() == 1


@pytest.mark.parametrize("dim", [1, 7, 8, 16, 32, 33, 64])
def test_large_batches_on_many_threads_equal_one_thread(dim: int) -> None:
    generator = torch.Generator().manual_seed(dim)
    lookups = [FeatureLookup(feature=f"f{place}", table="a" if place % 2 else "b", pooling=pooling)
               for place, pooling in enumerate(["sum", "mean", "none", "sum", "mean", "none"])]  # fmt: skip
    config = [TableConfig(name=name, dim=dim, rule=Adagrad()) for name in ("a", "b")]
    kinds: list[type[CheckedTable]] = [NativeTable, NativeTable, ReferenceTable]
    found = [{one.name: kind(one) for one in config} for kind in kinds]
    collections = [EmbeddingCollection(tables, lookups) for tables in found]
    for seed in range(3):
        lengths = torch.randint(0, 4, (6, 500), generator=generator).tolist()
        bags = [[torch.randint(0, 900, (length,), generator=generator).tolist() for length in row] for row in lengths]
        step = Step(bags, 1, False, [True] * 6, seed, 3)
        answers = []
        for collection, count in zip(collections, (3, 1, 1), strict=True):
            with threads(count):
                answers.append(dict(enumerate(run(collection, step))))
        assert same(answers[0], answers[1])
        assert same(answers[0], answers[2])
        assert same(states(found[0]), states(found[1]))
        assert same(states(found[0]), states(found[2]))
