"""Votes between two completions: rows of comparisons with what people said, to batches of preferences."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from headrace.data.completions import CHOSEN, REJECTED, preference_batch
from headrace.errors import SchemaError
from headrace.types import Batch, Events

FIRST, SECOND = "first_ids", "second_ids"
"""Columns of a comparison: the two completions, as they were shown."""
PAIR, PREFER = "pair", "prefer"
"""Item of a comparison's row, and kind of the action that says which completion is the better one."""


def vote_batch(rows: Events) -> Batch:
    """Return comparisons as a batch of preferences: what was preferred is `chosen`, and labels say how surely.

    The column `label` of a row is the probability that the first completion is the better one: 1, 0, or 0.5 for a tie.

    Raises:
        SchemaError: If a column is missing, of another type, or a label is no probability.
    """
    labels = rows.column("label").cast(pa.float32())
    fits = pc.and_(pc.greater_equal(labels, 0.0), pc.less_equal(labels, 1.0))
    if labels.null_count or not pc.all(fits, min_count=0).as_py():
        raise SchemaError("Votes, column 'label'", got="a row outside 0 to 1", expected="probabilities")
    first = pc.greater_equal(labels, 0.5)
    one, other = rows.column(FIRST), rows.column(SECOND)
    mirrored = pc.subtract(pa.scalar(1.0, pa.float32()), labels)
    return preference_batch(rows.with_columns({
        CHOSEN: _where(first, one, other), REJECTED: _where(first, other, one),
        "label": pc.if_else(first, labels, mirrored),
    }))  # fmt: skip


def _where(mask: pa.Array, one: pa.Array, other: pa.Array) -> pa.Array:
    """Return lists row by row from one column or the other."""
    if one.type != other.type:
        raise SchemaError("Votes", got=f"completions of {one.type} and {other.type}", expected="one type")
    both, count = pa.concat_arrays([one, other]), len(one)
    places = pc.if_else(mask, pa.array(range(count), pa.int64()), pa.array(range(count, 2 * count), pa.int64()))
    return both.take(places)
