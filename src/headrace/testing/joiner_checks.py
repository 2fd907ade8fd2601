"""The contract of `Joiner`, as a check."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np

from headrace.protocols import Joiner
from headrace.testing.contract import CONTRACTS, Contract, Verdict
from headrace.testing.equivalence import first_difference
from headrace.testing.plain import copied_state, not_plain
from headrace.types import Batch, Events

CONTRACTS["Joiner"] = {
    1: "add and flush return a Batch with examples, or None",
    2: "every example is emitted once",
    3: "the same rows give the same examples, in the same order",
    4: "repeating an add with the same rows adds nothing",
    5: "after flush nothing is pending: flushing again gives None",
    6: "restore(state()) continues exactly, at any point",
    7: "predictions and versions travel with their examples",
    8: "the examples have the expected labels",
    9: "rows in another order within the watermark give the same set of examples",
    10: "restore refuses the state of another configuration before changing anything",
    11: "state is plain values, bytes and tensors, and a snapshot: later adds do not change it",
}

Chunk: TypeAlias = tuple[Events, Events | None, Events | None]
"""What one `add` is given: requests, predictions, answers."""

Row: TypeAlias = dict[str, float | int | str]
COLUMNS = (
    "example_ids", "labels", "weights", "event_times", "accepted_times", "predictions", "versions", "sample_rates",
)  # fmt: skip


def check_joiner(
    make: Callable[[], Joiner], chunks: Sequence[Chunk], *, expected: Mapping[int, float] | None = None,
    shuffled: Sequence[Chunk] | None = None, others: Sequence[Callable[[], Joiner]] = (), repeats: bool = True,
) -> Verdict:  # fmt: skip
    """Put a joiner through the contract of `Joiner`.

    Args:
        make: Returns a fresh joiner, every time with the same configuration.
        chunks: At least three adds, in order.
        expected: Example id to label, of all examples that the chunks must give.
        shuffled: The same rows in another order, as far as the joiner's watermark allows.
        others: Return joiners of other configurations, whose states must be refused.
        repeats: False leaves clause 4 untried, for a joiner that stands behind a source which repeats no row.

    Returns:
        Which clauses held and which could not be tried.

    Raises:
        ContractViolation: At the first clause that does not hold.
    """
    contract, joiner = Contract("Joiner"), make()
    batches = _run(contract, joiner, chunks)
    rows = _rows(contract, batches)
    contract.require(1, bool(rows), "no example came out; give the check more rows")
    contract.require(5, joiner.flush() is None, "a second flush gave examples")
    contract.same(3, first_difference(rows, _rows(contract, _run(contract, make(), chunks)), path="examples"), "again")
    if repeats:
        repeated = _rows(contract, _run(contract, make(), chunks, repeat=True))
        contract.same(4, first_difference(_set(rows), _set(repeated), path="examples"), "with every add repeated")
    _resumed_joiner(contract, make, chunks, rows)
    if any(predictions is not None for _, predictions, _ in chunks):
        _carried(contract, chunks, rows)
    if expected is not None:
        labels = {int(row["example_ids"]): float(row["labels"]) for row in rows}
        contract.same(8, first_difference(dict(expected), labels, path="labels"), "expected and emitted")
    if shuffled is not None:
        other = _set(_rows(contract, _run(contract, make(), shuffled)))
        contract.same(9, first_difference(_set(rows), other, path="examples"), "in another order")
    _refused_states(contract, make, chunks, others)
    return contract.verdict()


def _run(contract: Contract, joiner: Joiner, chunks: Sequence[Chunk], *, repeat: bool = False) -> list[Batch | None]:
    batches: list[Batch | None] = []
    for chunk in chunks:
        batches += [joiner.add(*chunk) for _ in range(2 if repeat else 1)]
    batches.append(joiner.flush())
    for batch in batches:
        contract.require(1, batch is None or isinstance(batch, Batch), f"got a {type(batch).__name__}")
        contract.require(1, batch is None or len(batch) > 0, "got an empty Batch")
    return batches


def _rows(contract: Contract, batches: Sequence[Batch | None]) -> list[Row]:
    """Return the examples one by one, in order, and require that no id comes twice."""
    rows: list[Row] = []
    for batch in batches:
        if batch is None:
            continue
        columns = {name: getattr(batch, name).tolist() for name in COLUMNS}
        for place in range(len(batch)):
            row: Row = {name: values[place] for name, values in columns.items()}
            for name, jagged in batch.ids.items():
                begin, end = int(jagged.offsets[place]), int(jagged.offsets[place + 1])
                row[f"ids.{name}"] = str(jagged.values[begin:end].tolist())
            for column, value in enumerate(batch.dense[place].tolist()):
                row[f"dense.{column}"] = value
            rows.append(row)
    numbers = [int(row["example_ids"]) for row in rows]
    twice = [number for number, count in Counter(numbers).items() if count > 1]
    contract.require(2, not twice, f"{len(twice)} example ids came more than once, {twice[:3]} among them")
    return rows


def _set(rows: Sequence[Row]) -> dict[str, object]:
    return {str(row["example_ids"]): row for row in rows}


def _resumed_joiner(
    contract: Contract, make: Callable[[], Joiner], chunks: Sequence[Chunk], rows: Sequence[Row]
) -> None:
    for stop in sorted({1, len(chunks) // 2, len(chunks) - 1}):
        first, second, batches = make(), make(), list[Batch | None]()
        batches += [first.add(*chunk) for chunk in chunks[:stop]]
        state = first.state()
        contract.same(11, not_plain(state), "found")
        frozen = copied_state(state)
        second.restore(copied_state(state))
        contract.same(6, first_difference(frozen, second.state()), "the state right after restore")
        for chunk in chunks[stop:]:
            batches.append(second.add(*chunk))
            first.add(*chunk)
        contract.same(11, first_difference(frozen, state), "a state taken earlier")
        batches.append(second.flush())
        same = first_difference(list(rows), _rows(contract, batches), path="examples")
        contract.same(6, same, f"stopped after add {stop}")


def _carried(contract: Contract, chunks: Sequence[Chunk], rows: Sequence[Row]) -> None:
    """Require that the examples' predictions are, as a multiset, among those that were made."""
    made: dict[tuple[int, float], int] = {}
    for requests, predictions, _ in chunks:
        if predictions is None:
            continue
        scores = np.asarray(predictions.column("score").to_numpy(zero_copy_only=False), dtype=np.float32)
        versions = predictions.column("version").to_pylist()
        for time, score, version in zip(requests.times.tolist(), scores.tolist(), versions, strict=True):
            made[(time, score)] = version
    for row in rows:
        score = float(row["predictions"])
        if math.isnan(score):
            continue
        version = made.get((int(row["event_times"]), score))
        contract.require(7, version is not None, f"no prediction {score} was made at {row['event_times']}")
        contract.require(7, version == row["versions"], f"a prediction of version {version} came as {row['versions']}")
    none = all(math.isnan(float(row["predictions"])) for row in rows)
    contract.require(7, not none, "no example has its prediction")


def _refused_states(
    contract: Contract, make: Callable[[], Joiner], chunks: Sequence[Chunk], others: Sequence[Callable[[], Joiner]]
) -> None:
    joiner = make()
    joiner.add(*chunks[0])
    held = copied_state(joiner.state())
    for number, other in enumerate(others):
        foreign = other().state()
        contract.refuses(10, partial(joiner.restore, foreign), f"the state of other joiner {number}")
        contract.same(10, first_difference(held, joiner.state()), "the state after a refused restore")
