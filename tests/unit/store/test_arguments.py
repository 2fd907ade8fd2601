from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from headrace.errors import HeadraceError, NumericError, StoreError
from headrace.store import TableConfig
from headrace.store.arguments import Arguments, first_duplicate, first_row_not_finite
from headrace.store.checked import CheckedTable

IDS = torch.tensor([1, 2, 3])
ONES = torch.ones(3, dtype=torch.int64)


@pytest.fixture
def table(kind: type[CheckedTable]) -> CheckedTable:
    table = kind(TableConfig(name="user", dim=4))
    table.update(IDS, torch.ones(3, 4), ONES, ONES)
    return table


def unchanged(table: CheckedTable, call: object, error: type[HeadraceError], match: str) -> None:
    rows, mark, stats = table.rows(), table.mark(), table.stats()
    with pytest.raises(error, match=match):
        call()  # type: ignore[operator]
    assert table.mark() == mark
    assert torch.equal(table.rows().rows, rows.rows)
    assert table.stats() == stats


def test_a_gradient_of_another_width_names_shapes_and_the_next_step(table: CheckedTable) -> None:
    with pytest.raises(StoreError) as caught:
        table.update(IDS, torch.ones(3, 5), ONES, ONES)
    text = str(caught.value)
    assert "Table 'user', gradients" in text
    assert "(3, 5)" in text
    assert "(3, 4) because dim=4" in text
    assert "same ids" in text


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        (torch.tensor([1, 2, 3], dtype=torch.int32), "int32"),
        (torch.tensor([[1], [2], [3]]), r"\(3, 1\)"),
        (torch.tensor([1.0, 2.0, 3.0]), "float32"),
        ([1, 2, 3], "list"),
        (np.array([1, 2, 3]), "ndarray"),
    ],
)
def test_ids_of_another_kind_are_refused_everywhere(table: CheckedTable, ids: torch.Tensor, match: str) -> None:
    for call in (
        lambda: table.lookup(ids), lambda: table.initial(ids), lambda: table.contains(ids),
        lambda: table.remove(ids), lambda: table.assign(ids, torch.ones(3, 4)),
        lambda: table.update(ids, torch.ones(3, 4), ONES, ONES),
    ):  # fmt: skip
        unchanged(table, call, StoreError, match)


@pytest.mark.parametrize(
    ("ids", "grads", "counts", "times", "error", "match"),
    [
        (torch.tensor([5, 1, 5]), torch.ones(3, 4), ONES, ONES, StoreError, "id 5 more than once"),
        (IDS, torch.ones(3, 4), ONES * 0, ONES, StoreError, "count below 1 in row 0"),
        (IDS, torch.ones(3, 4), ONES[:2], ONES, StoreError, "counts"),
        (IDS, torch.ones(3, 4), ONES, ONES[:2], StoreError, "times"),
        (IDS, torch.ones(3, 4), ONES.int(), ONES, StoreError, "counts"),
        (IDS, torch.ones(3, 4).double(), ONES, ONES, StoreError, "float64"),
        (IDS, torch.ones(2, 4), ONES, ONES, StoreError, "gradients"),
        (IDS, torch.full((3, 4), torch.nan), ONES, ONES, NumericError, "row 0"),
        (IDS, torch.tensor([[0.0] * 4, [0, 0, 0, torch.inf], [torch.nan] * 4]), ONES, ONES, NumericError, "row 1"),
    ],
)
def test_a_wrong_update_is_refused_before_anything_changes(
    table: CheckedTable, ids: torch.Tensor, grads: torch.Tensor, counts: torch.Tensor, times: torch.Tensor,
    error: type[HeadraceError], match: str,
) -> None:  # fmt: skip
    unchanged(table, lambda: table.update(ids, grads, counts, times), error, match)


@pytest.mark.parametrize(
    ("ids", "rows", "times", "error", "match"),
    [
        (torch.tensor([1, 1]), torch.ones(2, 4), None, StoreError, "id 1 more than once"),
        (torch.tensor([1, 2]), torch.ones(2, 3), None, StoreError, "rows"),
        (torch.tensor([1, 2]), torch.ones(2, 4), torch.tensor([1]), StoreError, "times"),
        (torch.tensor([1, 2]), torch.tensor([[1.0] * 4, [-torch.inf] * 4]), None, NumericError, "rows.*row 1"),
    ],
)
def test_a_wrong_assignment_is_refused_before_anything_changes(
    table: CheckedTable, ids: torch.Tensor, rows: torch.Tensor, times: torch.Tensor | None,
    error: type[HeadraceError], match: str,
) -> None:  # fmt: skip
    unchanged(table, lambda: table.assign(ids, rows, times), error, match)


def test_the_smallest_of_several_duplicates_is_named(table: CheckedTable) -> None:
    ids = torch.tensor([9, -4, 9, -4])
    with pytest.raises(StoreError, match="id -4"):
        table.update(ids, torch.ones(4, 4), torch.ones_like(ids), ids)


def test_a_tensor_elsewhere_than_on_the_cpu_is_refused(table: CheckedTable) -> None:
    with pytest.raises(StoreError, match=r"meta.*\.cpu\(\)"):
        table.lookup(torch.zeros(3, dtype=torch.int64, device="meta"))


def test_strided_and_differentiable_tensors_are_taken(table: CheckedTable) -> None:
    grads = torch.ones(4, 3).t().requires_grad_()
    table.update(torch.arange(6)[::2], grads, ONES, ONES)
    assert len(table) == 5


def test_first_duplicate_and_row_not_finite_find_the_first() -> None:
    assert first_duplicate(np.array([3, 1, 3, 1])) == 1
    assert first_duplicate(np.array([3, 1, 2])) is None
    assert first_duplicate(np.array([], np.int64)) is None
    assert first_row_not_finite(np.array([[1, 2], [1, np.nan]], np.float32)) == 1
    assert first_row_not_finite(np.zeros((0, 2), np.float32)) is None


def test_errors_cross_process_borders() -> None:
    error = Arguments("user", 4).duplicate(5)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (type(error), str(error))
