"""The first moments of the head's process: it listens at once, and answers when it has imported what it needs."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from headrace.elastic.calls import METHODS
from headrace.elastic.settings_file import settings_in
from headrace.runtime.frames import Request
from headrace.runtime.launch import Launched, announce
from headrace.runtime.wire import Handler, Server, secret_of


class Gate:
    """Lets calls wait until there is somebody to answer them."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._methods: dict[str, Handler] = {}
        self._closed: Any = None

    def open(self, head: Any) -> None:
        """Let a head answer."""
        self._methods = head.methods()
        self._closed = head.closed
        self._open.set()

    def answer(self, request: Request) -> Any:
        """Answer a call, when that is possible."""
        self._open.wait()
        return self._methods[request.method](request)

    def closed(self, session: dict[str, Any]) -> None:
        """Note that a connection has ended."""
        if self._closed is not None:
            self._closed(session)


def run_head(folder: Path, me: Launched) -> None:
    """Run the head until the run has ended.

    Args:
        folder: Of the run.
        me: What this process knows of itself.
    """
    secret, gate = secret_of(folder), Gate()
    remote = bool(settings_in(folder).get("remote"))
    wire = _listen(folder, me.host, secret, gate, remote=remote)
    _note(folder / "head.json", {"address": wire.address, "pid": os.getpid()})
    announce(wire.address)
    from headrace.elastic.async_head import AsyncHead
    from headrace.elastic.config import ElasticConfig
    from headrace.elastic.head import Head

    config = ElasticConfig.read(folder)
    head = AsyncHead(config, secret) if config.mode == "async" else Head(config, secret)
    gate.open(head)
    try:
        head.run(wire)
    finally:
        head.close()
        wire.close()


def _note(path: Path, values: dict[str, Any]) -> None:
    """Write a small file whole, or not at all."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    beside.write_text(json.dumps(values))
    beside.replace(path)


def _listen(folder: Path, host: str, secret: bytes, gate: Gate, *, remote: bool) -> Server:
    """Listen where the head before did, so that who knows its address finds this one; else anywhere."""
    path, methods = folder / "head.json", dict.fromkeys(METHODS, gate.answer)
    try:
        port = int(str(json.loads(path.read_text())["address"]).rpartition(":")[2])
        return Server(methods, f"{host}:{port}", secret, closed=gate.closed, remote=remote)
    except (OSError, ValueError, KeyError):  # the first head, or somebody else has the port now
        return Server(methods, f"{host}:0", secret, closed=gate.closed, remote=remote)
