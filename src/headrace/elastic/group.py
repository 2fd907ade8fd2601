"""The workers that add their gradients: a gloo group per epoch, made and dropped inside the living processes.

A dead member ends the call of the others within milliseconds; a silent one when somebody calls `abort`, which the agent
does as soon as the head has begun another epoch. Gloo itself cannot be interrupted: an aborted group is put aside, and
its threads end when the silent member's connections do.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from headrace.errors import WorkerLost
from headrace.runtime.frames import check_loopback

MEETING_S = 20.0
LOOK_S = 0.02
"""While it waits for the others a call looks so often whether it was aborted."""
_ASIDE: list[tuple[Any, Any, Tensor]] = []  # aborted groups: to drop one would wait for its calls
_LOCK = threading.Lock()


class MeetingPoint:
    """A store of this process in which a group meets when this process is its first member.

    Neither this store nor a group's sockets ask anybody for a secret.

    Args:
        host: Where the others reach it; it listens on that address only.
        remote: Whether that may be an address that other machines can reach.

    Raises:
        ConfigError: If other machines can reach it and `remote` is not set.
    """

    def __init__(self, host: str = "127.0.0.1", *, remote: bool = False) -> None:
        check_loopback(host, remote)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, 0), family=family, backlog=256)
        port = listener.getsockname()[1]  # on its own, the store would listen on every address of the machine
        self._store = TCPStore(host, port, None, True, wait_for_workers=False, master_listen_fd=listener.detach())
        self.address = f"{host}:{port}"


class GlooGroup:
    """The members of one epoch.

    Args:
        meeting: Address of the first member's meeting point.
        epoch: Of the membership; groups of other epochs may meet in the same place.
        rank: Place of this worker.
        size: How many there are.
        host: Of this process, for the others.
        timeout_s: How long a call waits at most.

    Raises:
        WorkerLost: If the others do not come.
    """

    def __init__(self, meeting: str, epoch: int, rank: int, size: int, host: str = "127.0.0.1", *,
                 timeout_s: float = 600.0) -> None:  # fmt: skip
        self.rank, self.size = rank, size
        self._aborted = threading.Event()
        self._group: Any = None
        if size == 1:
            return
        place, _, port = meeting.rpartition(":")
        try:
            store = TCPStore(place, int(port), None, False, timeout=timedelta(seconds=MEETING_S))
            options: Any = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
            options._devices = [dist.ProcessGroupGloo.create_device(hostname=host)]
            options._timeout = timedelta(seconds=MEETING_S)
            self._group = dist.ProcessGroupGloo(PrefixStore(f"epoch-{epoch}", store), rank, size, options)
            self._group.set_timeout(timedelta(seconds=timeout_s))
        except (RuntimeError, ValueError) as error:
            raise _gone("meeting", error) from error

    def sum_(self, values: Tensor) -> None:
        """Replace values by their sums over all members, the same bits on each.

        Raises:
            WorkerLost: If a member is gone, or the group was aborted.
        """
        if self._group is None:
            return
        if self._aborted.is_set():
            raise _gone("sum", "another epoch has begun")
        try:
            work = self._group.allreduce([values])
        except (RuntimeError, ValueError) as error:
            raise _gone("sum", error) from error
        while True:
            try:
                work.wait(timedelta(seconds=LOOK_S))
                return
            except (RuntimeError, ValueError) as error:
                if "Operation timed out!" not in str(error):  # what `wait` says; gloo's own words are others
                    self.abort()
                    raise _gone("sum", error) from error
            if self._aborted.is_set():
                _put_aside(self._group, work, values)
                raise _gone("sum", "another epoch has begun")

    def abort(self) -> None:
        """End the calls of this process, from any thread; the group cannot be used afterwards."""
        self._aborted.set()


def _put_aside(group: Any, work: Any, values: Tensor) -> None:
    """Keep a group, its call and what the call writes to until the call has ended; drop those whose has."""
    with _LOCK:
        _ASIDE[:] = [one for one in _ASIDE if not one[1].is_completed()]
        _ASIDE.append((group, work, values))


def _gone(what: str, error: object) -> WorkerLost:
    return WorkerLost(f"Group of workers, {what}", got=str(error).splitlines()[0], expected="every member there",
                      do="The step is done again by those that are left.")  # fmt: skip


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors one behind the other, (N,) float32."""
    return torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors]) if tensors else torch.zeros(0)
