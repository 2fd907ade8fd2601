"""The role Joiner over an event-time join: predictions as made travel with their impressions into the batch."""

from __future__ import annotations

from dataclasses import fields
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import torch

from headrace.data.token_columns import COMPLETION, ENDED, LOG_PROBS, PROMPT
from headrace.errors import JoinError
from headrace.protocols import Joiner
from headrace.types import Batch, Events, Jagged, State

PREDICTED = ("score", "version", "score_logged", PROMPT, COMPLETION, LOG_PROBS, ENDED)
"""Columns of a prediction that its example keeps: what was said, and how a completion was drawn."""


class Join(Protocol):
    """What the joiner needs of a join of events."""

    def push(self, events: Events, *more: Events) -> Events | None:
        """Take rows and return the examples that are complete."""
        ...

    def flush(self) -> Events | None:
        """Return the examples still pending."""
        ...

    def state(self) -> State:
        """Return what is pending."""
        ...

    def restore(self, state: State) -> None:
        """Continue."""
        ...


class EventJoiner:
    """Requests, predictions and answers to batches: a join, then a collator.

    Args:
        join: The event-time join; of the requests, rows of kind `impression` and positive actions concern it.
        collator: Turns example rows into batches (`headrace.data.collate.Collator`).
    """

    def __init__(self, join: Join, collator: Joiner) -> None:
        self.join, self.collator = join, collator

    def add(self, requests: Events, predictions: Events | None, answers: Events | None) -> Batch | None:
        """Add rows and return the examples that are complete now, or None."""
        rows = [requests if predictions is None else scored(requests, predictions)]
        if answers is not None and len(answers):
            rows.append(answers)
        examples = self.join.push(*rows)
        return None if examples is None else self.collator.add(examples, None, None)

    def flush(self) -> Batch | None:
        """Return what is still pending, as if the watermark had passed everything."""
        examples = self.join.flush()
        first = None if examples is None else self.collator.add(examples, None, None)
        return _together(first, self.collator.flush())

    def state(self) -> State:
        """Return the states of the join and of the collator."""
        return {"join": self.join.state(), "collator": self.collator.state()}

    def restore(self, state: State) -> None:
        """Continue.

        Raises:
            ConfigError: If either state was written with other settings; nothing was changed.
        """
        join, collator = state["join"], state["collator"]
        assert isinstance(join, dict)
        assert isinstance(collator, dict)
        held = self.collator.state()
        self.collator.restore(collator)
        try:
            self.join.restore(join)
        except BaseException:
            self.collator.restore(held)  # refused as a whole
            raise


def scored(requests: Events, predictions: Events) -> Events:
    """Return the requests with the score and version of their predictions; rows that are no impressions get none.

    Raises:
        JoinError: If the predictions do not belong to the requests, row by row.
    """
    pairs = [name for name in ("key", "item") if name in requests.names and name in predictions.names]
    if not all(requests.column(name).equals(predictions.column(name)) for name in pairs):
        raise JoinError(
            "Predictions", got=f"{len(predictions)} rows, or rows of other keys and items", expected="one per request "
            f"row ({len(requests)}), in the same order", do="Return one prediction per row from predict().",
        )  # fmt: skip
    columns: dict[str, pa.Array] = {n: predictions.column(n) for n in PREDICTED if n in predictions.names}
    shown = pc.equal(requests.column("kind"), "impression")
    if not pc.all(shown, min_count=0).as_py():
        columns = {n: pc.if_else(shown, each, pa.nulls(len(shown), each.type)) for n, each in columns.items()}
    return requests.with_columns(columns)


def _together(first: Batch | None, second: Batch | None) -> Batch | None:
    if first is None or second is None:
        return second if first is None else first
    columns = {
        item.name: torch.cat([getattr(first, item.name), getattr(second, item.name)])
        for item in fields(Batch) if item.name not in ("ids", "extra")
    }  # fmt: skip
    extra = {name: torch.cat([first.extra[name], second.extra[name]]) for name in first.extra}
    ids = {name: _jagged(first.ids[name], second.ids[name]) for name in first.ids}
    return Batch(ids=ids, extra=extra, **columns)


def _jagged(first: Jagged, second: Jagged) -> Jagged:
    offsets = torch.cat([first.offsets, second.offsets[1:] + first.offsets[-1]])
    return Jagged(torch.cat([first.values, second.values]), offsets)
