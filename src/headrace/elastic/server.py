"""A table server's process."""

from __future__ import annotations

import threading
from pathlib import Path

from headrace.elastic.checkpoints import ElasticCheckpoint
from headrace.elastic.config import ElasticConfig
from headrace.elastic.dense_server import DenseServer
from headrace.elastic.job import Job
from headrace.elastic.server_parts import ServerLimits
from headrace.elastic.table_wire import serve_tables
from headrace.runtime.launch import Launched, announce
from headrace.runtime.wire import secret_of
from headrace.store import open_table


def run_server(folder: Path, me: Launched) -> None:
    """Serve tables until the process is ended.

    Args:
        folder: Of the run.
        me: What this process knows of itself.
    """
    config = ElasticConfig.read(folder)
    number = int(me.name.rpartition("-")[2])
    job, copies = Job(config), ElasticCheckpoint(config.saved_in).tables
    copies.mkdir(parents=True, exist_ok=True)
    dense = dense_part(job) if config.mode == "async" and number == 0 else None
    wire, server = serve_tables(number, job.tables, secret_of(folder), address=f"{me.host}:0", folder=copies,
                                dense=dense, remote=config.remote, limits=limits_of(config))  # fmt: skip
    pattern = config.pattern
    if pattern is not None:
        server.delay = lambda rows: pattern.server_s(number, rows, 0.0, me.generation)
    announce(wire.address)
    threading.Event().wait()


def limits_of(config: ElasticConfig) -> ServerLimits:
    """Return what a table server of a run waits for and holds."""
    return ServerLimits(wait_s=config.lookup_wait_s, prepared_bytes=config.prepared_bytes)


def dense_part(job: Job) -> DenseServer:
    """Return the dense part of a job, with its initial parameters."""
    learner = job.learner({config.name: open_table(config) for config in job.tables})
    return DenseServer(learner.model, learner.optimizer, job.fit.dense.schedule)
