"""Training on many machines: workers that come and go, table servers, and a head that decides what counts."""

from __future__ import annotations

from headrace.elastic.applier import Applier
from headrace.elastic.buckets import BucketMap, Move, relief_plan
from headrace.elastic.directory import BucketDirectory, Directory, carry_out
from headrace.elastic.remote_tables import RemoteTable, RemoteTables
from headrace.elastic.table_server import ServerLimits, TableServer
from headrace.elastic.table_wire import ServerClient, serve_tables
from headrace.elastic.transactions import Transaction

__all__ = [
    "Applier",
    "BucketDirectory",
    "BucketMap",
    "Directory",
    "Move",
    "RemoteTable",
    "RemoteTables",
    "ServerClient",
    "ServerLimits",
    "TableServer",
    "Transaction",
    "carry_out",
    "relief_plan",
    "serve_tables",
]
