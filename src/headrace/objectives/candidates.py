"""Items to tell the right one from, put into the batch: what a step looks up has to be in the batch it learns from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from headrace.config import require
from headrace.errors import DataError
from headrace.types import Batch, Jagged


def with_candidates(batch: Batch, feature: str, ids: Tensor) -> Batch:
    """Return the batch with one more feature that holds candidates for all examples together.

    Its lookup has pooling `none` and the table of the items; `NextItem` reads it.

    Args:
        batch: Examples, at least one.
        feature: Name of the new feature.
        ids: Items; the whole catalogue for a full softmax. Shape (C,) int64.

    Raises:
        ConfigError: If the batch has a feature of that name already.
        DataError: If there are no examples.
    """
    require(feature not in batch.ids, "candidates", got=f"'{feature}', which the batch has", expected="another name")
    if not len(batch):
        raise DataError("Batch", got="no examples", expected="at least one", do="Skip empty batches.")
    offsets = torch.full((len(batch) + 1,), len(ids), dtype=torch.int64)
    offsets[0] = 0  # the first example holds them all
    return replace(batch, ids={**batch.ids, feature: Jagged(ids, offsets)})


def with_item_rows(batch: Batch, items: Mapping[str, Tensor]) -> Batch:
    """Return the batch with examples behind it that are items alone: label 0, no user, weight 0.

    `SampledSoftmax` takes every item of a batch as a candidate and only positives as cases to learn, so these are
    further negatives. Mixed negative sampling draws them uniformly, which gives rare items negatives too. A learner
    counts these rows as examples.

    Args:
        batch: Examples, at least one.
        items: Ids of the further items for each feature of the item tower, one column a feature, equally long.

    Shapes:
        items: feature -> (N,) int64; the result has B + N rows, their example ids -1.

    Raises:
        DataError: If there are no examples, a feature is unknown, or columns differ in length.

    Source:
        Yang et al. 2020, "Mixed Negative Sampling for Learning Two-tower Neural Networks in Recommendations".
    """
    if not len(batch):
        raise DataError("Batch", got="no examples", expected="at least one", do="Skip empty batches.")
    lengths = {name: len(column) for name, column in items.items()}
    if len(set(lengths.values())) != 1 or not set(items) <= set(batch.ids):
        raise DataError("Item rows", got=f"{lengths}", expected=f"equally long columns of {sorted(batch.ids)}")
    more = next(iter(lengths.values()))
    ids = {name: _longer(jagged, items.get(name), more) for name, jagged in batch.ids.items()}
    time = torch.full((more,), int(batch.event_times.max()), dtype=torch.int64)
    zeros, numbers = torch.zeros(more), torch.full((more,), -1, dtype=torch.int64)
    extra = {name: torch.cat([value, value.new_zeros(more, *value.shape[1:])]) for name, value in batch.extra.items()}
    return replace(
        batch, ids=ids, dense=torch.cat([batch.dense, torch.zeros(more, batch.dense.shape[1])]),
        labels=torch.cat([batch.labels, zeros]), weights=torch.cat([batch.weights, zeros]),
        event_times=torch.cat([batch.event_times, time]),
        accepted_times=torch.cat([batch.accepted_times, torch.zeros_like(time)]),
        example_ids=torch.cat([batch.example_ids, numbers]),
        predictions=torch.cat([batch.predictions, torch.full((more,), float("nan"))]),
        versions=torch.cat([batch.versions, numbers]), sample_rates=torch.cat([batch.sample_rates, zeros + 1.0]),
        extra=extra,
    )  # fmt: skip


def _longer(jagged: Jagged, column: Tensor | None, more: int) -> Jagged:
    """Return the feature with one id for each further row, or with none."""
    last = jagged.offsets[-1:]
    if column is None:
        return Jagged(jagged.values, torch.cat([jagged.offsets, last.expand(more)]))
    return Jagged(torch.cat([jagged.values, column]), torch.cat([jagged.offsets, last + 1 + torch.arange(more)]))
