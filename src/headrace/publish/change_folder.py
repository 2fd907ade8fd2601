"""Published changes as plain files: for replicas on other machines that share a folder or a mounted object store.

    000000000041.change      one change, with its SHA-256 inside
    000000000040.snapshot    everything up to a version
    newest.json              the newest version, so that nobody has to list the folder to see that there is one
    replicas/<name>.json     what each replica has acknowledged

Only whole files are put, read, listed and removed, and none is changed in place, which is what object stores can do.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from headrace.errors import ConfigError, CorruptSnapshot, GapError, StaleError, StoreError
from headrace.publish.acknowledgements import AcknowledgementFolder
from headrace.publish.change import decode, encode
from headrace.publish.durable_files import PART, remove_parts, write_whole
from headrace.publish.retention import Retention, kept_from, remembered
from headrace.publish.snapshots import Snapshots
from headrace.types import NO_VERSION, Change, Version

_log = logging.getLogger(__name__)
_NAME = re.compile(r"^(\d{12})\.change$")
POINTER, REPLICAS = "newest.json", "replicas"


class _Pointer(NamedTuple):
    version: int
    run: str


class ChangeFolder:
    """A folder of changes as a replica reads it; never writes. Implements `ChangeSource`.

    Args:
        folder: The folder; need not exist yet.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.snapshots = Snapshots(self.folder)
        self.acknowledgements = AcknowledgementFolder(self.folder / REPLICAS)
        self._seen = NO_VERSION

    def last(self) -> Version:
        """Return the newest version; number -1 when there is none. Cost: one small file read.

        Raises:
            StoreError: If the folder cannot be read, or is empty and was not before: an outage is no empty folder.
        """
        pointer = self._pointer()
        number = self._newest_named() if pointer is None else pointer.version
        if number < 0 <= self._seen:
            raise StoreError(f"Folder of changes {self.folder}", got="nothing", expected=f"version {self._seen}, which "
                             "was there", do="Is it still mounted?")  # fmt: skip
        self._seen = max(self._seen, number)
        return Version(number, number - 1) if number >= 0 else Version(NO_VERSION)

    def _newest_named(self) -> int:
        try:
            return max([*self.numbers(), *self.snapshots.numbers()], default=NO_VERSION)
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError) -> StoreError:
        return StoreError(f"Folder of changes {self.folder}", got=str(error), expected="a folder that can be read",
                          do="Check the mount and the permissions.")  # fmt: skip

    def run(self) -> str:
        """Return which run the changes are of; empty while there is none."""
        pointer = self._pointer()
        return "" if pointer is None else pointer.run

    def numbers(self) -> list[int]:
        """Return the versions whose change has a file, ascending."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        return sorted(int(match[1]) for name in names if (match := _NAME.match(name)))

    def read_since(self, number: int) -> Iterator[Change]:
        """Yield the changes after version `number`, oldest first, up to the newest at the time it is reached.

        Raises:
            StaleError: If the next one is no longer there, or is damaged; a snapshot holds its effect.
            StoreError: If the folder cannot be read.
        """
        following, newest = number + 1, self.last().number
        while following <= newest:
            try:
                change = self.read(following)
            except FileNotFoundError as error:
                raise StaleError(f"Folder {self.folder}, change {following}", got="no file", expected="one",
                                 do="Start again from a snapshot.") from error  # fmt: skip
            except CorruptSnapshot as error:
                raise StaleError(error.what, got=error.got, expected=error.expected,
                                 do="Go on from a snapshot, which holds its effect.") from error  # fmt: skip
            except OSError as error:
                raise self._unreadable(error) from error
            yield change
            following += 1
            if following > newest:
                newest = self.last().number

    def read(self, number: int) -> Change:
        """Return one change.

        Raises:
            CorruptSnapshot: If its file is damaged, or holds another version.
            FileNotFoundError: If there is none.
        """
        path = self._path(number)
        try:
            change = decode(path.read_bytes())
        except CorruptSnapshot as error:
            raise CorruptSnapshot(f"Change {path}", got=error.got, expected=error.expected, do=error.do) from error
        if change.version.number != number:
            raise CorruptSnapshot(f"Change {path}", got=f"version {change.version.number}",
                                  expected=f"version {number}")  # fmt: skip
        return change

    def snapshot(self) -> Change | None:
        """Return the newest whole snapshot as a full change, or None."""
        return self.snapshots.newest()

    def published_at(self, number: int | None = None) -> int:
        """Return the wall-clock µs at which a version (None: the newest) was put here; 0 when that is unknown."""
        wanted = self.last().number if number is None else number
        for path in (self._path(wanted), self.folder / f"{wanted:012d}.snapshot"):
            try:
                return path.stat().st_mtime_ns // 1000
            except OSError:
                continue
        return 0

    def _pointer(self) -> _Pointer | None:
        try:
            found = json.loads((self.folder / POINTER).read_bytes())
            return _Pointer(int(found["version"]), str(found["run"]))
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None  # not there yet, or damaged: the names of the files tell as well

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:012d}.change"


class ChangeFolderWriter(ChangeFolder):
    """The folder as the one who fills it sees it: a `ChangeTarget`. One writer at a time.

    A change counts once its file stands under its name; the pointer follows. A writer that was killed between the two
    puts the pointer right at its next start, and removes half-written files.

    Args:
        folder: The folder; made if absent.
        run: Which run the changes are of, so that two runs cannot be mixed in one folder.
        retention: How much is kept: snapshots, and changes for replicas that are slow.
        sync: Wait for the disk at each file.

    Raises:
        ConfigError: If the folder holds another run.
        OSError: If it cannot be written to.
    """

    def __init__(
        self, folder: Path | str, run: str, *, retention: Retention | None = None, sync: bool = True
    ) -> None:  # fmt: skip
        super().__init__(folder)
        self.retention, self.sync, self._run = retention or Retention(), sync, run
        self.snapshots = Snapshots(self.folder, keep=self.retention.snapshots)
        self.folder.mkdir(parents=True, exist_ok=True)
        held = self.run()
        if held not in ("", run):
            raise ConfigError(f"Folder of changes {self.folder}", got=f"run {held}", expected=f"run {run}",
                              do="Give every run a folder of its own, or empty this one.")  # fmt: skip
        remove_parts(self.folder, f"*.change*{PART}")
        remove_parts(self.folder, f"{POINTER}*{PART}")
        self._newest = self._recovered()
        if self._newest >= 0 and self._pointer() != _Pointer(self._newest, run):
            self._point()

    def _recovered(self) -> int:
        """Return the newest version that is here whole; damaged changes at the end are removed, to be put again."""
        whole = max(self.snapshots.numbers(), default=-1)
        for number in reversed(self.numbers()):
            if number <= whole:
                break
            try:
                self.read(number)
                return number
            except CorruptSnapshot as error:
                _log.warning("%s; it is put again", error)
                self._path(number).unlink(missing_ok=True)
        return whole

    def last(self) -> Version:
        """Return the newest version put; number -1 when there is none."""
        return Version(self._newest, self._newest - 1) if self._newest >= 0 else Version(NO_VERSION)

    def append(self, change: Change) -> bool:
        """Put the next change; returns False if its version is here already.

        Raises:
            GapError: If it does not follow the newest one.
            OSError: If the disk does not take it.
        """
        number = change.version.number
        if number <= self._newest:
            return False
        if number != self._newest + 1:
            raise GapError(f"Change {number} for folder {self.folder}", got=f"number {number}",
                           expected=f"number {self._newest + 1}", do="Put a snapshot first, with `begin`.")  # fmt: skip
        write_whole(self._path(number), encode(change), sync=self.sync)
        self._newest = number
        self._point()
        return True

    def checksum(self, number: int) -> str:
        """Return the checksum of a version's change; empty where there is no whole file of it."""
        try:
            return self.read(number).checksum()
        except (FileNotFoundError, CorruptSnapshot):
            return ""

    def begin(self, snapshot: Change) -> None:
        """Go on from a full change, where those before it are no longer to be had."""
        if snapshot.version.number > self._newest:
            self.snapshots.write(snapshot)
            self._newest = snapshot.version.number
            self._point()

    def keep(self, snapshot: Change) -> None:
        """Add a snapshot of a version that is here, and drop what nobody needs any more."""
        if snapshot.version.number <= self._newest:
            self.snapshots.write(snapshot)
            self.trim()

    def restart_from(self, snapshot: Change) -> None:
        """Leave nothing but this snapshot and what comes after it; for erasure.

        Replicas that have not come this far load the snapshot. It must be no older than the newest version here.
        """
        number = snapshot.version.number
        if number < self._newest:
            raise GapError(f"Snapshot {number} for folder {self.folder}", got=f"version {number}",
                           expected=f"at least {self._newest}, the newest version here")  # fmt: skip
        self.snapshots.write(snapshot)
        self._newest = number
        self._point()
        for old in self.snapshots.numbers():
            if old != number:
                (self.folder / f"{old:012d}.snapshot").unlink(missing_ok=True)
        for old in self.numbers():
            if old <= number:
                self._path(old).unlink(missing_ok=True)

    def rewrite(self, edit: Callable[[Change], Change]) -> int:
        """Replace every change and snapshot by what `edit` makes of it; for erasure. Returns how many files differ.

        Each file is replaced as a whole; a damaged one is removed, because nobody can tell what is in it. Done again
        after a crash, it goes over what is left.
        """
        rewritten = 0
        readers = {".change": (self.numbers(), self.read), ".snapshot": (self.snapshots.numbers(), self.snapshots.read)}
        for suffix, (numbers, read) in readers.items():
            for number in numbers:
                path = self.folder / f"{number:012d}{suffix}"
                try:
                    before = read(number)
                except CorruptSnapshot as error:
                    _log.warning("%s; removed", error)
                    path.unlink(missing_ok=True)
                    continue
                after = encode(edit(before))
                if after != encode(before):
                    write_whole(path, after, sync=self.sync)
                    rewritten += 1
        return rewritten

    def trim(self) -> int:
        """Remove the changes that no snapshot and no replica needs; returns how many."""
        kept = self.snapshots.numbers()
        if not kept:
            return 0
        told = remembered(self.acknowledgements, self.retention.forget_after_s)
        before = kept_from(self, kept[0], told, self.retention)
        old = [number for number in self.numbers() if number < before]
        for number in old:
            self._path(number).unlink(missing_ok=True)
        return len(old)

    def first_within(self, size: int) -> int:
        """Return the oldest version from which on all changes together take at most `size` bytes."""
        first = self._newest + 1
        for number in reversed(self.numbers()):
            size -= self._path(number).stat().st_size
            if size < 0:
                break
            first = number
        return first

    def _point(self) -> None:
        pointer = json.dumps({"version": self._newest, "run": self._run}).encode()
        write_whole(self.folder / POINTER, pointer, sync=self.sync)
