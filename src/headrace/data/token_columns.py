"""Lists of tokens in Arrow columns, and as runs with offsets."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from headrace.errors import SchemaError
from headrace.types import Events, Jagged

PROMPT, COMPLETION, LOG_PROBS, ENDED = "prompt_ids", "completion_ids", "log_probs", "ended"
"""Columns of a completion: what was asked, what was answered, how likely every token of it was, and whether it ended
by itself."""


def token_column(tokens: Jagged) -> pa.Array:
    """Return sequences of tokens as a column of lists of int32."""
    values = pa.array(tokens.values.numpy().astype(np.int32), pa.int32())
    return pa.ListArray.from_arrays(pa.array(tokens.offsets.numpy().astype(np.int32), pa.int32()), values)


def number_column(values: Tensor, offsets: Tensor) -> pa.Array:
    """Return sequences of numbers as a column of lists of float32; values (L,), offsets (B+1,)."""
    whole = pa.array(values.detach().numpy().astype(np.float32), pa.float32())
    return pa.ListArray.from_arrays(pa.array(offsets.numpy().astype(np.int32), pa.int32()), whole)


def tokens_of(events: Events, name: str) -> Jagged:
    """Return a column of lists of whole numbers as sequences.

    Raises:
        SchemaError: If it is missing, holds something else, or a row or an element has no value.
    """
    flat, offsets = _list(events, name)
    if not pa.types.is_integer(flat.type):
        raise SchemaError(f"Column '{name}'", got=f"lists of {flat.type}", expected="lists of whole numbers")
    return Jagged(torch.from_numpy(np.array(flat.to_numpy(zero_copy_only=False), dtype=np.int64)), offsets)


def numbers_of(events: Events, name: str) -> tuple[Tensor, Tensor]:
    """Return a column of lists of numbers as values (L,) float32 and offsets (B+1,).

    Raises:
        SchemaError: If it is missing, holds something else, or a row or an element has no value.
    """
    flat, offsets = _list(events, name)
    if not (pa.types.is_floating(flat.type) or pa.types.is_integer(flat.type)):
        raise SchemaError(f"Column '{name}'", got=f"lists of {flat.type}", expected="lists of numbers")
    return torch.from_numpy(np.array(flat.to_numpy(zero_copy_only=False), dtype=np.float32)), offsets


def _list(events: Events, name: str) -> tuple[pa.Array, Tensor]:
    column = events.column(name)
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise SchemaError(f"Column '{name}'", got=f"type {kind}", expected="lists of numbers")
    flat = column.flatten()
    if column.null_count or flat.null_count:
        raise SchemaError(f"Column '{name}'", got="a row or an element without a value", expected="lists of numbers",
                          do="An empty sequence is an empty list.")  # fmt: skip
    lengths = np.asarray(pc.list_value_length(column).to_numpy(zero_copy_only=False), dtype=np.int64)
    return flat, torch.from_numpy(np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]))
