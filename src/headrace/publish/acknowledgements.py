"""Who serves which version: replicas acknowledge what they hold, durably and by name."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from glob import escape
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from headrace.config import require
from headrace.errors import HeadraceError
from headrace.publish.durable_files import PART, remove_parts, write_whole
from headrace.types import NO_VERSION, Version

_log = logging.getLogger(__name__)
SUFFIX = ".json"
EVERY_S = 0.5
SIGN_OF_LIFE_S = 5.0
NAME_BYTES = 180


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """A replica's word that it holds a version: its name, the version (-1: none yet), and when it said so (wall µs)."""

    replica: str
    version: int
    time: int

    def to_bytes(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @staticmethod
    def from_bytes(data: bytes) -> Acknowledgement | None:
        """Return what `to_bytes` wrote, or None for anything else."""
        try:
            found = json.loads(data)
            return Acknowledgement(
                replica=str(found["replica"]), version=int(found["version"]), time=int(found["time"])
            )  # fmt: skip
        except (ValueError, TypeError, KeyError, RecursionError):
            return None


class Acknowledgements(Protocol):
    """A place where replicas leave their acknowledgements and others read them."""

    def record(self, one: Acknowledgement) -> None:
        """Make an acknowledgement durable, in place of the replica's earlier one."""
        ...

    def newest(self) -> dict[str, Acknowledgement]:
        """Return the newest acknowledgement of every replica by name."""
        ...

    def forget(self, replica: str) -> None:
        """Drop a replica; it comes back with its next acknowledgement."""
        ...


class AcknowledgementFolder:
    """One small file per replica, replaced as a whole, so that a reader sees one acknowledgement or the next.

    A replica writes only its own file; the publisher reads all of them and removes those of replicas that were silent
    for too long. A damaged file counts as absent: nothing is kept for it, and the replica writes the next one soon.

    Args:
        folder: Where the files are; made at the first record.
        sync: Wait for the disk at each record. Without it an acknowledgement survives the death of any process, and a
            power cut may bring back an earlier one, which is harmless: the log is then kept for longer.

    Example:
        >>> import tempfile
        >>> kept = AcknowledgementFolder(Path(tempfile.mkdtemp()))
        >>> kept.record(Acknowledgement(replica="server-1", version=7, time=1))
        >>> kept.newest()["server-1"].version
        7
    """

    def __init__(self, folder: Path, *, sync: bool = False) -> None:
        self.folder, self.sync = Path(folder), sync
        self._cleaned: set[str] = set()

    def record(self, one: Acknowledgement) -> None:
        """Replace the replica's file.

        Raises:
            OSError: If the disk does not take it.
        """
        path = self._path(one.replica)
        if one.replica not in self._cleaned:  # what an earlier process of this replica left half written
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_parts(self.folder, f"{escape(path.name)}.*{PART}")
            self._cleaned.add(one.replica)
        write_whole(path, one.to_bytes(), sync=self.sync)

    def newest(self) -> dict[str, Acknowledgement]:
        """Return the newest acknowledgement of every replica by name. Cost: one small file read per replica."""
        found: dict[str, Acknowledgement] = {}
        try:
            names = sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return found
        for name in names:
            if not name.endswith(SUFFIX):
                continue
            try:
                one = Acknowledgement.from_bytes((self.folder / name).read_bytes())
            except OSError:
                continue  # forgotten since we looked
            if one is not None and self._path(one.replica).name == name:
                found[one.replica] = one
        return found

    def forget(self, replica: str) -> None:
        """Remove the replica's file."""
        self._path(replica).unlink(missing_ok=True)

    def _path(self, replica: str) -> Path:
        return self.folder / f"{quote(replica, safe='')}{SUFFIX}"


class Acknowledger:
    """Acknowledges for one replica: at most every `every_s` when the version moves, and as a sign of life now and then.

    What cannot be written stops nothing: it is logged once, and tried again with the next version.

    Args:
        where: Where acknowledgements are kept.
        replica: The replica's name; the same after a restart, another one for every replica.
        every_s: Shortest time between two records.
        alive_s: Longest time between two records, also when nothing moves.
        now: The wall clock in µs.

    Thread-safety: used by one thread, the follower's.

    Raises:
        ConfigError: If the name is empty or too long for a file.
    """

    def __init__(
        self, where: Acknowledgements, replica: str, *, every_s: float = EVERY_S, alive_s: float = SIGN_OF_LIFE_S,
        now: Callable[[], int] | None = None,
    ) -> None:  # fmt: skip
        require(0 < len(quote(replica, safe="")) <= NAME_BYTES, "Replica's name", got=replica,
                expected=f"1 to {NAME_BYTES} letters", do="Give each replica a short name of its own.")  # fmt: skip
        self.where, self.replica, self.every_s, self.alive_s = where, replica, every_s, alive_s
        self._now = now or (lambda: time.time_ns() // 1000)
        self._said, self._at, self._failed = NO_VERSION, 0, ""

    def tell(self, version: Version, *, final: bool = False) -> bool:
        """Record the version held if it is time; returns whether it was recorded. `final` does not wait."""
        now = self._now()
        quiet = abs(now - self._at) / 1e6  # a clock that was set back must not silence a replica
        moved = version.number != self._said
        if not (final and moved) and quiet < (self.every_s if moved else self.alive_s):
            return False
        self._at = now
        try:
            self.where.record(Acknowledgement(replica=self.replica, version=version.number, time=now))
        except (OSError, HeadraceError) as error:
            if str(error) != self._failed:
                self._failed = str(error)
                _log.warning("version %d is served and could not be acknowledged: %s", version.number, error)
            return False
        self._said, self._failed = version.number, ""
        return True


class Published(Protocol):
    """What lag is measured against: the newest version, and when each one became durable."""

    def last(self) -> Version:
        """Return the newest version."""
        ...

    def published_at(self, number: int | None = None) -> int:
        """Return the wall-clock µs at which a version became durable; 0 when that is unknown."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLag:
    """How far a replica is behind.

    Attributes:
        replica: Its name.
        version: The version it acknowledged last; -1 when it holds none.
        versions: Published versions that it has not acknowledged.
        seconds: For how long the oldest of these has been published; 0 when there is none.
        silent_s: Seconds since it last said anything.
    """

    replica: str
    version: int
    versions: int
    seconds: float
    silent_s: float


def lags(acknowledged: Mapping[str, Acknowledgement], published: Published, now: int | None = None) -> list[ReplicaLag]:
    """Return how far each replica is behind, by name.

    Args:
        acknowledged: What `Acknowledgements.newest` returned.
        published: The publisher's log.
        now: Wall-clock µs; None: now.

    Cost: one small query per replica that is behind.
    """
    moment = time.time_ns() // 1000 if now is None else now
    newest = published.last().number
    found = []
    for name, one in sorted(acknowledged.items()):
        behind = max(newest - one.version, 0)
        since = published.published_at(one.version + 1) if behind else 0
        found.append(ReplicaLag(
            replica=name, version=one.version, versions=behind,
            seconds=max(moment - since, 0) / 1e6 if since else 0.0, silent_s=max(moment - one.time, 0) / 1e6,
        ))  # fmt: skip
    return found


def plain(lag: ReplicaLag) -> dict[str, object]:
    """Return a lag as plain values, for health answers and status files."""
    return {"version": lag.version, "lag_versions": lag.versions, "lag_s": round(lag.seconds, 3),
            "silent_s": round(lag.silent_s, 3)}  # fmt: skip
