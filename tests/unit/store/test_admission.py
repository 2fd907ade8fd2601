from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from headrace.errors import ConfigError
from headrace.store import SGD, AdmitAll, AdmitCount, AdmitProbability, TableConfig, Zeros
from headrace.store.admission import Admission
from headrace.store.checked import CheckedTable

Update = Callable[..., None]


def make(kind: type[CheckedTable], admission: Admission, seed: int = 0) -> CheckedTable:
    return kind(TableConfig(name="t", dim=2, rule=SGD(lr=1.0), init=Zeros(), admission=admission, seed=seed))


def value(table: CheckedTable, one: int) -> float:
    return float(table.lookup(torch.tensor([one]))[0, 0])


def test_admit_all_learns_from_the_first_gradient(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind, AdmitAll())
    update(table, [7])
    assert value(table, 7) == -1.0
    assert table.stats().admitted == 1


def test_the_update_that_reaches_the_threshold_inserts_and_learns(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind, AdmitCount(3))
    update(table, [7], counts=2)
    assert len(table) == 0
    update(table, [7], counts=1)
    assert value(table, 7) == -1.0  # only the second gradient was learned
    stats = table.stats()
    assert (stats.rows, stats.admitted, stats.filtered, stats.pending) == (1, 1, 1, 0)


def test_occurrences_within_one_update_count_each(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind, AdmitCount(3))
    update(table, [1, 2], counts=[3, 2])
    assert table.contains(torch.tensor([1, 2])).tolist() == [True, False]


def test_an_admitted_id_is_not_asked_again(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind, AdmitCount(2))
    update(table, [1], counts=2)
    update(table, [1], counts=1)
    assert value(table, 1) == -2.0
    assert table.stats().filtered == 0


def test_an_id_that_waits_reads_its_initial_row_and_is_no_change(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind, AdmitCount(5))
    update(table, [1])
    assert value(table, 1) == 0.0
    assert len(table.changes(0)) == 0
    assert table.stats().pending == 1


def test_filtered_counts_gradients_of_ids_without_a_row(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind, AdmitCount(10))
    for _ in range(3):
        update(table, [1, 2, 3])
    assert table.stats().filtered == 9


def test_removal_forgets_a_count(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind, AdmitCount(3))
    update(table, [1], counts=2)
    assert table.remove(torch.tensor([1])) == 0
    update(table, [1], counts=2)
    assert len(table) == 0


def test_assigning_a_row_forgets_the_count_and_passes_admission(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind, AdmitCount(3))
    update(table, [1], counts=2)
    table.assign(torch.tensor([1]), torch.ones(1, 2))
    assert (len(table), table.stats().pending) == (1, 0)
    table.remove(torch.tensor([1]))
    update(table, [1], counts=2)
    assert len(table) == 0


def test_a_huge_count_does_not_overflow(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind, AdmitCount(2**61))
    update(table, [1], counts=2**61 - 1)
    assert len(table) == 0
    update(table, [1], counts=2**63 - 1)
    assert len(table) == 1


def test_probability_admits_about_its_share_and_the_same_ids_again(kind: type[CheckedTable], update: Update) -> None:
    tables = [make(kind, AdmitProbability(0.25)) for _ in range(2)]
    for table in tables:
        update(table, list(range(4000)))
    assert abs(len(tables[0]) / 4000 - 0.25) < 0.03
    assert torch.equal(tables[0].rows().ids, tables[1].rows().ids)


def test_probability_counts_every_occurrence(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind, AdmitProbability(0.25))
    update(table, list(range(4000)), counts=4)
    assert abs(len(table) / 4000 - (1 - 0.75**4)) < 0.03


def test_probability_draws_anew_in_every_update_and_for_every_seed(kind: type[CheckedTable], update: Update) -> None:
    one, other = make(kind, AdmitProbability(0.5)), make(kind, AdmitProbability(0.5), seed=1)
    for table in (one, other):
        update(table, list(range(500)))
    first = one.rows().ids.tolist()
    assert first != other.rows().ids.tolist()
    update(one, list(range(500)))
    assert len(first) < len(one) < 500


def test_probability_keeps_no_counts(kind: type[CheckedTable], update: Update) -> None:
    table = make(kind, AdmitProbability(0.01))
    update(table, list(range(100)))
    assert table.stats().pending == 0


def test_probability_does_not_use_the_randomness_of_initial_rows() -> None:
    config = TableConfig(name="t", dim=1)
    assert config.row_key != config.admission_key


def test_powers_by_squaring_are_powers() -> None:
    admission = AdmitProbability(0.5)
    counts = np.array([1, 2, 60, 2**63 - 1])
    shares = [admission.admits(3, np.arange(20_000), np.full(20_000, count), 1).mean() for count in counts]
    assert abs(shares[0] - 0.5) < 0.02
    assert abs(shares[1] - 0.75) < 0.02
    assert shares[2:] == [1.0, 1.0]


def test_reaching_gives_the_chance_asked_for() -> None:
    p = AdmitProbability.reaching(20, 0.9).probability
    assert abs(1 - (1 - p) ** 20 - 0.9) < 1e-12


@pytest.mark.parametrize(
    "wrong",
    [lambda: AdmitCount(0), lambda: AdmitProbability(0.0), lambda: AdmitProbability(1.5),
     lambda: AdmitProbability.reaching(0), lambda: AdmitProbability.reaching(5, 1.0)],
)  # fmt: skip
def test_a_value_that_cannot_work_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        wrong()
