"""The audit of a ledger: was every example learned exactly once, and is each that was not explained?"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headrace.config import require

SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What a ledger says.

    Attributes:
        examples: How many there were to learn.
        learned: How many were learned as often as they should.
        lost: Learned less often than they should, and on no list.
        doubled: Learned more often.
        unaccounted: Of which the ledger and the list of quarantined examples say different things (quarantined, yet
            learned), or which are none of the examples.
        quarantined: Set aside, with the reason.
    """

    examples: int
    learned: int
    lost: tuple[int, ...]
    doubled: tuple[int, ...]
    unaccounted: tuple[int, ...]
    quarantined: Mapping[int, str]

    @property
    def clean(self) -> bool:
        """Whether nothing was lost, doubled or left unexplained."""
        return not (self.lost or self.doubled or self.unaccounted)

    def text(self) -> str:
        """Return it for people."""
        parts = [f"{self.examples:,} examples: {self.learned:,} learned, {len(self.quarantined)} quarantined"]
        for name in ("lost", "doubled", "unaccounted"):
            found: tuple[int, ...] = getattr(self, name)
            more = " ..." if len(found) > SHOWN else ""
            parts.append(f"{len(found)} {name}" + (f" ({', '.join(map(str, found[:SHOWN]))}{more})" if found else ""))
        lines = [", ".join(parts)]
        return "\n".join([*lines, *(f"  quarantined {row}: {why}" for row, why in self.quarantined.items())])


def audit(
    counts: npt.ArrayLike, *, epochs: int = 1, quarantined: Mapping[int, str] | Collection[int] = (),
    others: Collection[int] = (),
) -> Audit:  # fmt: skip
    """Return what a ledger of learned examples says.

    Args:
        counts: How often each example was learned, in the order of their numbers: what `learn.times_learned` returns
            for 0, 1, 2, ... of the model's own ledger (saved and rolled back with the weights, so it cannot lie).
        epochs: How often each should have been learned.
        quarantined: Examples that were set aside, with reasons if there are any.
        others: Numbers that the ledger holds beside 0 to N - 1.

    Shapes:
        counts (N,).

    Example:
        >>> print(audit([1, 1, 0, 2, 0], quarantined={4: "ValueError: no such category"}).text())
        5 examples: 2 learned, 1 quarantined, 1 lost (2), 1 doubled (3), 0 unaccounted
          quarantined 4: ValueError: no such category
    """
    times = np.asarray(counts, dtype=np.int64)
    require(times.ndim == 1, "counts", got=f"shape {times.shape}", expected="one count for each example")
    require(epochs >= 1, "epochs", got=epochs, expected="1 or more")
    listed = dict(quarantined) if isinstance(quarantined, Mapping) else dict.fromkeys(sorted(quarantined), "")
    aside = np.zeros(len(times), dtype=bool)
    inside = [row for row in listed if 0 <= row < len(times)]
    aside[inside] = True
    strange = [row for row in listed if not 0 <= row < len(times)]
    contradicted = np.flatnonzero(aside & (times >= epochs))
    return Audit(
        examples=len(times), learned=int(np.sum((times == epochs) & ~aside)),
        lost=_numbers((times < epochs) & ~aside), doubled=_numbers(times > epochs),
        unaccounted=tuple(sorted({*strange, *others, *contradicted.tolist()})), quarantined=listed,
    )  # fmt: skip


def _numbers(where: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(row) for row in np.flatnonzero(where))
