"""Copies of a server's tables after a given step, written while it learns on, and the way back from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from headrace.elastic.buckets import BucketMap, Mask, of_runs, runs_of
from headrace.elastic.holdings import Holding, joined, part_of, table_from
from headrace.elastic.server_parts import OwnServer
from headrace.errors import ClusterError, CorruptSnapshot, HeadraceError, StaleError, StoreError
from headrace.store import (
    begin_save,
    inspect_table_file,
    load_table,
    open_table,
    read_snapshot,
    write_snapshot,
)
from headrace.store.checked import CheckedTable
from headrace.store.parts import TableParts, from_state
from headrace.store.table_files import Saving
from headrace.types import State

REMEMBERED = 8


@dataclass(slots=True)
class _Copy:
    """A copy that is being written."""

    savings: list[tuple[list[list[int]], dict[str, Saving]]] = field(default_factory=list)
    dense: State | None = None
    problem: HeadraceError | None = None
    told: dict[str, Any] | None = None


class ServerCopies:
    """Writes copies of a server, and makes it what copies say.

    Args:
        server: The server.

    Thread-safety: any thread.
    """

    def __init__(self, server: OwnServer) -> None:
        self._server = server
        self._planned: set[int] = set()
        self._copies: dict[int, _Copy] = {}

    def plan(self, sequence: int) -> None:
        """Copy the server as it is right after this step, now or when it comes. May be asked again.

        Raises:
            StaleError: If a later step has been applied.
            StoreError: If the server has no folder.
        """
        server = self._server
        if server.folder is None:
            raise StoreError(f"Table server {server.number}, copy", got="no folder", expected="a folder for copies")
        with server.order:
            if sequence in self._planned or sequence in self._copies:
                return
            if server.applied > sequence:
                raise StaleError(f"Table server {server.number}, copy", got=f"step {sequence}",
                                 expected=f"step {server.applied} or later", do="Plan it earlier.")  # fmt: skip
            self._planned.add(sequence)
            self.after(server.applied)

    def after(self, sequence: int) -> None:
        """Begin what was planned for this step. REQUIRES: the server's `order` is held."""
        if sequence not in self._planned:
            return
        server, copy = self._server, _Copy()
        self._planned.discard(sequence)
        self._copies[sequence] = copy
        while len(self._copies) > REMEMBERED:
            del self._copies[next(iter(self._copies))]
        try:
            folder = self._folder(sequence)
            folder.mkdir(parents=True, exist_ok=True)
            for place, one in enumerate(server.holdings):
                saving = {name: begin_save(table, folder / f"{place}-{number}.table")
                          for number, (name, table) in enumerate(one.tables.items())}  # fmt: skip
                copy.savings.append((runs_of(one.mask), saving))
            copy.dense = None if server.dense is None else server.dense.state()
        except HeadraceError as error:
            copy.problem = error  # told by `gather`; a copy that fails must not stop learning
        except OSError as error:
            copy.problem = StoreError(f"Table server {server.number}, copy", got=str(error), expected="a folder")

    def _folder(self, sequence: int) -> Path:
        assert self._server.folder is not None
        return self._server.folder / f"{sequence:012d}" / f"server-{self._server.number}"

    def gather(self, sequence: int) -> dict[str, Any]:
        """Wait for the files of a copy, and return what is in them: plain values, for the manifest.

        Raises:
            StoreError: If a file could not be written, or no such copy was begun.
        """
        copy = self._copies.get(sequence)
        if copy is None:
            raise StoreError(f"Table server {self._server.number}, copy of step {sequence}", got="none",
                             expected="one that was planned, and a step that was applied")  # fmt: skip
        if copy.told is None:
            copy.told = self._told(sequence, copy)
        return copy.told

    def _told(self, sequence: int, copy: _Copy) -> dict[str, Any]:
        server = self._server
        if copy.problem is not None:
            raise copy.problem
        holdings = []
        for runs, savings in copy.savings:
            files = {name: saving.wait() for name, saving in savings.items()}
            tables = {name: {"file": self._relative(file.path), "bytes": file.bytes, "digest": file.digest}
                      for name, file in files.items()}  # fmt: skip
            holdings.append({"buckets": runs, "tables": tables})
        found: dict[str, Any] = {"number": server.number, "applied": sequence, "holdings": holdings, "dense": ""}
        if copy.dense is not None:
            path = self._folder(sequence) / "dense.snapshot"
            write_snapshot(path, copy.dense)
            found["dense"] = self._relative(path)
        return found

    def _relative(self, path: Path) -> str:
        assert self._server.folder is not None
        return str(path.relative_to(self._server.folder))

    def restore(self, buckets: BucketMap, applied: int, copies: Sequence[Mapping[str, Any]]) -> None:
        """Become what the copies of all servers say of the buckets that this one owns by the map.

        Args:
            buckets: Who owns what from now on; there may be other servers than there were.
            applied: The step of the copies; 0 without copies: start anew.
            copies: What `gather` returned at every server.

        Raises:
            CorruptSnapshot: If a file is damaged, or not the one that was recorded.
            ClusterError: If the copies are of another step, or lack buckets. The server is as before in every case.
        """
        server = self._server
        mask = buckets.mask(server.number)
        shares = []
        for there, tables in ((of_runs(saved["buckets"]).astype(bool), saved["tables"])
                              for copy in copies for saved in copy["holdings"]):  # fmt: skip
            if (there & mask).any():
                shares.append((there & mask, bool(mask[np.argmax(there)]), tables))
        if any(int(copy["applied"]) != applied for copy in copies) or (
            copies and sum(int(share.sum()) for share, *_ in shares) != int(mask.sum())
        ):
            raise ClusterError(f"Table server {server.number}, restore", got="copies of other steps or buckets",
                               expected=f"step {applied}, every bucket once")  # fmt: skip
        if not copies:
            holding = Holding.fresh(mask, list(server.configs.values()), applied)
        else:
            tables = {name: self._table(name, shares) for name in server.configs} if mask.any() else {}
            holding = Holding(mask, tables, applied)
        dense = next((str(copy["dense"]) for copy in copies if copy.get("dense")), "")
        assert server.folder is not None or not dense
        state = read_snapshot(server.folder / dense) if server.dense is not None and dense and server.folder else None
        with server.order:  # no step comes between the dense part and the tables
            if server.dense is not None:
                server.dense.restore(state)
            self._planned.clear()
            self._copies.clear()
            server.reset(buckets, [holding], applied)

    def _table(self, name: str, shares: Sequence[tuple[Mask, bool, Mapping[str, Any]]]) -> CheckedTable:
        return table_from(self._server.configs[name], joined([self._parts(name, *one) for one in shares]))

    def _parts(self, name: str, share: Mask, counted: bool, files: Mapping[str, Any]) -> TableParts:
        """Return the share of a file's rows; counts of ids go along with the holding's first bucket."""
        config, recorded = self._server.configs[name], files[name]
        assert self._server.folder is not None
        path = self._server.folder / str(recorded["file"])
        if inspect_table_file(path).digest != recorded["digest"]:
            raise CorruptSnapshot(f"Table file {path}", got="another file than recorded", expected=recorded["digest"])
        table = open_table(config)
        load_table(table, path)
        return part_of(from_state(config, False, table.state()), share, counted=counted)
