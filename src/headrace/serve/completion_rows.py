"""Completions and votes as rows of the event log: what was asked, what was written, how likely it was, and by whom.

Every completion is an impression under the answer's key and the choice's place. A request for two completions of one
prompt is a comparison as well: one more impression, with both of them, under the item `pair`. A vote is an action on
that row, so the joiner makes an example of it exactly as it does of a click.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from headrace.data.text import jagged
from headrace.data.token_columns import COMPLETION, ENDED, LOG_PROBS, PROMPT, token_column
from headrace.data.votes import FIRST, PAIR, PREFER, SECOND
from headrace.errors import SchemaError
from headrace.feedback.reward import REWARD
from headrace.serve.arms import ARM, ARM_PROPENSITY
from headrace.serve.experiment import MAIN
from headrace.serve.openai_bodies import WritingRequest
from headrace.serve.writing_desk import Order, Writing
from headrace.types import Events

KINDS = (PREFER, REWARD)
"""What people may say of completions: which of two they prefer, and what one is worth."""
TIE = "tie"
FAVOUR = {"0": 1.0, "1": 0.0, TIE: 0.5}
"""The choice that was preferred, to the probability that the first one is the better."""


def completion_rows(order: Order, request: WritingRequest, key: str, time: int) -> list[Events]:
    """Return the rows of an answer: one for each completion that has a token, and their comparison if they are two.

    Args:
        order: What was written.
        request: What was asked.
        key: The answer's key.
        time: When, in µs since the epoch.
    """
    written = [(place, writing) for place, writing in enumerate(order.writings) if writing.tokens]
    if not written:
        return []
    config, rows = request.config, len(written)
    writings = [writing for _, writing in written]
    columns = {
        **_head(key, [str(place) for place, _ in written], time, order.version.number),
        "score": pa.array([math.exp(_sum(one) / len(one.tokens)) for one in writings], pa.float32()),
        "propensity": pa.array([math.exp(_sum(one)) for one in writings], pa.float64()),
        "policy": pa.repeat(pa.scalar(f"temperature={config.temperature:g} top_p={config.top_p:g}", pa.string()), rows),
        PROMPT: token_column(jagged([one.task.prompt for one in writings])),
        COMPLETION: token_column(jagged([one.tokens for one in writings])),
        LOG_PROBS: pa.array([one.log_probs for one in writings], pa.list_(pa.float32())),
        ENDED: pa.array([one.ended for one in writings], pa.bool_()),
    }  # fmt: skip
    found = [Events.from_columns(columns)]
    first, second = writings[0], writings[-1]
    if len(order.writings) == rows == 2 and first.task.prompt == second.task.prompt:
        found.append(Events.from_columns({
            **_head(key, [PAIR], time, order.version.number), PROMPT: token_column(jagged([first.task.prompt])),
            FIRST: token_column(jagged([first.tokens])), SECOND: token_column(jagged([second.tokens])),
        }))  # fmt: skip
    return found


def _head(key: str, items: Sequence[str], time: int, version: int) -> dict[str, pa.Array]:
    rows = len(items)
    same = {"key": key, "kind": "impression", ARM: MAIN}
    columns = {name: pa.repeat(pa.scalar(value, pa.string()), rows) for name, value in same.items()}
    return {**columns, "item": pa.array(items, pa.string()), "event_time": pa.array([time] * rows, pa.int64()),
            "version": pa.array([version] * rows, pa.int64()),
            ARM_PROPENSITY: pa.array([1.0] * rows, pa.float32())}  # fmt: skip


def _sum(writing: Writing) -> float:
    return math.fsum(writing.log_probs)


def votes(actions: Events) -> Events:
    """Return what people said, as rows that the joiner understands; refuses what means nothing here.

    A preference names the choice, `0` or `1`, or `tie`; it becomes an action on the comparison, with the probability
    that the first is the better as its value. A reward names the choice, and its value is what it is worth.

    Raises:
        SchemaError: For another kind, a choice that is none, or a reward without a value.
    """
    kinds, items = actions.column("kind").to_pylist(), actions.column("item").to_pylist()
    values = actions.column("value").to_pylist() if "value" in actions.names else [None] * len(kinds)
    named, said = [], []
    for row, (kind, item, value) in enumerate(zip(kinds, items, values, strict=True)):
        if kind == PREFER:
            if item not in FAVOUR or value is not None:
                got = f"{item!r}" if item not in FAVOUR else f"value {value:g}"
                raise SchemaError(f"Action {row}, item", got=got, expected=f"one of {sorted(FAVOUR)}, and no value")
            named.append(PAIR)
            said.append(FAVOUR[item])
        elif kind == REWARD:
            if value is None or not item.isascii() or not item.isdigit():
                got = "no value" if value is None else f"item {item!r}"
                raise SchemaError(f"Action {row}", got=got, expected="the choice's number as item, and a value")
            named.append(item)
            said.append(value)
        else:
            raise SchemaError(f"Action {row}, kind", got=repr(kind), expected=f"one of {list(KINDS)}")
    return actions.with_columns({
        "item": pa.array(named, pa.string()), "value": pa.array(np.asarray(said), pa.float32()),
    })  # fmt: skip
