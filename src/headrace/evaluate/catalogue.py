"""How well whole catalogues are ranked for users that were never learned from: strong generalisation.

A held-out user shows some choices (folded in); the model ranks all other items; what is looked for are the choices that
were held back. Each user is judged alone, so the numbers do not depend on how users were put into batches. Ties are at
their expectation, as in `headrace.evaluate.ranking`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from headrace.config import require
from headrace.errors import DataError
from headrace.evaluate.order import Floats, Integers
from headrace.types import Jagged

CATALOGUE_METRICS = ("recall", "ndcg")
"""What can be asked: `recall` is over min(k, held out), so that 1 can be reached; `ndcg` has gain 1."""


def catalogue_values(
    scores_UM: Tensor, held_out: Jagged, *, k: int, seen: Jagged | None = None,
    names: Sequence[str] = CATALOGUE_METRICS,
) -> dict[str, Floats]:  # fmt: skip
    """Return metrics of every user's ranking of the catalogue, best score first.

    Args:
        scores_UM: Score of every item for every user.
        held_out: Columns of the items to be found.
        k: Places that count.
        seen: Columns that are no candidates: what was folded in. None: all are.
        names: Which, of `CATALOGUE_METRICS`.

    Returns:
        By name, a value per user (U,); NaN for users without a held-out item, whom no mean should count.

    Shapes:
        scores_UM (U, M) finite; held_out, seen of U rows.

    Cost:
        O(U M log M).

    Raises:
        DataError: If a score is not finite, a column is not in the catalogue, or an item is both held out and seen.
        ConfigError: If a metric is unknown or k is not positive.

    Source:
        Liang et al. 2018, "Variational Autoencoders for Collaborative Filtering", section 4.2: recall over
        min(k, held out), discount 1/log2(rank + 1).

    Example:
        >>> scores = torch.tensor([[0.9, 0.8, 0.3, 0.1]])
        >>> held_out, seen = (Jagged(torch.tensor([column]), torch.tensor([0, 1])) for column in (1, 0))
        >>> catalogue_values(scores, held_out, k=1, seen=seen)["recall"].tolist()
        [1.0]
    """
    require(k >= 1, "k", got=k, expected="a positive number of places")
    for name in names:
        require(name in CATALOGUE_METRICS, "Catalogue metric", got=name, expected=f"one of {CATALOGUE_METRICS}")
    better_P, tied_P = _standing(scores_UM, held_out, seen)
    users, owner_P = len(held_out), _owners(held_out).numpy()
    found_U = np.bincount(owner_P, minlength=users)
    ideal = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))])  # of n items at the first n places
    shown_P = np.minimum(better_P + tied_P, k)
    values: dict[str, Floats] = {}
    with np.errstate(invalid="ignore"):
        if "recall" in names:
            hits_P = np.maximum(shown_P - better_P, 0) / tied_P
            values["recall"] = np.bincount(owner_P, hits_P, minlength=users) / _or_nan(np.minimum(found_U, k))
        if "ndcg" in names:
            gains_P = (ideal[shown_P] - ideal[np.minimum(better_P, k)]) / tied_P
            values["ndcg"] = np.bincount(owner_P, gains_P, minlength=users) / _or_nan(ideal[np.minimum(found_U, k)])
    return {name: values[name] for name in names}


def mean_over_users(parts: Iterable[Floats]) -> float:
    """Return the mean over all users that have a value, of values that came batch by batch; NaN without any.

    A mean of the batches' means would weigh users by the size of their batch.

    Example:
        >>> mean_over_users([np.array([1.0, 0.0, 0.5]), np.array([0.1, np.nan])])
        0.4
    """
    values = np.concatenate([np.zeros(0), *parts])
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _standing(scores_UM: Tensor, held_out: Jagged, seen: Jagged | None) -> tuple[Integers, Integers]:
    """Return, for every held-out item, how many candidates are better and how many stand as it does, itself included.

    Shapes: int64 (P,) each.
    """
    users, items = scores_UM.shape
    if not bool(torch.isfinite(scores_UM).all()):
        raise DataError("Scores of a catalogue", got="NaN or infinity", expected="finite scores")
    for what, jagged in (("held out", held_out), ("seen", seen)):
        if jagged is not None and len(jagged) != users:
            raise DataError(f"Items {what}", got=f"{len(jagged)} rows", expected=f"{users}, one per user")
        if jagged is not None and bool(((jagged.values < 0) | (jagged.values >= items)).any()):
            raise DataError(f"Items {what}", got=f"columns {int(jagged.values.min())} to {int(jagged.values.max())}",
                            expected=f"0 to {items - 1}", do="Leave out what the catalogue lacks.")  # fmt: skip
    candidates_UM, owners_P = scores_UM.detach().clone(), _owners(held_out)
    if seen is not None:
        candidates_UM[_owners(seen), seen.values] = -torch.inf
    own_P = candidates_UM[owners_P, held_out.values]
    if bool(torch.isinf(own_P).any()):
        raise DataError("Items held out", got="some that were seen too", expected="each item on one side")
    # Negated and in ascending order, so that the place to the left counts what is better.
    ordered_UM = candidates_UM.neg_().sort(dim=1).values
    lengths_U = held_out.offsets[1:] - held_out.offsets[:-1]
    within_P = torch.arange(len(owners_P)) - held_out.offsets[:-1][owners_P]
    asked = ordered_UM.new_zeros(users, max(int(lengths_U.max()), 1) if users else 1)
    asked[owners_P, within_P] = -own_P
    left, right = (torch.searchsorted(ordered_UM, asked, side=side)[owners_P, within_P] for side in ("left", "right"))
    return left.numpy(), (right - left).numpy()


def _owners(jagged: Jagged) -> Tensor:
    """Return the row of every value."""
    return torch.repeat_interleave(torch.arange(len(jagged)), jagged.offsets[1:] - jagged.offsets[:-1])


def _or_nan(values: Floats | Integers) -> Floats:
    return np.where(values > 0, values, np.nan)
