"""Headrace: an `EmbeddingCollection` over 26 tables, ids that are arbitrary int64.

Options: `storage` is `plain` (a row and nothing else, as the peers keep it), `default`, or `full` (event times, expiry,
change history, a byte budget with LFU); `rule` is `adagrad`, `rowwise_adagrad`
or `adam`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from headrace import store
from headrace.types import Batch, Jagged
from table_contenders.protocol import serve
from table_contenders.workload import EPS, INITIAL_ACCUMULATOR, LR, Floats, Ids, Material, scrambled

FILL = 65_536
"""Rows assigned in one call."""
NOW = 1_700_000_000_000_000
"""Event time of the first batch, in µs."""


def config(name: str, dim: int, rows: int, options: Mapping[str, Any]) -> store.TableConfig:
    """Return a table for so many rows as the options ask for it."""
    kind = options.get("rule", "adagrad")
    rule: store.RowRule = store.Adam(lr=LR)
    if kind != "adam":
        sums = store.Adagrad if kind == "adagrad" else store.RowWiseAdagrad
        rule = sums(lr=LR, initial_accumulator=INITIAL_ACCUMULATOR, eps=EPS)
    if options["storage"] == "plain":
        return store.TableConfig(name=name, dim=dim, rule=rule, storage=store.Storage(event_times=False, history=False))
    default = store.TableConfig(name=name, dim=dim, rule=rule)
    if options["storage"] == "default":
        return default
    # a budget with room for twice the rows: nothing is evicted, but all that eviction needs is kept
    room = store.bytes_for(replace(default, storage=store.Storage(max_bytes=1 << 40)), 2 * rows)
    return replace(default, ttl_s=86_400.0, storage=store.Storage(max_bytes=room))


class Ours:
    """The collection, and batches of scrambled ids."""

    def __init__(self, material: Material, options: Mapping[str, Any]) -> None:
        torch.set_num_threads(options["threads"])
        work = material.work
        self._names = [f"f{feature}" for feature in range(work.features)]
        self._tables = {name: store.open_table(config(name, work.dim, work.rows_each, options)) for name in self._names}
        for feature, table in enumerate(self._tables.values()):
            for start in range(0, work.rows_each, FILL):
                stop = min(start + FILL, work.rows_each)
                ids = scrambled(torch.arange(start, stop).numpy(), feature)
                times = torch.full((stop - start,), NOW)
                table.assign(torch.from_numpy(ids), torch.from_numpy(material.rows(start, stop)), times)
        self._embed = store.EmbeddingCollection(
            self._tables, [store.FeatureLookup(feature=name, table=name, pooling="sum") for name in self._names]
        )
        self._grads = list(torch.from_numpy(material.grads))
        self._batches = [
            self._batch([scrambled(ids, feature) for feature, ids in enumerate(batch)], NOW + 1_000_000 * number)
            for number, batch in enumerate(material.ids)
        ]

    def _batch(self, ids: list[Ids], now: int) -> Batch:
        rows = len(ids[0])
        offsets, zeros = torch.arange(rows + 1), torch.zeros(rows)
        numbers = torch.zeros(rows, dtype=torch.int64)
        return Batch(
            ids={
                name: Jagged(torch.from_numpy(values), offsets) for name, values in zip(self._names, ids, strict=True)
            },
            dense=torch.zeros(rows, 0), labels=zeros, weights=zeros, event_times=torch.arange(now, now + rows),
            accepted_times=numbers, example_ids=numbers, predictions=zeros, versions=numbers, sample_rates=zeros,
        )  # fmt: skip

    def train(self, batch: int) -> None:
        """Make one ordinary step."""
        content = self._batches[batch]
        outputs = self._embed(content)
        torch.autograd.backward([outputs[name] for name in self._names], self._grads)
        self._embed.apply_gradients(content)

    @torch.no_grad()
    def lookup(self, batch: int) -> None:
        """Look up one batch."""
        self._embed(self._batches[batch])

    def rows(self, feature: int, ids: Ids) -> Floats:
        """Return rows of one feature."""
        found: Floats = self._tables[self._names[feature]].lookup(torch.from_numpy(scrambled(ids, feature))).numpy()
        return found

    def use_threads(self, count: int) -> None:
        """Set torch's threads, which the tables follow."""
        torch.set_num_threads(count)


if __name__ == "__main__":
    serve(Ours)
