"""The processes of an elastic run: `python -m headrace.elastic head|server|worker FOLDER [--head HOST:PORT]`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path


def main() -> None:
    """Run one role until the run has ended."""
    status = 1
    try:
        run_role()
        status = 0
    except Exception:
        logging.getLogger(__name__).exception("the process ends")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # threads of groups that were put aside may wait for processes that are frozen


def run_role() -> None:
    """Do what the command line says."""
    from headrace.runtime.launch import launched

    me = launched()
    parser = argparse.ArgumentParser(prog="python -m headrace.elastic", description=__doc__)
    parser.add_argument("role", choices=("head", "server", "worker"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--head", default="", help="address of the head")
    parser.add_argument("--name", default=me.name, help="of this process, such as worker-3")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    me = replace(me, name=given.name or f"{given.role}-0")
    if given.role == "head":
        from headrace.elastic.head_start import run_head

        run_head(given.folder, me)
    elif given.role == "server":
        _threads()
        from headrace.elastic.server import run_server

        run_server(given.folder, me)
    else:
        _threads()
        from headrace.elastic.async_worker import AsyncWorker
        from headrace.elastic.config import ElasticConfig
        from headrace.elastic.worker import Worker, run_worker

        kind = AsyncWorker if ElasticConfig.read(given.folder).mode == "async" else Worker
        run_worker(given.folder, me, given.head, kind)


def _threads() -> None:
    """Compute in as many threads as the environment says, one where it says nothing."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


if __name__ == "__main__":
    main()
