"""How worker processes hand what they served to the one process that writes the event log: frames on a local socket.

A frame is its length (4 bytes, little-endian, of what follows the head), its kind (1), a number (8) and a payload.
Rows go to the writer as an Arrow stream and come back as an answer with the same number, once they are durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import struct
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol, cast

from headrace.errors import HeadraceError, StoreError
from headrace.serve.event_writer import Written
from headrace.types import Events

_log = logging.getLogger(__name__)
HEAD = struct.Struct("<IBQ")
ROWS, TOLD, DURABLE, REFUSED = range(4)
MAX_FRAME = 64 << 20


class Recorder(Protocol):
    """What takes rows: a rank service."""

    def record(self, rows: Events) -> Future[Written]:
        """Hand impressions to the log; the future is done when they are durable."""
        ...


class ImpressionDesk:
    """The writer's end: takes rows of any number of workers.

    Args:
        recorder: Where rows go.
        told: Called with what workers tell about themselves, plain values.

    Thread-safety: runs in one event loop.
    """

    def __init__(self, recorder: Recorder, told: Callable[[dict[str, object]], None]) -> None:
        self.recorder, self._told = recorder, told
        self._server: asyncio.Server | None = None

    async def start(self, path: Path) -> None:
        """Listen on a socket of the file system; nobody but this user can reach it."""
        self._server = await asyncio.start_unix_server(self._serve, path)
        path.chmod(0o600)

    async def close(self) -> None:
        """Take no more connections."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                size, kind, number = HEAD.unpack(await reader.readexactly(HEAD.size))
                if size > MAX_FRAME:
                    raise ConnectionError(f"a frame of {size} bytes")
                payload = await reader.readexactly(size)
                if kind == TOLD:
                    self._told(dict(json.loads(payload)))
                elif kind == ROWS:
                    self._take(payload, number, writer)
        except (asyncio.IncompleteReadError, ConnectionError, OSError):
            pass  # the worker ended
        finally:
            writer.close()

    def _take(self, payload: bytes, number: int, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()

        def answer(done: Future[Written]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(_answer, writer, number, done.exception())

        try:
            self.recorder.record(Events.from_bytes(payload)).add_done_callback(answer)
        except Exception as error:  # noqa: BLE001  one worker's rows must not end the others' connection
            if not isinstance(error, HeadraceError):
                _log.exception("could not take the rows of a worker")
            _answer(writer, number, error)


def _answer(writer: asyncio.StreamWriter, number: int, error: BaseException | None) -> None:
    if writer.is_closing():
        return
    if error is None:
        writer.write(HEAD.pack(0, DURABLE, number))
        return
    parts = {"what": "Event log", "got": type(error).__name__, "expected": "rows that are durable", "do": ""}
    if isinstance(error, HeadraceError):
        parts = {"what": error.what, "got": str(error.got), "expected": error.expected, "do": error.do}
    payload = json.dumps(parts).encode()
    writer.write(HEAD.pack(len(payload), REFUSED, number) + payload)


class ImpressionLink(asyncio.Protocol):
    """A worker's end: sends rows, and hears when they are durable. Connects again whenever it has to.

    Args:
        path: The writer's socket.

    Thread-safety: runs in one event loop.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._number, self._rest = 0, b""
        self._transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None

    def submit(self, rows: bytes) -> asyncio.Future[None]:
        """Send rows; the future is done when they are durable, or has the error."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._number += 1
        self._waiting[self._number] = future
        self._send(HEAD.pack(len(rows), ROWS, self._number) + rows)
        return future

    def tell(self, values: dict[str, object]) -> None:
        """Send plain values; nobody answers."""
        payload = json.dumps(values).encode()
        self._send(HEAD.pack(len(payload), TOLD, 0) + payload)

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    def _send(self, frame: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)
            return
        task, earlier = None, self._connecting

        async def connect() -> None:
            if earlier is not None and not earlier.done():
                await asyncio.wait([earlier])
            try:
                if self._transport is None or self._transport.is_closing():
                    await asyncio.get_running_loop().create_unix_connection(lambda: self, str(self.path))
                assert self._transport is not None
                self._transport.write(frame)
            except OSError as error:
                self._fail(StoreError("Event log", got=str(error), expected="the process that writes it",
                                      do="It is being started again; try again in a second."))  # fmt: skip

        task = asyncio.get_running_loop().create_task(connect())
        self._connecting = task

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self._transport, self._rest = cast(asyncio.Transport, transport), b""

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell those who wait that nobody knows whether their rows are durable."""
        self._transport = None
        self._fail(StoreError("Event log", got="an end of the connection", expected="an answer",
                              do="Try again: what was written counts once."))  # fmt: skip

    def data_received(self, data: bytes) -> None:
        """Read answers."""
        self._rest += data
        while len(self._rest) >= HEAD.size:
            size, kind, number = HEAD.unpack_from(self._rest)
            if len(self._rest) < HEAD.size + size:
                return
            payload, self._rest = self._rest[HEAD.size : HEAD.size + size], self._rest[HEAD.size + size :]
            future = self._waiting.pop(number, None)
            if future is None or future.done():
                continue
            if kind == DURABLE:
                future.set_result(None)
            else:
                parts = json.loads(payload)
                future.set_exception(StoreError(parts["what"], got=parts["got"], expected=parts["expected"],
                                                do=parts["do"]))  # fmt: skip

    def _fail(self, error: HeadraceError) -> None:
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(error)
