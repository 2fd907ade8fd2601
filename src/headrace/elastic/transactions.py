"""What a worker brings to one step of the tables: its name, its summed gradients, and how both travel.

A transaction is *prepared* at every server (checked and kept, nothing changes), and takes effect when the servers are
told that it is committed. Servers add the sums of several transactions in the order in which they are named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headrace.elastic.buckets import Mask
from headrace.errors import ClusterError, StoreError
from headrace.runtime.frames import Array
from headrace.store import bucket_of
from headrace.store.hashing import IdArray
from headrace.store.passes import not_finite
from headrace.store.row_rules import FloatArray
from headrace.store.sharded import Step, merged

LARGEST = np.float32(np.finfo(np.float32).max / 4096)
"""Of a prepared gradient: what up to 4096 workers sum stays finite, so that nothing committed can be refused."""


@dataclass(frozen=True, slots=True, order=True)
class Transaction:
    """One worker's part of one step.

    Attributes:
        worker: Its name, without `/`.
        epoch: Of the membership, when it was prepared.
        number: Of the step, or the worker's own count.

    Example:
        >>> Transaction.parse(Transaction("worker-1", 3, 77).text)
        Transaction(worker='worker-1', epoch=3, number=77)
    """

    worker: str
    epoch: int
    number: int

    @property
    def text(self) -> str:
        """The transaction in one word."""
        return f"{self.worker}/{self.epoch}/{self.number}"

    @staticmethod
    def parse(text: str) -> Transaction:
        """Return the transaction of a word.

        Raises:
            ClusterError: If it is none.
        """
        worker, *numbers = text.split("/")
        if not worker or len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
            raise ClusterError("Transaction", got=text[:100], expected="worker/epoch/number")
        return Transaction(worker, int(numbers[0]), int(numbers[1]))


@dataclass(frozen=True, slots=True)
class Part:
    """What a transaction brings to one server.

    Attributes:
        steps: By table that gradients flowed to (also one without an id here: rules count a table's updates).
        evict: By table, the event time before which rows go, after the update.
        dense: Summed dense gradients, flat, for the server that keeps the dense part; empty: none.
    """

    steps: Mapping[str, Step] = field(default_factory=dict)
    evict: Mapping[str, int] = field(default_factory=dict)
    dense: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return self.dense.nbytes + sum(array.nbytes for step in self.steps.values() for array in step)

    def split(self, mask: Mask) -> tuple[Part, Part]:
        """Return what is of the masked buckets, and the rest; tables and evictions are in both, dense in the rest."""
        here, rest = {}, {}
        for name, step in self.steps.items():
            chosen = mask[bucket_of(step[0])]
            here[name], rest[name] = rows_of(step, chosen), rows_of(step, ~chosen)
        return Part(here, self.evict), Part(rest, self.evict, self.dense)

    def by_owner(self, owners: IdArray, servers: Sequence[int], dense_server: int = 0) -> dict[int, Part]:
        """Return what goes to every server, given the owner (4096,) of each bucket."""
        if len(servers) == 1:
            return {servers[0]: self}
        steps: dict[int, dict[str, Step]] = {server: {} for server in servers}
        for name, step in self.steps.items():
            owner = owners[bucket_of(step[0])]
            for server in servers:
                steps[server][name] = rows_of(step, owner == server)
        none = self.dense[:0]
        return {server: Part(steps[server], self.evict, self.dense if server == dense_server else none)
                for server in servers}  # fmt: skip

    def check(self, dims: Mapping[str, int]) -> None:
        """Raise unless the servers can take it.

        Raises:
            StoreError: If a table is unknown, ids do not ascend, or shapes or counts are wrong.
            NonFiniteLoss: If a gradient is not finite, or so large that a sum with others might not be.
        """
        for name in self.steps.keys() | self.evict.keys():
            if name not in dims:
                raise StoreError(f"Table '{name}'", got="a table that is not served", expected=f"one of {sorted(dims)}")
        for name, (ids, grads, counts, times) in self.steps.items():
            shapes = [grads.shape == (len(ids), dims[name]), counts.shape == times.shape == ids.shape, ids.ndim == 1]
            if not all(shapes) or not bool((ids[1:] > ids[:-1]).all()) or (len(counts) and int(counts.min()) < 1):
                raise StoreError(f"Table '{name}', transaction", got=f"ids {ids.shape}, gradients {grads.shape}",
                                 expected=f"ids that ascend, gradients (N, {dims[name]}), counts from 1")  # fmt: skip
            if not bool((np.abs(grads) <= LARGEST).all()):
                raise not_finite(name)
        if not bool((np.abs(self.dense) <= LARGEST).all()):
            raise not_finite("(dense)")


def rows_of(step: Step, chosen: Mask | IdArray) -> Step:
    """Return the chosen rows of a step."""
    ids, grads, counts, times = step
    return ids[chosen], grads[chosen], counts[chosen], times[chosen]


def summed(parts: Sequence[Part], dims: Mapping[str, int]) -> Part:
    """Return one part with the sums of all, added in their order."""
    names = dict.fromkeys(name for part in parts for name in part.steps)
    came = {name: [part.steps[name] for part in parts if name in part.steps] for name in names}
    steps = {name: merged(some, dims[name]) if len(some) > 1 else some[0] for name, some in came.items()}
    evict: dict[str, int] = {}
    for part in parts:
        for name, before in part.evict.items():
            evict[name] = max(before, evict.get(name, before))
    flowed = [part.dense for part in parts if len(part.dense)]
    dense = np.zeros(0, np.float32)
    if flowed:
        dense = flowed[0].copy()
        for more in flowed[1:]:
            dense += more
    return Part(steps, evict, dense)


def pack(part: Part) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return a part as plain values and at most five arrays."""
    steps = list(part.steps.values())
    fields = {"tables": [[name, len(step[0]), step[1].shape[1]] for name, step in part.steps.items()],
              "evict": dict(part.evict)}  # fmt: skip
    arrays: dict[str, Array] = {"dense": part.dense} if len(part.dense) else {}
    if steps:
        arrays |= {"ids": np.concatenate([step[0] for step in steps]),
                   "grads": np.concatenate([step[1].reshape(-1) for step in steps]),
                   "counts": np.concatenate([step[2] for step in steps]),
                   "times": np.concatenate([step[3] for step in steps])}  # fmt: skip
    return fields, arrays


def unpack(fields: Mapping[str, Any], arrays: Mapping[str, Array]) -> Part:
    """Return the part that `pack` told.

    Raises:
        ClusterError: If it is none.
    """
    try:
        dense = np.asarray(arrays.get("dense", np.zeros(0, np.float32)), np.float32)
        steps, at, place = {}, 0, 0
        for name, rows, dim in fields["tables"]:
            ids, counts, times = (np.asarray(arrays[kind][at : at + rows], np.int64)
                                  for kind in ("ids", "counts", "times"))  # fmt: skip
            grads = np.asarray(arrays["grads"][place : place + rows * dim], np.float32).reshape(rows, dim)
            steps[str(name)] = (ids, grads, counts, times)
            at, place = at + rows, place + rows * dim
        return Part(steps, {str(name): int(before) for name, before in fields["evict"].items()}, dense)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ClusterError("Transaction, content", got=str(error), expected="tables and their arrays") from error
