"""A whole asynchronous run inside this process: head, servers and workers in threads, for tests of what is learned."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from pathlib import Path

from headrace.elastic.async_head import AsyncHead
from headrace.elastic.async_worker import AsyncWorker
from headrace.elastic.config import ElasticConfig
from headrace.elastic.job import Job
from headrace.elastic.server import dense_part
from headrace.elastic.table_wire import serve_tables
from headrace.errors import HeadraceError
from headrace.runtime.launch import Launched
from headrace.runtime.wire import Server, secret_of


@contextmanager
def running(folder: Path, names: list[str], **settings):
    """Run head, servers and workers in threads of this process; give the workers when all has ended."""
    config = ElasticConfig(recipe="headrace.elastic.toy:toy", arguments={"rows": 1500}, publish=False, mode="async",
                           folder=folder, workers=len(names), shard_rows=100, **settings)  # fmt: skip
    config.write()
    secret, job = secret_of(folder, create=True), Job(config)
    head = AsyncHead(config, secret)
    wire = Server(head.methods(), secret=secret, closed=head.closed)
    servers = [serve_tables(number, job.tables, secret, folder=folder, dense=None if number else dense_part(job))
               for number in range(config.servers)]  # fmt: skip
    for number, (server, _) in enumerate(servers):
        if head.servers.set_server(number, server.address):
            head.servers.begin(head.queue)
    threading.Thread(target=head.run, args=(wire,), daemon=True).start()
    workers = {name: AsyncWorker(config, Launched(name, "127.0.0.1"), wire.address, secret) for name in names}
    try:
        yield head, workers
    finally:
        for worker in workers.values():
            worker.agent.stop()
        head.close()
        wire.close()
        for server, _ in servers:
            server.close()


def run_all(workers) -> None:
    threads = [threading.Thread(target=_run, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
        assert not thread.is_alive()


def _run(worker) -> None:
    try:
        worker.run()
    except HeadraceError:
        if worker.agent._stopped.is_set():
            return  # it was to die
        raise
