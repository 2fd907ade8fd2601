"""A table server as a process of its own, for tests that kill it: `elastic_server.py FOLDER`; prints its address."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import torch

from headrace.elastic.table_wire import serve_tables
from headrace.store import Adagrad, TableConfig

SECRET = b"s" * 32
CONFIGS = tuple(TableConfig(name=name, dim=16, rule=Adagrad(lr=0.1), seed=1) for name in ("user", "item"))


def main() -> None:
    """Serve until killed."""
    torch.set_num_threads(1)
    wire, _ = serve_tables(0, CONFIGS, SECRET, folder=Path(sys.argv[1]))
    print(wire.address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
