"""A whole elastic run inside this process, every role in threads of its own: for tests of what is learned."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from headrace.elastic.config import ElasticConfig
from headrace.elastic.head import Head
from headrace.elastic.job import Job
from headrace.elastic.table_wire import serve_tables
from headrace.elastic.worker import Worker
from headrace.errors import HeadraceError
from headrace.runtime.launch import Launched
from headrace.runtime.wire import Connection, Server, secret_of


class Cluster:
    """Head, servers and workers of a run, in threads."""

    def __init__(self, config: ElasticConfig) -> None:
        self.config = config
        config.write()
        self.secret = secret_of(config.folder, create=True)
        self.head = Head(config, self.secret)
        self.wire = Server(self.head.methods(), secret=self.secret, closed=self.head.closed)
        self.servers: dict[int, tuple[Server, Any]] = {}
        self.workers: dict[str, Worker] = {}
        self.threads: dict[str, threading.Thread] = {}
        self.errors: dict[str, BaseException] = {}
        threading.Thread(target=self.head.run, args=(self.wire,), daemon=True).start()
        for number in range(config.servers):
            self._serve(number)

    def start(self, *names: str) -> None:
        """Start workers."""
        for name in names:
            worker = Worker(self.config, Launched(name, "127.0.0.1"), self.wire.address, self.secret)
            self.workers[name] = worker
            self.threads[name] = threading.Thread(target=self._run, args=(name, worker), daemon=True)
            self.threads[name].start()

    def _run(self, name: str, worker: Worker) -> None:
        try:
            worker.run()
        except HeadraceError as error:
            self.errors[name] = error
        finally:
            worker.agent.stop()

    def wait(self, timeout_s: float = 60.0) -> None:
        """Wait for all workers to come to the end; raise what one of them raised."""
        for name, thread in self.threads.items():
            thread.join(timeout_s)
            assert not thread.is_alive(), f"{name} hangs at step {self.workers[name].taken}"
        for error in self.errors.values():
            raise error

    def cut_off(self, name: str) -> None:
        """Let a worker die as far as the others can see: its connections end, and it says nothing more."""
        worker = self.workers[name]
        worker.agent.stop()
        worker._connection.close()
        worker._group.abort()

    def die(self, name: str) -> None:
        """Let a worker die, and forget it."""
        self.cut_off(name)
        self.threads.pop(name).join(20)
        self.errors.pop(name, None)
        del self.workers[name]

    def restart_server(self, number: int) -> None:
        """Let a table server die, and start another one in its place."""
        self.servers[number][0].close()
        self._serve(number)

    def _serve(self, number: int) -> None:
        copies = self.config.saved_in / "tables"
        copies.mkdir(parents=True, exist_ok=True)
        wire, server = serve_tables(number, Job(self.config).tables, self.secret, folder=copies)
        self.servers[number] = (wire, server)
        with Connection(self.wire.address, self.secret) as connection:
            connection.call("set_server", {"number": number, "address": wire.address})

    def restart_head(self) -> None:
        """Let the head die, and start another one where it listened."""
        address = self.wire.address
        self.head._stopped.set()
        self.wire.close()
        self.head.queue.shut()
        self.head = Head(self.config, self.secret)
        self.wire = Server(self.head.methods(), address, self.secret, closed=self.head.closed)
        threading.Thread(target=self.head.run, args=(self.wire,), daemon=True).start()
        for number, (wire, _) in self.servers.items():
            with Connection(address, self.secret) as connection:
                connection.call("set_server", {"number": number, "address": wire.address})

    def weights(self) -> dict[str, torch.Tensor]:
        """Return dense weights of the first worker and all rows of the tables, by name."""
        worker = next(worker for name, worker in self.workers.items() if name not in self.errors)
        found = {f"dense/{name}": value.detach().clone() for name, value in worker.learner.model.state_dict().items()}
        for name, table in worker.remote.tables.items():
            change = table.rows()
            found |= {f"{name}/ids": change.ids, f"{name}/rows": change.rows}
        return found

    def close(self) -> None:
        """End everything."""
        for worker in self.workers.values():
            worker.agent.stop()
        self.head.close()
        self.wire.close()
        for wire, _ in self.servers.values():
            wire.close()


@contextmanager
def cluster(folder: Path, **settings: Any) -> Iterator[Cluster]:
    """Open a run of toy data, to be closed at the end."""
    given = {"recipe": "headrace.elastic.toy:toy", "arguments": {"rows": 2000}, "publish": False} | settings
    one = Cluster(ElasticConfig(folder=folder, **given))
    try:
        yield one
    finally:
        with contextlib.suppress(HeadraceError):
            one.close()


def learned(folder: Path, workers: int, **settings: Any) -> dict[str, torch.Tensor]:
    """Return what so many workers learn."""
    with cluster(folder, workers=workers, **settings) as run:
        run.start(*(f"worker-{number}" for number in range(workers)))
        run.wait()
        return run.weights()


if __name__ == "__main__":
    import sys
    import tempfile
    import time

    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    for count in map(int, sys.argv[1:]):
        begun = time.monotonic()
        found = learned(Path(tempfile.mkdtemp()), count)
        print(count, time.monotonic() - begun, {k: float(v.double().sum()) for k, v in found.items()}, flush=True)
