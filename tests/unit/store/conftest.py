"""What the tests of the store share: both kinds of table, and short ways to say an update."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from headrace.store import NativeTable, ReferenceTable
from headrace.store.checked import CheckedTable
from headrace.store.table import load_native

Update = Callable[..., None]


@pytest.fixture(params=[ReferenceTable, NativeTable], ids=["reference", "native"])
def kind(request: pytest.FixtureRequest) -> type[CheckedTable]:
    """Each kind of table in turn."""
    if request.param is NativeTable and load_native() is None:
        pytest.skip("the native module is not built")
    table: type[CheckedTable] = request.param
    return table


@pytest.fixture
def update() -> Update:
    """Return update(table, ids, grad=1.0, counts=1, times=0): the same gradient everywhere unless given."""

    def call(
        table: CheckedTable,
        ids: Sequence[int],
        grad: float | torch.Tensor = 1.0,
        counts: int | Sequence[int] = 1,
        times: int | Sequence[int] = 0,
    ) -> None:
        n = len(ids)
        grads = grad if isinstance(grad, torch.Tensor) else torch.full((n, table.config.dim), grad)
        table.update(
            torch.tensor(ids, dtype=torch.int64),
            grads,
            torch.tensor([counts] * n if isinstance(counts, int) else counts, dtype=torch.int64),
            torch.tensor([times] * n if isinstance(times, int) else times, dtype=torch.int64),
        )

    return call
