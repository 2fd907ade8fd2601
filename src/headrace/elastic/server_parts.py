"""What the parts of a table server know of it: moves and copies ask for this much, and no more."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from headrace.elastic.buckets import BucketMap, Mask
from headrace.elastic.dense_server import DenseServer
from headrace.elastic.holdings import Holding
from headrace.elastic.prepared import PreparedParts
from headrace.store import TableConfig


@dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """What a server waits for and holds.

    Attributes:
        wait_s: How long a look-up waits for the step that it has to see.
        prepared_bytes: Prepared gradients that are not applied yet, all together.
        remembered: Newest steps of which it knows what they were made of.
    """

    wait_s: float = 5.0
    prepared_bytes: int = 2 << 30
    remembered: int = 4096


class OwnServer(Protocol):
    """A table server as its parts see it; see `TableServer`."""

    number: int
    configs: dict[str, TableConfig]
    dims: dict[str, int]
    folder: Path | None
    dense: DenseServer | None
    order: AbstractContextManager[Any]
    state: threading.Condition
    map: BucketMap
    applied: int
    prepared: PreparedParts
    holdings: tuple[Holding, ...]

    @property
    def wait_s(self) -> float:
        """How long it waits for a step."""
        ...

    def require_whole(self) -> None:
        """See `TableServer.require_whole`."""
        ...

    def require_own(self, mask: Mask) -> None:
        """See `TableServer.require_own`."""
        ...

    def hold(self, holdings: Sequence[Holding]) -> None:
        """See `TableServer.hold`."""
        ...

    def reset(self, buckets: BucketMap, holdings: Sequence[Holding], applied: int) -> None:
        """See `TableServer.reset`."""
        ...
