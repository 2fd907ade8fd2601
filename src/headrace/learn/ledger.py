"""The ledger of learned examples: a table like any other, whose one-wide rows count how often each example was learned.

Because it is an ordinary table that learns with the same step as the model, it is saved, restored, published and
replicated with the model; so a crash test can ask a checkpoint or a replica whether each example was learned once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from headrace.protocols import Table
from headrace.store import SGD, TableConfig, Zeros, open_table
from headrace.types import Batch

LEDGER = "example_ledger"


def ledger_config() -> TableConfig:
    """Return the configuration of the ledger; a replica of an audited learner needs a table made of it.

    The row rule is plain descent with rate 1 from zero, so a gradient of -1 per occurrence counts occurrences;
    float32 counts exactly up to 16,777,216.
    """
    return TableConfig(name=LEDGER, dim=1, rule=SGD(lr=1.0), init=Zeros())


def open_ledger(*, serving: bool = False) -> Table:
    """Open an empty ledger."""
    return open_table(ledger_config(), serving=serving)


def record(ledger: Table, batch: Batch) -> None:
    """Count the examples of a batch that was learned."""
    ids, places, counts = torch.unique(batch.example_ids, return_inverse=True, return_counts=True)
    times = torch.full_like(ids, torch.iinfo(torch.int64).min)
    times.scatter_reduce_(0, places, batch.event_times, "amax")
    ledger.update(ids, -counts.to(torch.float32).unsqueeze(1), counts, times)


def times_learned(ledger: Table, example_ids: Tensor) -> Tensor:
    """Return how often each example (N,) was learned, (N,) int64; works on a learner's ledger and on a replica's."""
    return ledger.lookup(example_ids).squeeze(1).to(torch.int64)
