"""What to do with rates, L2 and warm-up when the batch grows: the rules that large-batch training compares."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from headrace.config import known_name, require
from headrace.optim.schedule import Warmup

Rule: TypeAlias = Literal["none", "sqrt", "sqrt_lr", "linear", "n2_lambda", "cowclip"]
RULES: tuple[Rule, ...] = ("none", "sqrt", "sqrt_lr", "linear", "n2_lambda", "cowclip")

COWCLIP_INIT_STD = 1e-2
"""Of the first rows under CowClip at every batch size; 1e-4 without it."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Settings that depend on the batch size.

    Attributes:
        dense_lr: Learning rate of the dense part.
        row_lr: Learning rate of the tables.
        l2: Weight of `RowL2`, the lambda of ``lambda * sum(w^2)``.
        init_std: Standard deviation of first rows.
        warmup_steps: Steps over which the dense rate rises in a straight line; 0: none. Tables have none.

    Raises:
        ConfigError: If a value cannot work.
    """

    dense_lr: float
    row_lr: float
    l2: float = 0.0
    init_std: float = 1e-4
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("dense_lr", "row_lr", "init_std"):
            value = getattr(self, name)
            require(0.0 < value < math.inf, f"Rates.{name}", got=value, expected="a positive number")
        require(0.0 <= self.l2 < math.inf, "Rates.l2", got=self.l2, expected="a number of at least 0")
        require(self.warmup_steps >= 0, "Rates.warmup_steps", got=self.warmup_steps, expected="0 or more")

    @property
    def dense_schedule(self) -> Warmup | None:
        """The warm-up for `LearnerConfig.dense_schedule`, or None where there is none."""
        return Warmup(steps=self.warmup_steps) if self.warmup_steps else None

    def __str__(self) -> str:
        """Return the values for people.

        Example:
            >>> print(Rates(dense_lr=8e-4, row_lr=1e-4, l2=1e-5))
            dense lr 0.0008, row lr 0.0001, L2 1e-05, initial std 0.0001, no warm-up
        """
        warm = f"warm-up over {self.warmup_steps} steps" if self.warmup_steps else "no warm-up"
        return (f"dense lr {self.dense_lr:.4g}, row lr {self.row_lr:.4g}, L2 {self.l2:.4g}, "
                f"initial std {self.init_std:.4g}, {warm}")  # fmt: skip


def scale(rule: Rule, base: Rates, base_batch: int, batch: int, *, examples: int | None = None) -> Rates:
    """Return the rates for batches n = `batch / base_batch` times as large, by one of the rules.

    | rule | dense rate | row rate | L2 | first rows | dense warm-up |
    |---|---|---|---|---|---|
    | `none` | as it is | as it is | as it is | as they are | as it is |
    | `sqrt` | x sqrt(n) | x sqrt(n) | x sqrt(n) | as they are | as it is |
    | `sqrt_lr` (sqrt*) | x sqrt(n) | x sqrt(n) | as it is | as they are | as it is |
    | `linear` | x n | x n | as it is | as they are | as it is |
    | `n2_lambda` | x sqrt(n) | as it is | x n^2 | as they are | as it is |
    | `cowclip` | x sqrt(n) | as it is | x n | at least N(0, 1e-2) | one epoch |

    Why rows keep their rate: a rare id is in a batch with probability about n times as high, and there are n times
    fewer batches. It learns as often as before, and Adam's steps do not shrink with the batch. Only what comes in
    every batch learns n times less often. `cowclip` is meant together with `CowClip`, at every n, 1 included.

    The published runs deviate by hand in one place: Avazu at 128 times has a dense rate of 16e-4 (this rule: 11.3e-4)
    and an L2 of 96e-5 (128e-5).

    Args:
        rule: One of `RULES`.
        base: Rates that are right at `base_batch`.
        base_batch: Examples of a step for which `base` was chosen.
        batch: Examples of a step now.
        examples: Of one epoch; `cowclip` needs it for its warm-up, and has none without.

    Raises:
        ConfigError: If the rule is unknown or a size is not positive.

    Example:
        >>> base = Rates(dense_lr=8e-4, row_lr=1e-4, l2=1e-5)
        >>> print(scale("cowclip", base, 1024, 16_384, examples=41_000_000))
        dense lr 0.0032, row lr 0.0001, L2 0.00016, initial std 0.01, warm-up over 2502 steps

    Source:
        Zheng et al. 2023 (CowClip) and the authors' code; `sqrt*` and `n2_lambda` are the variants it compares with.
    """
    known_name("scale, rule", rule, RULES)
    for name, value in (("base_batch", base_batch), ("batch", batch), ("examples", examples or 1)):
        require(value >= 1, f"scale, {name}", got=value, expected="a positive number of examples")
    n = batch / base_batch
    root = math.sqrt(n)
    if rule == "none":
        return base
    if rule == "linear":
        return replace(base, dense_lr=base.dense_lr * n, row_lr=base.row_lr * n)
    if rule in ("sqrt", "sqrt_lr"):
        l2 = base.l2 * root if rule == "sqrt" else base.l2
        return replace(base, dense_lr=base.dense_lr * root, row_lr=base.row_lr * root, l2=l2)
    if rule == "n2_lambda":
        return replace(base, dense_lr=base.dense_lr * root, l2=base.l2 * n * n)
    steps = base.warmup_steps if examples is None else max(1, examples // batch)
    return replace(base, dense_lr=base.dense_lr * root, l2=base.l2 * n, warmup_steps=steps,
                   init_std=max(base.init_std, COWCLIP_INIT_STD))  # fmt: skip
