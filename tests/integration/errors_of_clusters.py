"""The provokers of the errors of runs on many machines in docs/how-to/errors.md; see test_errors_table.py."""

from __future__ import annotations

import argparse
import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.cli.inspect_cluster import reader
from headrace.cli.run import add_arguments, run
from headrace.elastic.buckets import BucketMap
from headrace.elastic.table_server import TableServer
from headrace.elastic.transactions import Part, Transaction
from headrace.errors import HeadraceError
from headrace.runtime import Crew, Exit, QueueConfig, RestartConfig, RoleCommand, ShardQueue
from headrace.runtime.frames import prove, secret_of
from headrace.runtime.ledger_file import LedgerFile

SECRETS = b"the secret of a run", b"the secret of another"


def caught(act: Callable[[], object]) -> HeadraceError:
    """Return the error of an action that has to fail."""
    with pytest.raises(HeadraceError) as found:
        act()
    return found.value


def command_line(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["headrace.elastic.demo:clicks", *words])


def error_51(folder: Path) -> HeadraceError:
    """A run folder without a secret."""
    error = caught(lambda: secret_of(folder))
    assert list(folder.iterdir()) == []
    return error


def error_52(folder: Path) -> HeadraceError:
    """A secret that others may read."""
    (folder / "secret").write_text("a secret of this run")
    (folder / "secret").chmod(0o644)
    return caught(lambda: secret_of(folder))


def error_53(folder: Path) -> HeadraceError:
    """The head of a run is asked by somebody who names no secret."""
    return caught(lambda: reader("127.0.0.1:9", None))


def error_54(folder: Path) -> HeadraceError:
    """Two processes with different secrets."""
    here, there = socket.socketpair()

    def other() -> None:
        with there, contextlib.suppress(HeadraceError, OSError):
            prove(there, SECRETS[1], server=False)

    thread = threading.Thread(target=other)
    thread.start()
    with here:
        error = caught(lambda: prove(here, SECRETS[0], server=True))
    thread.join()
    return error


def error_55(folder: Path) -> HeadraceError:
    """A worker that everybody took for dead says what it had learned."""
    server = TableServer(0, [], BucketMap.even([0]))
    server.fence(2)
    return caught(lambda: server.prepare(Transaction("worker-1", 1, 7), 0, 0, Part({})))


def error_56(folder: Path) -> HeadraceError:
    """A head that was replaced goes on writing."""
    first = LedgerFile(folder / "queue.db", "process")
    second = LedgerFile(folder / "queue.db", "process")
    first.append(1, "{}")
    error = caught(lambda: first.flush(1))
    second.append(1, "{}")
    second.flush(1)  # the newest one may
    for ledger in (first, second):
        ledger.close()
    return error


class Dying:
    """A launcher whose processes die at once."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def start(self, command: RoleCommand) -> None:
        self.started.append(command.name)

    def exits(self, timeout_s: float = 0.0) -> list[Exit]:
        told, self.started = self.started, []
        return [Exit(name, 1, time.monotonic(), "No module named 'shop'") for name in told]

    def stop(self, name: str, timeout_s: float = 10.0) -> None:
        pass

    def close(self) -> None:
        pass


def error_57(folder: Path) -> HeadraceError:
    """A process that dies again and again."""
    crew = Crew(Dying(), lambda role, index: RoleCommand(name=f"{role}-{index}", role=role, words=("run",)),  # type: ignore[arg-type]
                {"worker": 1}, RestartConfig(give_up_after=2))  # fmt: skip
    crew.start()

    def follow() -> None:
        for _ in range(10):
            crew.poll()

    return caught(follow)


def error_58(folder: Path) -> HeadraceError:
    """So many rows cannot be learned that it is not the rows."""
    queue = ShardQueue(None, QueueConfig(shard_rows=8, quarantine_limit=2, retry_s=0.0))
    queue.add("clicks", 8)
    grant = queue.lease("worker-0")
    assert grant is not None
    for position in range(3):
        queue.fail(grant, position, "the loss is nan")
    error = caught(lambda: queue.lease("worker-1"))
    assert len(queue.quarantined()) == 3
    return error


def error_59(folder: Path) -> HeadraceError:
    """A role that does not exist is given room on a cluster."""
    return caught(lambda: run(command_line("--cluster", "ray", "--place", "wroker=cpu:2")))


def error_60(folder: Path) -> HeadraceError:
    """An option of a cluster, and no cluster."""
    return caught(lambda: run(command_line("--workers", "4", "--folder", str(folder / "run"))))
