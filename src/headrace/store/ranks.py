"""Equal processes that learn one model together: what they exchange, and how they agree.

The calls are collective: every rank makes the same calls in the same order. `torch.distributed` carries the bytes
(gloo between CPUs); a rank that dies or falls silent ends the call of the others with `WorkerLost`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from headrace.config import known_name, require
from headrace.errors import ConfigError, WorkerLost

Wire = Literal["float32", "bfloat16", "float16"]
WIRES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Result = TypeVar("Result")
Array = npt.NDArray[Any]


@dataclass(slots=True)
class Traffic:
    """What this rank has sent to others.

    Attributes:
        calls: Collective calls.
        bytes: Bytes to other ranks; what stays here is not counted.
    """

    calls: int = 0
    bytes: int = 0


class Ranks:
    """This process's place among the ranks.

    Args:
        group: A process group of `torch.distributed`; None: the default one, or one rank alone where none was set up.
        wire: Precision of rows and gradients between ranks. `float32` is exact; the others halve the bytes, and every
            row and gradient is rounded once. Ids, counts and times are exact always.

    Raises:
        ConfigError: If the group's backend cannot carry CPU tensors.

    Example:
        >>> alone = Ranks()
        >>> alone.rank, alone.size, alone.sum(torch.ones(2)).tolist()
        (0, 1, [1.0, 1.0])
    """

    def __init__(self, group: Any = None, *, wire: Wire = "float32") -> None:
        known_name("Ranks.wire", wire, WIRES)
        self.wire, self.traffic = WIRES[wire], Traffic()
        self._group = group
        self._there = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank(group) if self._there else 0
        self.size = dist.get_world_size(group) if self._there else 1
        if self._there and "gloo" not in str(dist.get_backend(group)) and "cpu" not in str(dist.get_backend(group)):
            raise ConfigError("Ranks, backend", got=dist.get_backend(group), expected="one that carries CPU tensors",
                              do="Initialise torch.distributed with gloo, or with cpu:gloo,cuda:nccl.")  # fmt: skip

    @staticmethod
    def join(address: str = "env://", *, rank: int = -1, size: int = -1, timeout_s: float = 60.0,
             wire: Wire = "float32") -> Ranks:  # fmt: skip
        """Meet the other processes and return this one's place.

        Args:
            address: Where to meet, as `torch.distributed` knows it: `env://` reads what `torchrun` sets,
                `tcp://host:port`, or `file:///path`.
            rank: This process's number; from the environment where -1.
            size: How many there are; from the environment where -1.
            timeout_s: How long a call waits for the other ranks.
            wire: See `Ranks`.

        Raises:
            WorkerLost: If the others do not come in time.
        """
        require(timeout_s > 0, "timeout_s", got=timeout_s, expected="a positive number")
        _guarded("meeting", lambda: dist.init_process_group("gloo", init_method=address, rank=rank, world_size=size,
                                                            timeout=timedelta(seconds=timeout_s)))  # fmt: skip
        return Ranks(wire=wire)

    @staticmethod
    def alone() -> Ranks:
        """Return the place of a process that learns by itself, whatever process groups there are."""
        alone = Ranks.__new__(Ranks)
        alone.wire, alone.traffic, alone._group = torch.float32, Traffic(), None
        alone._there, alone.rank, alone.size = False, 0, 1
        return alone

    def leave(self) -> None:
        """End the process group; nothing if there is none."""
        if self._there and dist.is_initialized():
            dist.destroy_process_group(self._group)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all ranks, the same bits on each; `values` is not changed."""
        total = values.clone()
        if self.size > 1:
            self._count(total.numel() * total.element_size())
            _guarded("sum", lambda: dist.all_reduce(total, group=self._group))
        return total

    def max(self, values: Tensor) -> Tensor:
        """Return the largest values over all ranks; `values` is not changed."""
        most = values.clone()
        if self.size > 1:
            self._count(most.numel() * most.element_size())
            _guarded("max", lambda: dist.all_reduce(most, op=dist.ReduceOp.MAX, group=self._group))
        return most

    def sum_into(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its sum over all ranks, all in one call."""
        if self.size == 1 or not tensors:
            return
        flat = self.sum(torch.cat([tensor.reshape(-1) for tensor in tensors]))
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Return for each flag whether a rank has set it."""
        return [count > 0 for count in self.sum(torch.tensor([int(flag) for flag in flags])).tolist()]

    def agree(self, value: int) -> bool:
        """Return whether all ranks have the same number; every rank gets the same answer."""
        known = self.sum(torch.tensor([value, value * value], dtype=torch.float64))
        return bool(known[1] * self.size == known[0] ** 2)

    def exchange(self, parts: Sequence[Array]) -> list[Array]:
        """Send part r to rank r and return what every rank sent here, in the order of ranks.

        Shapes:
            parts: one (N_r,) array per rank, all of one dtype.

        Cost:
            Two calls: lengths, then bytes.
        """
        require(len(parts) == self.size, "exchange, parts", got=len(parts), expected=f"{self.size}, one per rank")
        kind = parts[0].dtype
        if self.size == 1:
            return [parts[0]]
        sent = torch.tensor([part.nbytes for part in parts])
        got = torch.empty_like(sent)
        _guarded("exchange of lengths", lambda: dist.all_to_all_single(got, sent, group=self._group))
        lengths = got.tolist()
        out = torch.from_numpy(np.concatenate([np.ascontiguousarray(part).view(np.uint8).reshape(-1)
                                               for part in parts]))  # fmt: skip
        into = torch.empty(sum(lengths), dtype=torch.uint8)
        self._count(int(sent.sum()) - int(sent[self.rank]))
        _guarded("exchange", lambda: dist.all_to_all_single(into, out, lengths, sent.tolist(), group=self._group))
        ends = np.cumsum(lengths)[:-1]
        return [part.view(kind) for part in np.split(into.numpy(), ends)]

    def exchange_floats(self, parts: Sequence[npt.NDArray[np.float32]]) -> list[npt.NDArray[np.float32]]:
        """Do as `exchange` with float32 arrays (N_r,), in the precision of the wire; what stays here is not rounded."""
        if self.wire is torch.float32 or self.size == 1:
            return self.exchange(parts)
        narrow = [torch.from_numpy(part).to(self.wire).view(torch.int16).numpy() for part in parts]
        narrow[self.rank] = narrow[self.rank][:0]
        found = [
            torch.from_numpy(part.copy()).view(self.wire).to(torch.float32).numpy() for part in self.exchange(narrow)
        ]
        found[self.rank] = parts[self.rank]
        return found

    def _count(self, size: int) -> None:
        self.traffic.calls += 1
        self.traffic.bytes += size


def _guarded(what: str, call: Callable[[], Result]) -> Result:
    """Call, and tell a lost rank from other errors."""
    try:
        return call()
    except (RuntimeError, ValueError) as error:
        raise WorkerLost(f"Ranks, {what}", got=str(error).splitlines()[0], expected="every rank in the same call",
                         do="A rank has died or fallen behind. Start all of them again from the last checkpoint."
                         ) from error  # fmt: skip
