"""Training on many machines: workers that come and go, table servers, and a head that decides what counts.

Names are imported when first used: a process of a run listens before it has imported torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.elastic.applier import Applier
    from headrace.elastic.buckets import BucketMap, Move, relief_plan
    from headrace.elastic.config import ElasticConfig
    from headrace.elastic.directory import BucketDirectory, Directory, carry_out
    from headrace.elastic.remote_tables import RemoteTable, RemoteTables
    from headrace.elastic.run_local import run_elastic
    from headrace.elastic.server_parts import ServerLimits
    from headrace.elastic.table_server import TableServer
    from headrace.elastic.table_wire import ServerClient, serve_tables
    from headrace.elastic.transactions import Transaction

__all__ = [
    "Applier",
    "BucketDirectory",
    "BucketMap",
    "Directory",
    "ElasticConfig",
    "Move",
    "RemoteTable",
    "RemoteTables",
    "ServerClient",
    "ServerLimits",
    "TableServer",
    "Transaction",
    "carry_out",
    "relief_plan",
    "run_elastic",
    "serve_tables",
]

_HOMES = {
    "Applier": "applier",
    "BucketDirectory": "directory",
    "BucketMap": "buckets",
    "Directory": "directory",
    "ElasticConfig": "config",
    "Move": "buckets",
    "RemoteTable": "remote_tables",
    "RemoteTables": "remote_tables",
    "ServerClient": "table_wire",
    "ServerLimits": "server_parts",
    "TableServer": "table_server",
    "Transaction": "transactions",
    "carry_out": "directory",
    "relief_plan": "buckets",
    "run_elastic": "run_local",
    "serve_tables": "table_wire",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"headrace.elastic.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'headrace.elastic' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
