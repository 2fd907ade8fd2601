"""Table servers in this process, for tests: their record, a directory to them, and tables that ask them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn
from torch.optim import SGD as DenseSGD

from headrace.elastic.buckets import BucketMap
from headrace.elastic.dense_server import DenseServer
from headrace.elastic.directory import BucketDirectory, Directory
from headrace.elastic.remote_tables import RemoteTables
from headrace.elastic.table_server import TableServer
from headrace.elastic.table_wire import ServerClient, serve_tables
from headrace.elastic.transactions import Part, Transaction
from headrace.runtime.wire import Server
from headrace.store import SGD, TableConfig, Zeros

SECRET = b"s" * 32
CONFIGS = (
    TableConfig(name="user", dim=2, rule=SGD(lr=1.0), init=Zeros()),
    TableConfig(name="item", dim=1, rule=SGD(lr=1.0), init=Zeros()),
)


def part(ids: Sequence[int], value: float = -1.0, *, table: str = "user", dense: Sequence[float] = ()) -> Part:
    """Return a part that moves every row of some ids by `-value`."""
    known = np.unique(np.array(ids, np.int64))
    dim = {config.name: config.dim for config in CONFIGS}[table]
    ones = np.ones(len(known), np.int64)
    step = known, np.full((len(known), dim), value, np.float32), ones, ones
    return Part({table: step}, dense=np.array(dense, np.float32))


def named(number: int, worker: str = "w0", epoch: int = 0) -> Transaction:
    return Transaction(worker, epoch, number)


def alone(**settings) -> TableServer:
    """Return a server that owns everything."""
    return TableServer(0, CONFIGS, BucketMap.even([0]), **settings)


def values(server: TableServer, ids: Sequence[int], table: str = "user", after: int = 0) -> list[float]:
    """Return the first value of every row."""
    found = server.lookup(server.map.version, after, {table: np.array(ids, np.int64)})[table]
    return found[:, 0].tolist()


def dense_part() -> DenseServer:
    """Return a dense part of two numbers, 0 and 0, that descends with rate 1."""
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    return DenseServer(model, DenseSGD(model.parameters(), lr=1.0))


@dataclass
class Wired:
    """Servers behind sockets."""

    wires: list[Server]
    servers: list[TableServer]
    record: BucketDirectory
    directory: Directory
    remote: RemoteTables


@contextmanager
def wired(count: int, folder: Path | None = None, *, dense: bool = False, configs=CONFIGS) -> Iterator[Wired]:
    """Start servers that share everything evenly."""
    record, wires, servers = BucketDirectory(BucketMap.even(range(count))), [], []
    for number in range(count):
        wire, server = serve_tables(number, configs, SECRET, folder=folder,
                                    dense=dense_part() if dense and not number else None)  # fmt: skip
        server.copies.restore(record.map, 0, [])
        record.set_server(number, wire.address)
        wires.append(wire)
        servers.append(server)
    directory = Directory(record.fields, lambda address: ServerClient(address, SECRET, retry_s=0.0))
    remote = RemoteTables(configs, directory, patience_s=5.0)
    try:
        yield Wired(wires, servers, record, directory, remote)
    finally:
        remote.close()
        directory.close()
        for wire in wires:
            wire.close()
