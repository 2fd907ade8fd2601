"""Table servers behind sockets: what a server answers, and the same methods at the caller's end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headrace.elastic.buckets import BucketMap, Mask, of_runs, runs_of
from headrace.elastic.dense_server import DenseServer
from headrace.elastic.server_parts import ServerLimits
from headrace.elastic.table_server import TableServer
from headrace.elastic.transactions import Part, Transaction, pack, unpack
from headrace.runtime.frames import Array, Reply, Request
from headrace.runtime.wire import Connection, Server
from headrace.store import TableConfig
from headrace.store.hashing import IdArray
from headrace.store.row_rules import FloatArray
from headrace.types import RowChange

RETRY_S = 2.0
"""How long a broken connection is tried again: all calls but `move` and `tidy`, which do not change anything when they
arrive twice."""
LONG_S = 600.0
"""For calls that wait for a disk or for another server."""


class ServerClient:
    """The methods of `TableServer`, for one that is elsewhere; so is what is said about them there.

    Args:
        address: Of the server.
        secret: Of the run.
        timeout_s: How long to wait for an answer.
        retry_s: For how long to try again where a connection breaks.

    Thread-safety: any thread; calls go one after another, but that nobody waits for moves, or for reading and writing
    whole tables: those have connections of their own.
    """

    def __init__(self, address: str, secret: bytes, *, timeout_s: float = 60.0, retry_s: float = RETRY_S) -> None:
        self.address, self._retry_s = address, retry_s
        name = f"table server at {address}"
        self._wire = Connection(address, secret, timeout_s, name=name)
        self._whole, self._moves = (Connection(address, secret, LONG_S, name=name) for _ in range(2))
        self.arrivals = _RemoteArrivals(self._call)

    def close(self) -> None:
        """End the connections."""
        for wire in (self._wire, self._whole, self._moves):
            wire.close()

    def _call(self, method: str, fields: Mapping[str, Any] | None = None,
              arrays: Mapping[str, Array] | None = None) -> Reply:  # fmt: skip
        return self._wire.call(method, fields, arrays, retry_s=self._retry_s)

    def _long(self, method: str, fields: Mapping[str, Any]) -> Reply:
        return self._whole.call(method, fields, retry_s=self._retry_s)

    def open(self, prints: Mapping[str, str]) -> dict[str, Any]:
        """See `TableServer.open`."""
        return dict(self._call("open", {"prints": dict(prints)}).fields)

    def lookup(self, version: int, after: int, ids: Mapping[str, IdArray]) -> dict[str, FloatArray]:
        """See `TableServer.lookup`."""
        fields = {"version": version, "after": after, "tables": [[name, len(one)] for name, one in ids.items()]}
        values = np.concatenate([*ids.values(), np.zeros(0, np.int64)])
        reply = self._call("lookup", fields, {"ids": values})
        return {name: reply.arrays[str(place)] for place, name in enumerate(ids)}

    def prepare(self, transaction: Transaction, attempt: int, version: int, part: Part) -> None:
        """See `TableServer.prepare`."""
        fields, arrays = pack(part)
        self._call(
            "prepare", {"transaction": transaction.text, "attempt": attempt, "version": version} | fields, arrays
        )

    def apply(self, sequence: int, transactions: Sequence[Transaction]) -> int:
        """See `TableServer.apply`."""
        return self.apply_all([(sequence, transactions)])

    def apply_all(self, steps: Sequence[tuple[int, Sequence[Transaction]]], version: int | None = None) -> int:
        """Hand on several steps in one call, known by a map; return the rows evicted by the last."""
        told = [[sequence, [one.text for one in transactions]] for sequence, transactions in steps]
        return int(self._call("apply", {"steps": told, "version": version}).fields["evicted"])

    def fence(self, epoch: int, worker: str = "") -> None:
        """See `TableServer.fence`."""
        self._call("fence", {"epoch": epoch, "worker": worker})

    def discard(self, transactions: Sequence[Transaction]) -> None:
        """See `TableServer.discard`."""
        self._call("discard", {"transactions": [one.text for one in transactions]})

    def advance(self, buckets: BucketMap) -> None:
        """See `TableServer.advance`."""
        self._call("advance", {"map": buckets.fields()})

    def changes(self, name: str, since: int, after: int = 0, version: int | None = None) -> RowChange:
        """See `TableServer.changes`."""
        fields = {"name": name, "since": since, "after": after, "version": version}
        return _row_change(self._long("changes", fields))

    def rows(self, name: str, after: int = 0, version: int | None = None) -> RowChange:
        """See `TableServer.rows`."""
        return _row_change(self._long("rows", {"name": name, "after": after, "version": version}))

    def marks(self) -> dict[str, int]:
        """See `TableServer.marks`."""
        return dict(self._call("marks").fields["marks"])

    def forget(self, marks: Mapping[str, int]) -> None:
        """See `TableServer.forget`."""
        self._call("forget", {"marks": dict(marks)})

    def stats(self) -> dict[str, Any]:
        """See `TableServer.stats`."""
        return dict(self._call("stats").fields)

    def bucket_loads(self) -> IdArray:
        """See `ServerLoad.buckets`."""
        return np.asarray(self._call("bucket_loads").arrays["loads"], np.int64)

    def plan_copy(self, sequence: int) -> None:
        """See `ServerCopies.plan`."""
        self._call("plan_copy", {"sequence": sequence})

    def collect_copy(self, sequence: int) -> dict[str, Any]:
        """See `ServerCopies.gather`."""
        return dict(self._long("collect_copy", {"sequence": sequence}).fields)

    def restore(self, buckets: BucketMap, applied: int, copies: Sequence[Mapping[str, Any]]) -> None:
        """See `ServerCopies.restore`."""
        fields = {"map": buckets.fields(), "applied": applied, "copies": [dict(copy) for copy in copies]}
        self._long("restore", fields)

    def move(self, buckets: Sequence[int], target: int, address: str) -> BucketMap:
        """See `Departures.move`; the target is told by its address."""
        fields = {"buckets": [int(bucket) for bucket in buckets], "target": target, "address": address}
        return BucketMap.read(self._moves.call("move", fields).fields["map"])

    def tidy(self) -> bool:
        """See `Departures.tidy`."""
        return bool(self._moves.call("tidy").fields["done"])

    def pull_dense(self, known: int, after: int) -> tuple[int, FloatArray | None]:
        """See `TableServer.pull_dense`."""
        reply = self._call("pull_dense", {"known": known, "after": after})
        return int(reply.fields["version"]), reply.arrays.get("dense")


def _row_change(reply: Reply) -> RowChange:
    return RowChange(*(torch.from_numpy(reply.arrays[name]) for name in ("ids", "rows", "removed")))


class _RemoteArrivals:
    """`Peer` over a wire."""

    def __init__(self, call: Callable[..., Reply]) -> None:
        self._call = call

    def begin(self, move: str, mask: Mask, applied: int) -> int:
        return int(self._call("move_begin", {"move": move, "mask": runs_of(mask), "applied": applied}).fields["known"])

    def rows(self, move: str, table: str, place: int, numbers: Mapping[str, int], arrays: Mapping[str, Array]) -> None:
        self._call("move_rows", {"move": move, "table": table, "place": place, "numbers": dict(numbers)}, arrays)

    def delta(self, move: str, sequence: int, part: Part) -> None:
        fields, arrays = pack(part)
        self._call("move_delta", {"move": move, "sequence": sequence} | fields, arrays)

    def prepared(self, move: str, place: int, transaction: Transaction, attempt: int, part: Part) -> None:
        fields, arrays = pack(part)
        told = {"move": move, "place": place, "transaction": transaction.text, "attempt": attempt}
        self._call("move_prepared", told | fields, arrays)

    def end(self, move: str, buckets: BucketMap) -> None:
        self._call("move_end", {"move": move, "map": buckets.fields()})

    def abort(self, move: str) -> None:
        self._call("move_abort", {"move": move})


class _Answers:
    """What a table server answers."""

    def __init__(self, server: TableServer, secret: bytes) -> None:
        self._server, self._secret = server, secret

    def methods(self) -> dict[str, Callable[[Request], Reply | Mapping[str, Any] | None]]:
        """Return every public method by name."""
        return {name: getattr(self, name) for name in vars(type(self)) if name[0] != "_" and name != "methods"}

    def open(self, request: Request) -> dict[str, Any]:
        return self._server.open(request.fields["prints"])

    def lookup(self, request: Request) -> Reply:
        fields, ids, at = request.fields, dict[str, IdArray](), 0
        for name, rows in fields["tables"]:
            ids[str(name)] = request.arrays["ids"][at : at + rows]
            at += rows
        found = self._server.lookup(int(fields["version"]), int(fields["after"]), ids)
        return Reply({}, {str(place): found[name] for place, name in enumerate(ids)})

    def prepare(self, request: Request) -> None:
        fields = request.fields
        part, transaction = unpack(fields, request.arrays), Transaction.parse(fields["transaction"])
        self._server.prepare(transaction, int(fields["attempt"]), int(fields["version"]), part)

    def apply(self, request: Request) -> dict[str, Any]:
        evicted, version = 0, _version(request)
        for sequence, texts in request.fields["steps"]:
            evicted = self._server.apply(int(sequence), [Transaction.parse(text) for text in texts], version)
        return {"evicted": evicted}

    def fence(self, request: Request) -> None:
        self._server.fence(int(request.fields["epoch"]), str(request.fields["worker"]))

    def discard(self, request: Request) -> None:
        self._server.discard([Transaction.parse(text) for text in request.fields["transactions"]])

    def advance(self, request: Request) -> None:
        self._server.advance(BucketMap.read(request.fields["map"]))

    def changes(self, request: Request) -> Reply:
        fields = request.fields
        return _told(self._server.changes(str(fields["name"]), int(fields["since"]), int(fields["after"]),
                                          _version(request)))  # fmt: skip

    def rows(self, request: Request) -> Reply:
        return _told(self._server.rows(str(request.fields["name"]), int(request.fields["after"]), _version(request)))

    def marks(self, request: Request) -> dict[str, Any]:
        return {"marks": self._server.marks()}

    def forget(self, request: Request) -> None:
        self._server.forget({str(name): int(mark) for name, mark in request.fields["marks"].items()})

    def stats(self, request: Request) -> dict[str, Any]:
        return self._server.stats()

    def bucket_loads(self, request: Request) -> Reply:
        return Reply({}, {"loads": self._server.load.buckets()})

    def plan_copy(self, request: Request) -> None:
        self._server.copies.plan(int(request.fields["sequence"]))

    def collect_copy(self, request: Request) -> dict[str, Any]:
        return self._server.copies.gather(int(request.fields["sequence"]))

    def restore(self, request: Request) -> None:
        fields = request.fields
        self._server.copies.restore(BucketMap.read(fields["map"]), int(fields["applied"]), fields["copies"])

    def move(self, request: Request) -> dict[str, Any]:
        fields = request.fields
        peer = ServerClient(str(fields["address"]), self._secret)
        try:
            after = self._server.departures.move(fields["buckets"], int(fields["target"]), peer.arrivals)
        finally:
            peer.close()
        return {"map": after.fields()}

    def tidy(self, request: Request) -> dict[str, Any]:
        return {"done": self._server.departures.tidy()}

    def pull_dense(self, request: Request) -> Reply:
        version, values = self._server.pull_dense(int(request.fields["known"]), int(request.fields["after"]))
        return Reply({"version": version}, {} if values is None else {"dense": values})

    def move_begin(self, request: Request) -> dict[str, Any]:
        fields, mask = request.fields, of_runs(request.fields["mask"]).astype(bool)
        return {"known": self._server.arrivals.begin(str(fields["move"]), mask, int(fields["applied"]))}

    def move_rows(self, request: Request) -> None:
        fields = request.fields
        self._server.arrivals.rows(str(fields["move"]), str(fields["table"]), int(fields["place"]), fields["numbers"],
                                   request.arrays)  # fmt: skip

    def move_delta(self, request: Request) -> None:
        fields = request.fields
        self._server.arrivals.delta(str(fields["move"]), int(fields["sequence"]), unpack(fields, request.arrays))

    def move_prepared(self, request: Request) -> None:
        fields, part = request.fields, unpack(request.fields, request.arrays)
        transaction = Transaction.parse(fields["transaction"])
        self._server.arrivals.prepared(str(fields["move"]), int(fields["place"]), transaction, int(fields["attempt"]),
                                       part)  # fmt: skip

    def move_end(self, request: Request) -> None:
        self._server.arrivals.end(str(request.fields["move"]), BucketMap.read(request.fields["map"]))

    def move_abort(self, request: Request) -> None:
        self._server.arrivals.abort(str(request.fields["move"]))


def _version(request: Request) -> int | None:
    version = request.fields.get("version")
    return None if version is None else int(version)


def _told(change: RowChange) -> Reply:
    return Reply({}, {"ids": change.ids.numpy(), "rows": change.rows.numpy(), "removed": change.removed.numpy()})


def serve_tables(
    number: int, configs: Sequence[TableConfig], secret: bytes, *, address: str = "127.0.0.1:0",
    folder: Path | None = None, dense: DenseServer | None = None, remote: bool = False,
    limits: ServerLimits | None = None,
) -> tuple[Server, TableServer]:  # fmt: skip
    """Start a table server, which owns nothing yet; whoever leads gives it buckets by `restore`.

    Args:
        number: Of the server.
        configs: All tables.
        secret: Of the run.
        address: To listen on.
        folder: For copies; all servers and the head must see the same one.
        dense: The dense part, where this server keeps it.
        remote: Whether other machines may reach it; see `headrace.runtime.wire.Server`.
        limits: What it waits for and holds.

    Returns:
        The socket's end, to be closed, and the server behind it.
    """
    server = TableServer(number, configs, BucketMap.even([NOBODY]), folder=folder, dense=dense, limits=limits)
    wire = Server(_Answers(server, secret).methods(), address, secret, remote=remote)
    return wire, server


NOBODY = 1 << 30
"""Number of the server that owns what nobody has been given yet."""
