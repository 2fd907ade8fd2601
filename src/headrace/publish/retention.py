"""How much of the change log is kept, and for whom."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from headrace.config import require
from headrace.publish.acknowledgements import Acknowledgement, Acknowledgements
from headrace.types import Version

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How long single changes are kept for replicas that are slow.

    A replica finds every change after what it acknowledged, as long as these are at most `keep_versions` and
    `keep_bytes`. Beyond either bound it goes on from a snapshot, which is always there: the changes since the oldest
    kept snapshot are never dropped, whatever the bounds say.

    Attributes:
        keep_versions: Changes kept at most for slow replicas.
        keep_bytes: Bytes of changes kept at most for slow replicas.
        snapshots: Full snapshots kept. Two at least, so that one damaged file costs nothing; more of them reach further
            back for a rollback.
        forget_after_s: Silence after which a replica is forgotten, so that a server that was taken away does not hold
            the log for ever. It is welcome again whenever it comes back.

    Raises:
        ConfigError: If a value cannot work.
    """

    keep_versions: int = 10_000
    keep_bytes: int = 1 << 30
    snapshots: int = 2
    forget_after_s: float = 3600.0

    def __post_init__(self) -> None:
        for name in ("keep_versions", "keep_bytes", "snapshots"):
            require(getattr(self, name) >= 1, name, got=getattr(self, name), expected="a positive integer")
        require(self.forget_after_s > 0, "forget_after_s", got=self.forget_after_s,
                expected="a positive number of seconds")  # fmt: skip


class TrimmableLog(Protocol):
    """Published changes, the oldest of which can be dropped."""

    def last(self) -> Version:
        """Return the newest version."""
        ...

    def first_within(self, size: int) -> int:
        """Return the oldest version from which on all changes together take at most `size` bytes."""
        ...


def kept_from(
    log: TrimmableLog, oldest_snapshot: int, acknowledged: Mapping[str, Acknowledgement], retention: Retention
) -> int:
    """Return the oldest version whose change has to be kept; what is older may be dropped.

    Args:
        log: The changes.
        oldest_snapshot: The oldest snapshot that a replica may have loaded.
        acknowledged: What replicas said, those that are forgotten left out.
        retention: The bounds.
    """
    slowest = min((one.version + 1 for one in acknowledged.values() if one.version >= 0), default=oldest_snapshot)
    if slowest >= oldest_snapshot:
        return oldest_snapshot
    bound = max(log.last().number + 1 - retention.keep_versions, log.first_within(retention.keep_bytes))
    return min(max(slowest, bound), oldest_snapshot)


def remembered(where: Acknowledgements, forget_after_s: float, now: int | None = None) -> dict[str, Acknowledgement]:
    """Return what replicas acknowledged, and forget those that were silent for longer than `forget_after_s`."""
    moment = time.time_ns() // 1000 if now is None else now
    found = where.newest()
    for name, one in list(found.items()):
        if (moment - one.time) / 1e6 > forget_after_s:
            _log.warning("replica '%s' was silent for more than %g s and is forgotten; it held version %d", name,
                         forget_after_s, one.version)  # fmt: skip
            where.forget(name)
            del found[name]
    return found
