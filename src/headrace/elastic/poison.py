"""Finding the rows that cannot be read or learned: by halving, down to single rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from headrace.elastic.rows import RowReader
from headrace.elastic.sequence import Piece
from headrace.elastic.sync_step import Plan
from headrace.errors import DataError, HeadraceError, NumericError
from headrace.learn import RankLearner
from headrace.types import Batch

PROBES = 5
"""Rows that are looked at first; where all of them are bad, no row is at fault."""
Test = Callable[[Sequence[Piece]], str]
"""Returns what is wrong with the rows of pieces; '' for nothing."""


def bad_rows(reader: RowReader, learner: RankLearner, plan: Plan, error: HeadraceError) -> list[list[Any]]:
    """Return shard, fence, position and reason of every row of a worker's part that is at fault by itself.

    Args:
        reader: Reads rows.
        learner: Computes losses; it is as before afterwards.
        plan: The worker's part.
        error: What reading or learning it raised.

    Cost: for n bad rows about 2 n log2(rows) readings or losses of halves.
    """

    def test(pieces: Sequence[Piece]) -> str:
        try:
            batch = reader.read(pieces)
            return "" if batch is None else _loss_of(learner, batch)
        except (DataError, NumericError) as found:  # from reading, or an objective that looks at its labels
            return str(found)

    singles = _some(plan.pieces)
    if len(singles) > 2 and all(test([single]) for single in singles):
        return []  # whatever row it is: the weights are at fault
    return [[piece.grant.shard, piece.grant.fence, piece.start, reason]
            for whole in plan.pieces for piece, reason in halved(whole, test)]  # fmt: skip


def _some(pieces: Sequence[Piece]) -> list[Piece]:
    """Return a few single rows of pieces."""
    rows = [Piece(piece.grant, place, place + 1) for piece in pieces for place in range(piece.start, piece.stop)]
    return rows[:: max(len(rows) // PROBES, 1)][:PROBES]


def halved(piece: Piece, test: Test) -> list[tuple[Piece, str]]:
    """Return the single rows of a piece that do not pass a test, with what is wrong."""
    reason = test([piece])
    if not reason:
        return []
    if piece.rows == 1:
        return [(piece, reason)]
    middle = piece.start + piece.rows // 2
    left, right = Piece(piece.grant, piece.start, middle), Piece(piece.grant, middle, piece.stop)
    return [*halved(left, test), *halved(right, test)]


def _loss_of(learner: RankLearner, batch: Batch) -> str:
    """Return what is wrong with the loss or a gradient of examples; nothing is changed."""
    with learner.untouched():
        loss = learner.objective(learner.model, batch)
        total = float(loss.total.detach())
        if not math.isfinite(total):
            return f"a loss of {total}"
        loss.total.backward()  # type: ignore[no-untyped-call]
        for name, parameter in learner.model.named_parameters():
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                return f"NaN or infinity in the gradient of '{name}'"
    return ""
