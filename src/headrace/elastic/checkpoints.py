"""Checkpoints of a whole run at one step: tables of all servers, dense part, queue, in one manifest.

Every server writes a copy of its tables right after the same step, beside learning; then one manifest that names all
files with their checksums makes them count. A crash at any moment leaves the earlier checkpoint or this one.

Layout: `<folder>/tables/<step>/server-<n>/...` written by the servers, `<folder>/manifests/` as `ManifestCheckpoint`
has it. All servers and the head must see the same folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np

from headrace.elastic.buckets import BucketMap, of_runs
from headrace.elastic.directory import BucketDirectory, Directory
from headrace.errors import CorruptSnapshot, HeadraceError, StoreError
from headrace.learn import ManifestCheckpoint
from headrace.types import State

TABLES, MANIFESTS = "tables", "manifests"
FORMAT = 1
Answer = TypeVar("Answer")


class CopyTaker(Protocol):
    """What a checkpoint needs of a server; `ServerClient` is one."""

    def plan_copy(self, sequence: int) -> None:
        """See `ServerCopies.plan`."""
        ...

    def collect_copy(self, sequence: int) -> dict[str, Any]:
        """See `ServerCopies.gather`."""
        ...

    def restore(self, buckets: BucketMap, applied: int, copies: Sequence[Mapping[str, Any]]) -> None:
        """See `ServerCopies.restore`."""
        ...


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint.

    Attributes:
        step: After which everything in it stands.
        map: Who owned what.
        copies: What each server told of its files.
        dense: The dense part, in synchronous mode; servers keep it in the other.
        queue: State of the work queue.
        more: Whatever else was saved.
    """

    step: int
    map: BucketMap
    copies: tuple[Mapping[str, Any], ...]
    dense: State
    queue: State
    more: State


class ElasticCheckpoint:
    """Keeps checkpoints of a run.

    Args:
        folder: Where; created when needed.
        keep: How many.

    Thread-safety: one thread saves; no buckets may move between `plan` and the step it is for (`finish` notices).
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self._keep = folder, keep
        self._manifests = ManifestCheckpoint(folder / MANIFESTS, keep)
        self._steps: list[int] | None = None

    @property
    def tables(self) -> Path:
        """The folder that servers write to: give it to `serve_tables`."""
        return self.folder / TABLES

    def plan(self, directory: Directory[Any], step: int) -> None:
        """Have every server copy its tables right after a step that is not applied yet, or is the last one.

        Raises:
            StaleError: If a server is already past it; plan a later one.
            WorkerLost: If a server is lost.
        """
        _each(_owners(directory), lambda number: directory.client(number).plan_copy(step))

    def finish(self, directory: Directory[Any], step: int, *, queue: State, dense: State | None = None,
               more: State | None = None) -> int:  # fmt: skip
        """Wait for the copies, and make them count together with the other parts; return all bytes.

        Args:
            directory: The servers.
            step: The step of `plan`; it must have been committed.
            queue: State of the queue when this step was the newest committed.
            dense: The dense part after that step.
            more: Anything else.

        Raises:
            StoreError: If a file could not be written, or buckets moved meanwhile; the earlier checkpoint counts.
            WorkerLost: If a server is lost; likewise.
        """
        buckets = directory.map
        found = _each(_owners(directory), lambda number: cast(CopyTaker, directory.client(number)).collect_copy(step))
        copies = [found[number] for number in sorted(found)]
        owned = np.zeros(4096, np.int64)
        for copy in copies:
            for holding in copy["holdings"]:
                owned += of_runs(holding["buckets"])
        if not bool((owned == 1).all()):
            raise StoreError(f"Checkpoint of step {step}", got="buckets that moved while it was made",
                             expected="every bucket once", do="Make another one.")  # fmt: skip
        earlier = self._known_steps()
        steps = [one for one in earlier if one < step][-(self._keep - 1) :] if self._keep > 1 else []
        state: State = {
            "format": FORMAT, "step": step, "map": buckets.fields(), "copies": cast(Any, copies),
            "dense": dense or {}, "queue": queue, "more": more or {}, "steps": cast(Any, [*steps, step]),
        }  # fmt: skip
        self._manifests.save(state)
        self._steps = [*steps, step]
        self._prune()
        return sum(table["bytes"] for copy in copies for one in copy["holdings"] for table in one["tables"].values())

    def newest(self) -> Saved | None:
        """Return the newest whole checkpoint, or None where there is none.

        Raises:
            CorruptSnapshot: If there are some and none is whole.
        """
        state = self._manifests.load()
        if state is None:
            return None
        try:
            if state["format"] != FORMAT:
                raise CorruptSnapshot(f"Checkpoint {self.folder}", got=state["format"], expected=f"format {FORMAT}")
            copies = tuple(cast("list[Mapping[str, Any]]", state["copies"]))
            buckets = BucketMap.read(cast("Mapping[str, Any]", state["map"]))
            dense, queue, more = (cast(State, state[name]) for name in ("dense", "queue", "more"))
            return Saved(cast(int, state["step"]), buckets, copies, dense, queue, more)
        except (KeyError, TypeError) as error:
            raise CorruptSnapshot(f"Checkpoint {self.folder}", got=str(error), expected="a run's") from error

    def restore_servers(
        self, saved: Saved | None, directory: Directory[Any], record: BucketDirectory, servers: Sequence[int]
    ) -> BucketMap:
        """Bring all servers to a checkpoint, or to the beginning where there is none; return the map from now on.

        There may be other servers than there were: then buckets are spread anew. Callers with an older map are told.

        Args:
            saved: The checkpoint.
            directory: The ways to the servers.
            record: The head's, in which their addresses stand.
            servers: Numbers of those that are to own buckets.

        Raises:
            CorruptSnapshot: If a file is damaged.
            WorkerLost: If a server is lost. Restore again when it is there.
        """
        try:
            version = record.map.version + 1
        except HeadraceError:
            version = 0
        same = saved is not None and set(saved.map.servers) == set(servers)
        if saved is not None and same:
            buckets = BucketMap(max(version, saved.map.version + 1), saved.map.owners.copy())
        else:
            buckets = BucketMap.even(sorted(servers), version)
        record.moved(buckets, restored=True)
        directory.refresh()
        step, copies = (0, ()) if saved is None else (saved.step, saved.copies)
        _each(tuple(sorted(servers)), lambda number: directory.client(number).restore(buckets, step, copies))
        return buckets

    def _known_steps(self) -> list[int]:
        if self._steps is None:
            state = self._manifests.load()
            self._steps = [] if state is None else [int(cast(int, one)) for one in cast("list[Any]", state["steps"])]
        return self._steps

    def _prune(self) -> None:
        """Remove files of steps before those that are kept; later ones may be under way."""
        kept = self._known_steps()
        for path in self.tables.iterdir() if self.tables.is_dir() else ():
            if path.name.isdecimal() and int(path.name) not in kept and int(path.name) < max(kept):
                shutil.rmtree(path, ignore_errors=True)


def _owners(directory: Directory[Any]) -> tuple[int, ...]:
    """Return the servers that own something, and the first, which may keep the dense part."""
    return tuple(sorted({*directory.map.servers, *directory.servers[:1]}))


def _each(numbers: Sequence[int], ask: Callable[[int], Answer]) -> dict[int, Answer]:
    """Ask servers side by side."""
    with ThreadPoolExecutor(max(1, len(numbers)), "servers") as pool:
        return dict(zip(numbers, pool.map(ask, numbers), strict=True))
