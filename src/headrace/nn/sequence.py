"""Histories of unequal length as tensors: padded and back, sums per example, attention over what is really there.

An embedding with pooling `none` has one row per id, (L, D), in the order of `Batch.ids[name].values`; its offsets say
which rows belong to which example. Everything here treats a whole batch at once. A position that is padding is never
seen by a result: outputs do not depend on how long the histories of other examples are, and an example without history
gives zeros, with gradients of zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from headrace.config import require
from headrace.errors import DataError, nearest
from headrace.nn.layers import empty_embeddings
from headrace.types import Batch, Jagged


@dataclass(frozen=True, slots=True)
class Padded:
    """Histories side by side, oldest first, padded with zeros at the end.

    Shapes:
        rows (B, T, D); mask (B, T) bool, True where there is an entry. T is the longest history, at least 1.
    """

    rows: Tensor
    mask: Tensor

    @property
    def lengths(self) -> Tensor:
        """Entries per example, (B,) int64."""
        return self.mask.sum(1)


@dataclass(frozen=True, slots=True)
class History:
    """The embedded history of every example of a batch, as it came out of the table.

    Shapes:
        rows (L, D); ids (L,) int64; offsets (B+1,) int64.
    """

    rows: Tensor
    ids: Tensor
    offsets: Tensor

    def examples(self) -> Tensor:
        """Return the number of the example that each row belongs to, (L,) int64."""
        lengths = self.offsets[1:] - self.offsets[:-1]
        return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)

    def padded(self) -> Padded:
        """Return the rows as (B, T, D) and their mask."""
        return pad(self.rows, self.offsets)


def pad(rows_LD: Tensor, offsets: Tensor) -> Padded:
    """Lay jagged rows out as (B, T, D), zeros at the end; T is the longest history, at least 1.

    Example:
        >>> two = pad(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 1, 1, 3]))
        >>> two.rows.squeeze(2).tolist(), two.mask.sum(1).tolist()
        ([[1.0, 0.0], [0.0, 0.0], [2.0, 3.0]], [1, 0, 2])
    """
    lengths = offsets[1:] - offsets[:-1]
    longest = max(int(lengths.max()), 1) if len(lengths) else 1
    mask = torch.arange(longest, device=lengths.device) < lengths.unsqueeze(1)
    laid = rows_LD.new_zeros(len(lengths), longest, rows_LD.shape[1])
    # The places that the mask selects are in the order of the jagged rows.
    return Padded(laid.masked_scatter(mask.unsqueeze(2), rows_LD), mask)


def unpad(padded: Padded) -> Tensor:
    """Return the rows that are no padding, (L, D), in the jagged order."""
    return padded.rows[padded.mask]


def sum_rows(rows_LD: Tensor, examples_L: Tensor, batch_rows: int) -> Tensor:
    """Return the sum of each example's rows, (B, D); zeros where it has none."""
    return rows_LD.new_zeros(batch_rows, rows_LD.shape[1]).index_add(0, examples_L, rows_LD)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Return weights over the last axis that add up to 1 where the mask holds anything, and to 0 where it does not.

    Example:
        >>> masked_softmax(torch.zeros(2, 3), torch.tensor([[True, True, False], [False, False, False]]))
        tensor([[0.5000, 0.5000, 0.0000],
                [0.0000, 0.0000, 0.0000]])
    """
    low = torch.finfo(scores.dtype).min
    return scores.masked_fill(~mask, low).softmax(-1).masked_fill(~mask, 0.0)


def history(rows: Mapping[str, Tensor], batch: Batch, name: str) -> History:
    """Return the embedded history of a feature.

    Raises:
        DataError: If there is no such embedding, or it has not one row per id.
    """
    if name not in rows or name not in batch.ids:
        raise DataError(f"Feature '{name}'", got="no embedding of that name", expected=nearest(name, rows),
                        do="Give the embedding module a lookup for it.")  # fmt: skip
    value, jagged = rows[name], batch.ids[name]
    if value.dim() != 2 or value.shape[0] != jagged.values.numel():
        raise DataError(f"Feature '{name}'", got=f"an embedding of shape {tuple(value.shape)}",
                        expected=f"({jagged.values.numel()}, D), one row per id",
                        do="This model reads the order of a history: use pooling 'none'.")  # fmt: skip
    return History(value, jagged.values, jagged.offsets)


def check_pairs(features: Sequence[str], pairs: Mapping[str, str]) -> None:
    """Refuse pairs of (history, target) that are not both among the features of the model.

    Raises:
        ConfigError: If there are no pairs, features repeat, or a name of a pair is no feature.
    """
    require(not isinstance(features, str) and len(set(features)) == len(features), "features", got=features,
            expected="distinct names")  # fmt: skip
    require(len(pairs) > 0, "pairs", got=pairs, expected="history feature -> target feature, at least one")
    unknown = sorted({*pairs, *pairs.values()} - set(features))
    require(not unknown, "pairs", got=unknown, expected=f"some of the features {tuple(features)}",
            do="Name every history and its target among the features too.")  # fmt: skip
    chained = sorted(set(pairs) & set(pairs.values()))
    require(not chained, "pairs", got=f"{chained} as history and as target", expected="one row per example as target")


def pair_widths(embed: nn.Module, pairs: Mapping[str, str]) -> list[int]:
    """Return the width that each history shares with its target, found by embedding a batch of no examples.

    Raises:
        ConfigError: If a history and its target differ in width.
    """
    found = []
    for past, target in pairs.items():
        widths = [int(rows.shape[-1]) for rows in empty_embeddings(embed, (past, target))]
        require(widths[0] == widths[1], f"pairs, '{past}' and '{target}'", got=f"widths {widths}",
                expected="one width", do="Let them share a table.")  # fmt: skip
        found.append(widths[0])
    return found


def only(batch: Batch, features: tuple[str, ...]) -> Batch:
    """Return the batch with the ids of these features; all others look empty, whether the batch has them or not.

    A part of a model can so be called on requests that hold what this part reads and nothing else.
    """
    return replace(batch, ids=_OnlyIds(batch, features))


def in_evaluation(batch: Batch, features: tuple[str, ...]) -> Batch:
    """Return `only` these features, and under gradients the whole batch: tables then learn from one and the same."""
    return batch if torch.is_grad_enabled() else only(batch, features)


class _OnlyIds(Mapping[str, Jagged]):
    """The ids of some features of a batch; every other feature has none."""

    def __init__(self, batch: Batch, features: tuple[str, ...]) -> None:
        self._ids = {name: batch.ids[name] for name in features if name in batch.ids}
        self._missing = set(features) - set(self._ids)
        self._none = Jagged(torch.zeros(0, dtype=torch.int64), torch.zeros(len(batch) + 1, dtype=torch.int64))

    def __getitem__(self, name: str) -> Jagged:
        if name in self._missing:
            raise KeyError(name)
        return self._ids.get(name, self._none)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)
