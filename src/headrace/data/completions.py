"""Rows of texts, completions and preferences to batches of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from headrace.config import require
from headrace.data.hashing import example_ids, hash_strings
from headrace.data.text import TextCodec
from headrace.data.token_columns import COMPLETION, ENDED, LOG_PROBS, PROMPT, numbers_of, token_column, tokens_of
from headrace.errors import ConfigError, DataError, JoinError, SchemaError
from headrace.types import Batch, Events, Jagged, State

TOKENS, TAUGHT = "tokens", "taught"
CHOSEN, REJECTED = "chosen_ids", "rejected_ids"


def completion_batch(rows: Events) -> Batch:
    """Return completions as a batch: features `prompt` and `completion`, the reward as label.

    Extras: `log_probs` (B, T), zeros behind the end of a completion, where rows have them; `ended` (B,), and `groups`
    (B,), equal numbers for rows of one key.

    Raises:
        SchemaError: If a column is missing or of another type.
        DataError: If log-probabilities are not those of the completion's tokens.
    """
    prompts, answers = tokens_of(rows, PROMPT), tokens_of(rows, COMPLETION)
    extra: dict[str, Tensor] = {"groups": torch.from_numpy(hash_strings(rows.column("key")))}
    if LOG_PROBS in rows.names:
        values, offsets = numbers_of(rows, LOG_PROBS)
        if not torch.equal(offsets, answers.offsets):
            raise DataError(f"Column '{LOG_PROBS}'", got="rows of other lengths", expected=f"those of '{COMPLETION}'")
        lengths_B = offsets.diff()
        there_BT = torch.arange(int(lengths_B.max()) if len(lengths_B) else 0) < lengths_B.unsqueeze(1)
        extra[LOG_PROBS] = torch.zeros(there_BT.shape).masked_scatter(there_BT, values)
    if ENDED in rows.names:
        extra[ENDED] = _floats(rows, ENDED, 0.0)
    return token_batch(rows, {"prompt": prompts, "completion": answers}, extra)


def preference_batch(rows: Events) -> Batch:
    """Return pairs as a batch: features `prompt`, `chosen`, `rejected`; labels say how surely, 1 where nothing does.

    Raises:
        SchemaError: If a column is missing or of another type.
    """
    names = {"prompt": PROMPT, "chosen": CHOSEN, "rejected": REJECTED}
    return token_batch(rows, {name: tokens_of(rows, column) for name, column in names.items()}, {}, label=1.0)


def text_batch(rows: Events) -> Batch:
    """Return texts as a batch: feature `tokens`, and `taught` where rows say what to learn.

    Raises:
        SchemaError: If a column is missing or of another type.
    """
    names = [TOKENS, *([TAUGHT] if TAUGHT in rows.names else [])]
    return token_batch(rows, {name: tokens_of(rows, name) for name in names}, {}, label=1.0)


def text_examples(texts: Sequence[str], codec: TextCodec, length: int, *, name: str = "text") -> Events:
    """Return texts as rows for `text_batch`: tokens with begin and end, long texts cut into pieces of `length` tokens.

    A row is a piece: `key` says which text, `item` which piece of it. Nothing is lost at a cut, except that the next
    piece does not see what stood before it.

    Args:
        texts: Texts.
        codec: Turns them to tokens.
        length: Most tokens of a row; at most the model's `max_length`.
        name: Begins every key; give every part of a corpus another one.

    Raises:
        ConfigError: If the length is below 2: a single token teaches nothing.
    """
    require(length >= 2, "text_examples, length", got=length, expected="2 or more")
    tokens = codec.encode(texts, begin=codec.begin is not None, end=codec.end is not None)
    keys, items, starts = list[str](), list[str](), [0]
    for row, (begin, end) in enumerate(pairwise(tokens.offsets.tolist())):
        for piece, at in enumerate(range(begin, end, length)):
            keys.append(f"{name}/{row}")
            items.append(str(piece))
            starts.append(min(at + length, end))
    columns = {"key": keys, "kind": ["example"] * len(keys), "event_time": [0] * len(keys), "item": items}
    return Events.from_columns({**columns, TOKENS: token_column(Jagged(tokens.values, torch.tensor(starts)))})


def token_batch(rows: Events, ids: dict[str, Jagged], extra: dict[str, Tensor], *, label: float = 0.0) -> Batch:
    """Return a batch with these features; what every example has is read from its columns, or its usual value."""
    count = len(rows)
    items = rows.column("item") if "item" in rows.names else pa.nulls(count, pa.string())
    own = "example_id" in rows.names
    numbers = _integers(rows, "example_id", 0) if own else torch.from_numpy(example_ids(rows.column("key"), items))
    return Batch(
        ids=ids, dense=torch.zeros(count, 0), labels=_floats(rows, "label", label),
        weights=_floats(rows, "weight", 1.0), event_times=torch.from_numpy(np.array(rows.times)),
        accepted_times=_integers(rows, "accepted_time", 0), example_ids=numbers,
        predictions=_floats(rows, "score", float("nan")), versions=_integers(rows, "version", -1),
        sample_rates=_floats(rows, "sample_rate", 1.0), extra=extra,
    )  # fmt: skip


class TokenCollator:
    """A `Joiner` for rows of tokens that are examples already: it cuts them into batches of so many rows.

    Give it to `EventJoiner` behind a join, or alone to `headrace.loop.fit`. The cuts depend on the rows alone, not on
    how they arrived.

    Args:
        read: Turns rows to a batch: `completion_batch`, `preference_batch`, `text_batch`, or your own.
        batch_rows: Rows per batch.

    Raises:
        ConfigError: If `batch_rows` is not positive.
    """

    def __init__(self, read: Callable[[Events], Batch], batch_rows: int) -> None:
        require(batch_rows >= 1, "TokenCollator, batch_rows", got=batch_rows, expected="a positive integer")
        self.read, self.batch_rows = read, batch_rows
        self._rest: Events | None = None

    def add(self, requests: Events, predictions: Events | None = None, answers: Events | None = None) -> Batch | None:
        """Take examples and return those that fill whole batches, or None.

        Raises:
            JoinError: If there are predictions or answers: they would have to be joined first.
            DataError: If the rows cannot be read; nothing was taken.
        """
        if predictions is not None or (answers is not None and len(answers)):
            raise JoinError("TokenCollator", got="predictions or answers", expected="rows that are examples already",
                            do="Use EventJoiner to join answers to requests.")  # fmt: skip
        rows = requests if self._rest is None else Events.concat([self._rest, requests])
        whole = len(rows) - len(rows) % self.batch_rows
        batch = self.read(rows if whole == 0 else rows.slice(0, whole))  # what cannot be read is refused at once
        self._rest = rows.slice(whole) if whole < len(rows) else None
        return batch if whole else None

    def flush(self) -> Batch | None:
        """Return the rows that filled no batch, or None."""
        rows, self._rest = self._rest, None
        return None if rows is None else self.read(rows)

    def state(self) -> State:
        """Return the remainder as Arrow bytes."""
        return {"batch_rows": self.batch_rows, "rest": b"" if self._rest is None else self._rest.to_bytes()}

    def restore(self, state: State) -> None:
        """Continue with a remainder.

        Raises:
            ConfigError: If it was cut for another `batch_rows`.
            DataError: If its rows cannot be read.
        """
        require(bool(state.get("batch_rows") == self.batch_rows), "TokenCollator, batch_rows",
                got=state.get("batch_rows"), expected=str(self.batch_rows),
                do="Restore with the batch_rows of the saved run.")  # fmt: skip
        content = state.get("rest")
        if not isinstance(content, bytes):
            raise ConfigError("TokenCollator state, rest", got=type(content).__name__, expected="Arrow bytes")
        rest = Events.from_bytes(content) if content else None
        if rest is not None:
            self.read(rest)
        self._rest = rest


def _floats(rows: Events, name: str, default: float) -> Tensor:
    return torch.from_numpy(_column(rows, name, default, pa.float32(), np.float32))


def _integers(rows: Events, name: str, default: int) -> Tensor:
    return torch.from_numpy(_column(rows, name, default, pa.int64(), np.int64))


def _column(rows: Events, name: str, default: float, kind: pa.DataType, dtype: type[np.generic]) -> np.ndarray:
    if name not in rows.names:
        return np.full(len(rows), default, dtype=dtype)
    try:
        column = rows.column(name).cast(kind).fill_null(pa.scalar(default, kind))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaError(f"Column '{name}'", got=f"type {rows.column(name).type}", expected=str(kind),
                          do="Cast the column.") from error  # fmt: skip
    return np.array(column.to_numpy(zero_copy_only=False), dtype=dtype)
