"""`headrace inspect cluster FOLDER|ADDRESS`: workers, table servers, shards and decisions of a run, once or live."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.live import Live

from headrace.cli.cluster_view import Status, age_s, draw_cluster
from headrace.cli.output import console, print_json
from headrace.config import require
from headrace.errors import ConfigError, DataError
from headrace.online import RunFolder
from headrace.runtime.frames import SECRET_VARIABLE
from headrace.runtime.wire import Connection, secret_of

STATUS = "cluster"
EVERY_S = 0.5
TIMEOUT_S = 5.0


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `--watch` and `--secret-from`."""
    parser.add_argument("--watch", action="store_true", help="with `cluster`: look again and again, until Ctrl-C")
    parser.add_argument("--secret-from", type=Path, metavar="FOLDER", help="with `cluster ADDRESS`: the run folder "
                        "that holds the run's secret (default: HEADRACE_SECRET)")  # fmt: skip


def refuse_without_cluster(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for an option that `inspect cluster` alone heeds."""
    for name in ("watch", "secret_from"):
        value = getattr(arguments, name)
        require(not value, f"--{name.replace('_', '-')}", got=value, expected="nothing, but with `inspect cluster`",
                do="headrace inspect cluster FOLDER|ADDRESS")  # fmt: skip


def cluster(words: Sequence[str], arguments: argparse.Namespace) -> int:
    """Show a run on many machines, from its folder or from its head.

    Raises:
        ConfigError: If there is not exactly one folder or address.
        DataError: If no such run was ever started there.
    """
    if len(words) != 1:
        raise ConfigError("inspect cluster", got=f"{len(words)} words", do="headrace inspect cluster FOLDER",
                          expected="one run folder, or host:port of a head")  # fmt: skip
    read = reader(words[0], arguments.secret_from)
    status = read()
    if arguments.json:
        print_json(dict(status))
        return 0
    if not arguments.watch:
        console().print(draw_cluster(status, stale_s=age_s(status)))
        return 0
    with Live(draw_cluster(status, stale_s=age_s(status)), console=console(), auto_refresh=False) as live:
        while not status.get("finished"):
            time.sleep(EVERY_S)
            status = read()
            live.update(draw_cluster(status, stale_s=age_s(status)), refresh=True)
    return 0


def reader(place: str, secret_from: Path | None) -> Callable[[], Status]:
    """Return what reads the newest status of a run: from its folder, or by asking its head."""
    folder = Path(place)
    host, _, port = place.rpartition(":")
    if folder.is_dir() or not (host and port.isdigit()):
        return lambda: from_folder(folder)
    told = secret_from is not None or bool(os.environ.get(SECRET_VARIABLE))
    require(told, "Secret of the run", got="none", expected="the one that its head knows",
            do=f"Add --secret-from RUN_FOLDER, or set {SECRET_VARIABLE}.")  # fmt: skip
    connection = Connection(place, secret_of(secret_from or Path()), TIMEOUT_S)
    return lambda: dict(connection.call("status").fields)


def from_folder(folder: Path) -> dict[str, Any]:
    """Return what the head of a run last wrote down.

    Raises:
        DataError: If there is nothing.
    """
    status = RunFolder(folder).read_status(STATUS)
    if not status:
        raise DataError(f"Folder {folder}", got="no run on a cluster", expected="the folder of one",
                        do="headrace run RECIPE --cluster local --folder FOLDER starts one.")  # fmt: skip
    return status
