from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from headrace.errors import ConfigError, NonFiniteLoss, SchemaError, StoreError
from headrace.store import SGD, Adagrad, AdmitCount, EmbeddingCollection, FeatureLookup, TableConfig, Uniform
from headrace.store import collection as module
from headrace.store.checked import CheckedTable
from headrace.types import Batch, Jagged


def jagged(rows: Sequence[Sequence[int]]) -> Jagged:
    values = torch.tensor([one for row in rows for one in row], dtype=torch.int64)
    ends = torch.tensor([0] + [len(row) for row in rows]).cumsum(0)
    return Jagged(values, ends)


def batch_of(ids: Mapping[str, Sequence[Sequence[int]]], times: Sequence[int] | None = None) -> Batch:
    rows = len(next(iter(ids.values())))
    floats, whole = torch.zeros(rows), torch.zeros(rows, dtype=torch.int64)
    return Batch(
        ids={name: jagged(values) for name, values in ids.items()}, dense=torch.zeros(rows, 0), labels=floats,
        weights=floats + 1, event_times=whole if times is None else torch.tensor(times), accepted_times=whole,
        example_ids=torch.arange(rows), predictions=floats, versions=whole, sample_rates=floats + 1,
    )  # fmt: skip


def table_of(kind: type[CheckedTable], name: str = "item", **settings: object) -> CheckedTable:
    settings = {"dim": 3, "rule": SGD(lr=1.0), "init": Uniform(0.5), **settings}
    return kind(TableConfig(name=name, **settings))  # type: ignore[arg-type]


def one_feature(kind: type[CheckedTable], pooling: str = "sum", **settings: object) -> EmbeddingCollection:
    table = table_of(kind, **settings)
    return EmbeddingCollection({"item": table}, [FeatureLookup(feature="item", table="item", pooling=pooling)])


def rows_of(collection: EmbeddingCollection, ids: Sequence[int], name: str = "item") -> Tensor:
    return collection.tables[name].lookup(torch.tensor(ids, dtype=torch.int64))


ROWS = [[5, 5, 7], [], [9], [7, 5]]


def test_sum_adds_the_rows_of_an_example(kind: type[CheckedTable]) -> None:
    collection = one_feature(kind)
    out = collection(batch_of({"item": ROWS}))["item"]
    expected = torch.stack([rows_of(collection, row).sum(0) for row in ROWS])
    torch.testing.assert_close(out, expected)


def test_mean_averages_and_an_empty_example_is_zero(kind: type[CheckedTable]) -> None:
    collection = one_feature(kind, "mean")
    out = collection(batch_of({"item": ROWS}))["item"]
    torch.testing.assert_close(out[0], rows_of(collection, ROWS[0]).mean(0))
    assert out[1].tolist() == [0.0, 0.0, 0.0]


def test_no_pooling_gives_rows_as_they_come(kind: type[CheckedTable]) -> None:
    collection = one_feature(kind, "none")
    out = collection(batch_of({"item": ROWS}))["item"]
    assert torch.equal(out, rows_of(collection, [5, 5, 7, 9, 7, 5]))


@pytest.mark.parametrize("pooling", ["sum", "mean", "none"])
@pytest.mark.parametrize("rows", [ROWS, [[1]], [[], []], [[1], [2], [3]], []], ids=str)
def test_serving_reads_the_bits_that_training_reads(
    kind: type[CheckedTable], pooling: str, rows: list[list[int]]
) -> None:
    collection = one_feature(kind, pooling)
    batch = batch_of({"item": rows})
    trained = collection(batch)["item"]
    with torch.no_grad():
        served = collection(batch)["item"]
    assert torch.equal(trained, served)
    assert trained.shape == (sum(map(len, rows)) if pooling == "none" else len(rows), 3)


@pytest.mark.parametrize("pooling", ["sum", "mean", "none"])
def test_gradients_reach_the_rows_as_autograd_says(kind: type[CheckedTable], pooling: str) -> None:
    collection = one_feature(kind, pooling)
    ids = torch.tensor([5, 7, 9])
    weight = collection.tables["item"].lookup(ids).requires_grad_()
    place = {5: 0, 7: 1, 9: 2}
    flat = torch.tensor([place[one] for row in ROWS for one in row])
    picked = weight[flat]
    if pooling == "none":
        dense = picked
    else:
        parts = picked.split([len(row) for row in ROWS])
        pools = [part.sum(0) / (max(len(part), 1) if pooling == "mean" else 1) for part in parts]
        dense = torch.stack(pools)
    target = torch.randn(dense.shape, generator=torch.Generator().manual_seed(1))
    ((dense - target) ** 2).sum().backward()

    batch = batch_of({"item": ROWS})
    ((collection(batch)["item"] - target) ** 2).sum().backward()
    collection.apply_gradients(batch)
    assert weight.grad is not None
    torch.testing.assert_close(rows_of(collection, ids.tolist()), (weight - weight.grad).detach())


def test_features_that_share_a_table_make_one_update(kind: type[CheckedTable]) -> None:
    table = table_of(kind)
    lookups = [FeatureLookup(feature=name, table="item") for name in ("clicked", "item")]
    collection = EmbeddingCollection({"item": table}, lookups)
    batch = batch_of({"item": [[1], [2]], "clicked": [[2, 3], [2]]})
    before = rows_of(collection, [1, 2, 3])
    out = collection(batch)
    (out["item"].sum() + out["clicked"].sum()).backward()
    collection.apply_gradients(batch)
    assert table.mark() == 1
    moved = (before - rows_of(collection, [1, 2, 3]))[:, 0]
    torch.testing.assert_close(moved, torch.tensor([1.0, 3.0, 1.0]))  # summed over features and occurrences
    assert list(out) == ["clicked", "item"]


def test_every_occurrence_counts_once_towards_admission(kind: type[CheckedTable]) -> None:
    table = table_of(kind, admission=AdmitCount(3))
    lookups = [FeatureLookup(feature=name, table="item") for name in ("clicked", "item")]
    collection = EmbeddingCollection({"item": table}, lookups)
    batch = batch_of({"item": [[1], [2]], "clicked": [[2, 2], [1]]})
    for _ in range(2):  # a second forward pass of the same batch does not count again
        sum(out.sum() for out in collection(batch).values()).backward()
    collection.apply_gradients(batch)
    assert table.contains(torch.tensor([1, 2])).tolist() == [False, True]


def test_an_id_takes_the_newest_time_it_occurs_at(kind: type[CheckedTable]) -> None:
    collection = one_feature(kind)
    batch = batch_of({"item": [[1, 2], [1], []]}, times=[30, 10, 99])
    collection(batch)["item"].sum().backward()
    collection.apply_gradients(batch)
    times = collection.tables["item"].state()["times"]
    assert times.tolist() == [30, 30]  # type: ignore[union-attr]


def test_micro_batches_sum_up_to_one_update(kind: type[CheckedTable]) -> None:
    whole, parts = one_feature(kind, rule=Adagrad()), one_feature(kind, rule=Adagrad())
    batch = batch_of({"item": [[1, 2], [2], [3], [1]]}, times=[1, 2, 3, 4])
    (whole(batch)["item"] ** 2).sum().backward()
    whole.apply_gradients(batch)
    for piece in batch.split(2):
        (parts(piece)["item"] ** 2).sum().backward()
    parts.apply_gradients(batch)
    assert parts.tables["item"].mark() == 1
    torch.testing.assert_close(rows_of(parts, [1, 2, 3]), rows_of(whole, [1, 2, 3]))
    assert parts.tables["item"].state()["times"].tolist() == [4, 2, 3]  # type: ignore[union-attr]


def test_forward_without_gradients_keeps_nothing_and_changes_nothing(kind: type[CheckedTable]) -> None:
    collection = one_feature(kind)
    with torch.no_grad():
        collection(batch_of({"item": ROWS}))
    with pytest.raises(StoreError, match="no forward pass"):
        collection.apply_gradients(batch_of({"item": ROWS}))
    assert collection.tables["item"].mark() == 0


def test_apply_gradients_forgets_the_passes(kind: type[CheckedTable]) -> None:
    collection = one_feature(kind)
    batch = batch_of({"item": ROWS})
    collection(batch)["item"].sum().backward()
    collection.apply_gradients(batch)
    with pytest.raises(StoreError):
        collection.apply_gradients(batch)


def test_discard_drops_gradients(kind: type[CheckedTable]) -> None:
    collection = one_feature(kind)
    batch = batch_of({"item": [[1]]})
    collection(batch)["item"].sum().backward()
    collection.discard()
    before = rows_of(collection, [1])
    (collection(batch)["item"] * 2).sum().backward()
    collection.apply_gradients(batch)
    torch.testing.assert_close(before - rows_of(collection, [1]), torch.full((1, 3), 2.0))


def test_a_gradient_that_is_not_finite_changes_no_table(kind: type[CheckedTable]) -> None:
    tables = {name: table_of(kind, name) for name in ("a", "b")}
    collection = EmbeddingCollection(tables, [FeatureLookup(feature=name, table=name) for name in tables])
    batch = batch_of({"a": [[1]], "b": [[1]]})
    out = collection(batch)
    (out["a"].sum() + out["b"].sum() * torch.inf).backward()
    with pytest.raises(NonFiniteLoss, match="table 'b'"):
        collection.apply_gradients(batch)
    assert (tables["a"].mark(), tables["b"].mark()) == (0, 0)
    with pytest.raises(StoreError, match="no forward pass"):
        collection.apply_gradients(batch)


def test_a_table_without_gradient_is_left_alone(kind: type[CheckedTable]) -> None:
    tables = {name: table_of(kind, name) for name in ("a", "b")}
    collection = EmbeddingCollection(tables, [FeatureLookup(feature=name, table=name) for name in tables])
    batch = batch_of({"a": [[1]], "b": [[]]})
    out = collection(batch)
    (out["a"].sum() + out["b"].sum()).backward()
    collection.apply_gradients(batch)
    assert (tables["a"].mark(), tables["b"].mark()) == (1, 0)


def test_another_batch_than_the_one_looked_up_is_refused(kind: type[CheckedTable]) -> None:
    collection = one_feature(kind)
    collection(batch_of({"item": [[1], [2]]}))["item"].sum().backward()
    with pytest.raises(StoreError, match="whole batch"):
        collection.apply_gradients(batch_of({"item": [[1], [3]]}))
    assert collection.tables["item"].mark() == 0


def test_forgotten_no_grad_is_noticed(kind: type[CheckedTable], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 3)
    collection = one_feature(kind)
    with pytest.raises(StoreError, match="no_grad"):
        for _ in range(4):
            collection(batch_of({"item": [[1]]}))


def test_a_missing_feature_is_named(kind: type[CheckedTable]) -> None:
    with pytest.raises(SchemaError, match="'item'"):
        one_feature(kind)(batch_of({"user": [[1]]}))


def test_lookups_are_checked_at_construction(kind: type[CheckedTable]) -> None:
    with pytest.raises(ConfigError, match="'sum'"):
        FeatureLookup(feature="f", table="t", pooling="summ")
    with pytest.raises(ConfigError, match="'item'"):
        EmbeddingCollection({"item": table_of(kind)}, [FeatureLookup(feature="f", table="itm")])
    twice = [FeatureLookup(feature="f", table="item")] * 2
    with pytest.raises(ConfigError, match="one per feature"):
        EmbeddingCollection({"item": table_of(kind)}, twice)


def test_tables_are_no_part_of_the_state_dict(kind: type[CheckedTable]) -> None:
    collection = one_feature(kind)
    assert collection.state_dict() == {}
    assert list(collection.parameters()) == []
    assert "item: item (sum)" in repr(collection)


def test_many_threads_may_read_while_one_learns(kind: type[CheckedTable]) -> None:
    collection = one_feature(kind)
    batch = batch_of({"item": [[one, one + 1] for one in range(50)]})
    stop, problems = threading.Event(), []

    def serve() -> None:
        with torch.no_grad():
            while not stop.is_set():
                out = collection(batch)["item"]
                if out.shape != (50, 3) or out.requires_grad:
                    problems.append(out)

    threads = [threading.Thread(target=serve) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        (collection(batch)["item"] ** 2).sum().backward()
        collection.apply_gradients(batch)
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []
    assert collection.tables["item"].mark() == 30
