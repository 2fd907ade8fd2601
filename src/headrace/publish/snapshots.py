"""Full snapshots of published versions: files that are whole or absent."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from headrace.config import require
from headrace.errors import CorruptSnapshot
from headrace.publish.change import decode, encode, merge
from headrace.publish.durable_files import PART, remove_parts, write_whole
from headrace.types import NO_VERSION, Change

_log = logging.getLogger(__name__)
_NAME = re.compile(r"^(\d{12})\.snapshot$")
FOLD_CHANGES = 32


class Snapshots:
    """A folder of full changes, one file per snapshotted version.

    A file appears under its name only when all of it is on the disk. Readers in other processes skip a damaged file
    with one warning and take the next older one.

    Args:
        folder: Where the files are; made at the first write.
        keep: How many files are kept; at least 1.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        require(keep >= 1, "keep", got=keep, expected="a positive integer", do="Two protect against one bad file.")
        self.folder, self.keep = Path(folder), keep
        self._damaged: set[int] = set()

    def numbers(self) -> list[int]:
        """Return the versions that have a file, ascending."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        return sorted(int(match[1]) for name in names if (match := _NAME.match(name)))

    def newest(self) -> Change | None:
        """Return the newest snapshot that is whole, or None."""
        for number in reversed(self.numbers()):
            try:
                return self.read(number)
            except FileNotFoundError:
                continue  # the writer removed it since we looked
            except CorruptSnapshot as error:
                if number not in self._damaged:
                    self._damaged.add(number)
                    _log.warning("%s; using an older snapshot", error)
        return None

    def read(self, number: int) -> Change:
        """Return the snapshot of one version.

        Raises:
            CorruptSnapshot: If the file is damaged, or holds something else.
            FileNotFoundError: If there is none.
        """
        path = self._path(number)
        data = path.read_bytes()
        try:
            change = decode(data)
        except CorruptSnapshot as error:
            raise CorruptSnapshot(f"Snapshot {path}", got=error.got, expected=error.expected, do=error.do) from error
        if change.version.number != number or not change.full:
            raise CorruptSnapshot(f"Snapshot {path}", got=f"version {change.version.number}, full={change.full}",
                                  expected=f"version {number}, full")  # fmt: skip
        return change

    def write(self, change: Change) -> None:
        """Add a snapshot; remove those beyond `keep`, oldest first, and those found damaged. One process writes.

        Raises:
            OSError: If the disk does not take it; the snapshots before it are untouched.
        """
        assert change.full
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_parts(self.folder, f"*.snapshot*{PART}")
        write_whole(self._path(change.version.number), encode(change))
        self._damaged.discard(change.version.number)
        whole = [number for number in self.numbers() if number not in self._damaged]
        for number in self.numbers():  # a damaged one must not take the place of a whole one
            if number not in whole[-self.keep :]:
                self._path(number).unlink(missing_ok=True)
                self._damaged.discard(number)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:012d}.snapshot"


def fold(base: Change | None, changes: Iterable[Change]) -> Change | None:
    """Return `base` with all changes merged into it as one full change, or None if there is nothing.

    Without a base the changes must begin at the beginning. The notes are those of the newest change alone: they tell
    what one version learned, and a snapshot is not the moment at which all of it became servable.

    Cost: memory of about twice the result plus `FOLD_CHANGES` changes.
    """
    rest: Iterator[Change] = iter(changes)
    while part := list(islice(rest, FOLD_CHANGES)):
        if base is None and part[0].version.parent == NO_VERSION:
            part[0] = replace(part[0], full=True)
        base = replace(merge(part if base is None else [base, *part]), notes=part[-1].notes)
    return base
