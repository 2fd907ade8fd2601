"""L2 on rows: a penalty in their gradient, before a clip as its authors have it, and what rows miss while they rest.

Conventions of a factor of two. Here the loss has ``weight * sum(w^2)``, as in Keras and in CowClip's code, and the
gradient ``2 * weight * w``. FuxiCTR's and torch's (`weight_decay`) is ``weight/2 * sum(w^2)`` with gradient
``weight * w``: give half of theirs here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from headrace.config import require
from headrace.optim.row_clip import NativeForm

_LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True, kw_only=True)
class RowL2:
    """Adds the gradient of ``weight * sum(w^2)`` to that of every row of the batch. Put it before a clip.

    Per `batch` the penalty counts once in every update, as a part of the batch's loss; per `occurrence` it counts for
    every occurrence of an id: popular rows are held back more, rare ones less. (For CowClip, whose bound grows with
    the count too, a clip then treats an id that comes twice as two ids that come once.)

    Rows that are not in the batch get no gradient here, while in a dense optimiser the penalty moves the whole table
    in every step. What to do about the steps that a row has missed:

    - `skip`: nothing.
    - `lazy`: when it next learns, the row is multiplied by ``max(0, 1 - 2*weight*lr)^k`` first, k being the number of
      updates of the table in which it did not learn, lr the rate of the present update. (Every operation that moves
      the table's mark counts as an update. k is counted modulo 2^24 and kept in one more slot of the row, so that
      it is part of every state and snapshot. A row that was born or assigned, and has not learned since, missed none.)

    With `SGD` at a constant rate and gradients that are given, lazy is the dense form up to rounding. It differs

    - while a row rests: it is read as it was left, and a gradient that is taken there is that of the row before decay;
    - under a schedule: the missed updates are taken at the present rate, not at theirs;
    - in adaptive rules: lazy takes the part ``2*weight*lr`` of the row, whereas "L2 through Adam" moves every
      coordinate of a resting row by about lr towards zero, however small the weight is, as Adam divides the penalty
      by its own size. Rare rows of a dense Adam with L2 are thus driven to zero at a speed that the weight hardly
      changes; here they are not.

    Attributes:
        weight: Of the penalty, the lambda of ``lambda * sum(w^2)``.
        per: `batch` or `occurrence`.
        untouched: `skip` or `lazy`; `lazy` needs `per="batch"`.

    Raises:
        ConfigError: If the weight is not in [0, 0.5], or `lazy` is asked for per occurrence.

    Source:
        The authors' implementation of CowClip (see `CowClip`), where the penalty is a part of the loss.
    """

    clips: ClassVar[bool] = False

    weight: float
    per: Literal["batch", "occurrence"] = "batch"
    untouched: Literal["skip", "lazy"] = "skip"

    def __post_init__(self) -> None:
        require(0.0 <= self.weight <= 0.5, "RowL2.weight", got=self.weight, expected="a number in [0, 0.5]")
        require(self.per in ("batch", "occurrence"), "RowL2.per", got=self.per, expected="'batch' or 'occurrence'")
        require(self.untouched in ("skip", "lazy"), "RowL2.untouched", got=self.untouched,
                expected="'skip' or 'lazy'")  # fmt: skip
        require(self.untouched == "skip" or self.per == "batch", "RowL2.untouched", got="'lazy' with per='occurrence'",
                expected="'skip'", do="A row that does not occur owes nothing per occurrence.")  # fmt: skip

    @property
    def lost_when_missed(self) -> float:
        """Part of a row, times the rate, that is lost in every update which the row misses."""
        return 2.0 * self.weight if self.untouched == "lazy" else 0.0

    def native_form(self) -> NativeForm:
        """Return kind and parameters."""
        return (4 if self.per == "batch" else 5), (2.0 * self.weight,)

    def __call__(self, rows: Tensor, grads: Tensor, counts: Tensor) -> Tensor:
        """Return gradients (N, D) with that of the penalty; sums beyond float32 become its largest number."""
        twice = torch.tensor(2.0 * self.weight, dtype=torch.float32)
        weights = twice if self.per == "batch" else (twice * counts.to(torch.float32))[:, None]
        sums = grads + weights * rows
        sums = torch.where(sums < _LARGEST, sums, _LARGEST)  # also where a row is no number
        return torch.where(sums > -_LARGEST, sums, -_LARGEST)

    def over(self, rows: Tensor, grads: Tensor, counts: Tensor) -> Tensor:
        """Return (N,) bool, all False: a penalty is no clip."""
        return torch.zeros(len(grads), dtype=torch.bool)
