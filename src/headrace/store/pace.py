"""How many updates of its table a row has missed: kept in the last slot of the row, for what depends on it.

The slot holds the number of the update in which the row last learned, modulo 2^24 and counted from 1, which float32
holds exactly; 0 where it has not learned yet. A slot, unlike the mark of a row's last change, is part of every state
and snapshot.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from headrace.store.row_rules import FloatArray, Pace, PacedRule, powers
from headrace.store.table_config import TableConfig

_TURN = 2**24


def slot_value(update: int) -> np.float32:
    """Return what the last slot of a row holds that learns in update `update`."""
    return np.float32((update - 1) % _TURN + 1)


def missed(last: FloatArray, update: int) -> npt.NDArray[np.int64]:
    """Return how many updates rows with these last slots (N,) have missed before update `update`.

    None where the slot is from a table that has seen more updates than this one.

    Example:
        >>> missed(np.array([0.0, 9.0, 4.0], np.float32), 10).tolist()
        [0, 0, 5]
    """
    known = (last >= 1.0) & (last <= _TURN)
    before = np.where(known, last, np.float32(1.0)).astype(np.int64)
    since = (int(slot_value(update)) - before - 1) % _TURN
    return np.where(known & (since + 1 < update), since, 0)


def decayed(rows: FloatArray, missed_N: npt.NDArray[np.int64], rate: np.float32, lost: np.float32) -> FloatArray:
    """Return rows (N, D) times ``max(0, 1 - rate*lost)^missed``: that factor in float64, then rounded to float32.

    The usual parts lost are far below what float32 tells from nothing beside 1.
    """
    factors = powers(np.float64(max(0.0, 1.0 - float(rate) * float(lost))), missed_N).astype(np.float32)
    return np.where((missed_N > 0)[:, None], rows * factors[:, None], rows)


def step_rows(
    config: TableConfig, rows: FloatArray, slots: FloatArray, grads: FloatArray, rate: np.float32, update: int
) -> None:
    """Change rows (N, D) and slots (N, S) in place by update number `update` with gradients (N, D)."""
    rule = config.rule
    if not config.paced:
        rule.step(rows, slots, grads, rate)
        return
    own, pace = slots[:, :-1], Pace(update, missed(slots[:, -1], update))
    slots[:, -1] = slot_value(update)
    rows[:] = decayed(rows, pace.missed, rate, config.lost_when_missed)
    if isinstance(rule, PacedRule) and rule.paced:
        rule.step_paced(rows, own, grads, rate, pace)
    else:
        rule.step(rows, own, grads, rate)
