"""A bad network on one machine: a TCP proxy with delay, a slow line, losses, partitions and cut connections."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Literal, Self

from headrace.config import require
from headrace.testing.closing import Closing

CHUNK_BYTES = 1 << 14
CLOSED_S = 0.05
"""Seconds between two looks at whether a proxy was closed meanwhile."""
QUEUE_CHUNKS = 256
Way = Literal["there", "back"]
WAYS: tuple[Way, ...] = ("there", "back")


@dataclass(frozen=True, kw_only=True)
class Line:
    """How bad one direction of a link is.

    Attributes:
        delay_s: How much later each chunk arrives.
        jitter_s: Up to so much later still, drawn for each chunk; the order of the bytes stays.
        bytes_per_s: Speed of each connection; None: no limit.
        loss: Probability that a chunk of up to 16 KiB is lost and sent again.
        retransmit_s: How much later a lost chunk arrives.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float | None = None
    loss: float = 0.0
    retransmit_s: float = 0.2

    def __post_init__(self) -> None:
        for name in ("delay_s", "jitter_s", "retransmit_s"):
            require(getattr(self, name) >= 0, name, got=getattr(self, name), expected="0 or more seconds")
        speed = self.bytes_per_s
        require(speed is None or speed > 0, "bytes_per_s", got=speed, expected="None or positive")
        require(0 <= self.loss < 1, "loss", got=self.loss, expected="a probability below 1")


class TcpProxy(Closing):
    """Forwards loopback TCP connections to a target, as badly as it is told; use it as a context manager.

    TCP repairs lost packets, so a program sees a loss as a pause: each lost chunk, and everything behind it, comes
    `retransmit_s` later. A partition lets nothing through, one way or both, and neither side is told. `there` is the
    way from the client to the target, `back` the other one. `set` changes both while it runs, or one of them.

    Args:
        target: Host and port to forward to.
        delay_s: As in `Line`, for both ways.
        bytes_per_s: As in `Line`, for both ways.
        loss: As in `Line`, for both ways.
        retransmit_s: As in `Line`, for both ways.
        seed: Of losses, jitter and refusals.
        jitter_s: As in `Line`, for both ways.
        refuse: Probability that a connection is reset as soon as it was accepted.

    Example:
        >>> server = socket.create_server(("127.0.0.1", 0))
        >>> with server, TcpProxy(server.getsockname(), delay_s=0.01) as proxy:
        ...     with socket.create_connection(proxy.address) as client:
        ...         client.sendall(b"ping")
        ...         inner, _ = server.accept()
        ...         with inner:
        ...             inner.recv(4)
        b'ping'
    """

    def __init__(
        self, target: tuple[str, int], *, delay_s: float = 0.0, bytes_per_s: float | None = None, loss: float = 0.0,
        retransmit_s: float = 0.2, seed: int = 0, jitter_s: float = 0.0, refuse: float = 0.0,
    ) -> None:  # fmt: skip
        line = Line(delay_s=delay_s, jitter_s=jitter_s, bytes_per_s=bytes_per_s, loss=loss, retransmit_s=retransmit_s)
        require(0 <= refuse <= 1, "refuse", got=refuse, expected="a probability")
        self.target, self.refuse, self.forwarded_bytes, self.accepted = (target[0], target[1]), refuse, 0, 0
        self.lines: dict[Way, Line] = dict.fromkeys(WAYS, line)
        self._chance, self._loop = random.Random(seed), asyncio.new_event_loop()
        self._open = {way: asyncio.Event() for way in WAYS}
        self._writers = set[asyncio.StreamWriter]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = ("127.0.0.1", int(self._listener.getsockname()[1]))
        self._thread = threading.Thread(target=self._serve, name="tcp-proxy", daemon=True)
        self._tasks = set[asyncio.Task[None]]()
        self._stop = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def set(self, line: Line, way: Way | None = None) -> None:
        """Make the line so, one way or (None) both; chunks that are already on their way arrive as they would have."""
        for each in WAYS if way is None else (way,):
            self.lines[each] = line

    def partition(self, way: Way | None = None) -> None:
        """Let nothing through until `heal`, one way or (None) both; connections stay, and new ones seem to open."""
        for each in WAYS if way is None else (way,):
            self._call(self._open[each].clear)

    def heal(self, way: Way | None = None) -> None:
        """End a partition, one way or (None) both; what was held back is delivered."""
        for each in WAYS if way is None else (way,):
            self._call(self._open[each].set)

    def cut(self) -> None:
        """Reset every open connection on both sides."""
        self._call(self._reset)

    def close(self) -> None:
        """Stop, and cut what is open."""
        if self._thread.is_alive():
            self._call(self._reset)
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        elif not self._loop.is_closed():
            self._loop.close()
        self._listener.close()

    def _call(self, what: Callable[[], object]) -> None:
        """Run a function in the proxy's thread and wait until it has run; one that has ended has nothing to change."""
        done = threading.Event()

        def run() -> None:
            what()
            done.set()

        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(run)
        while not done.wait(CLOSED_S) and not self._loop.is_closed():
            pass

    def _serve(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._listen())

    async def _listen(self) -> None:
        for gate in self._open.values():
            gate.set()
        server = await asyncio.start_server(self._accept, sock=self._listener)
        await self._stop.wait()
        server.close()
        self._reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _reset(self) -> None:
        for writer in list(self._writers):
            _abort(writer)
        self._writers.clear()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._start(self._connection(reader, writer))

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.add(writer)
        if self.refuse > 0 and self._chance.random() < self.refuse:
            _abort(writer)
            self._writers.discard(writer)
            return
        await self._open["there"].wait()
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            self._writers.discard(writer)
            return
        self._writers.add(far_writer)
        there, back = self._pump("there", reader, far_writer), self._pump("back", far_reader, writer)
        both = [self._start(there), self._start(back)]
        await asyncio.gather(*both, return_exceptions=True)
        for end in (writer, far_writer):
            self._writers.discard(end)
            end.close()

    def _start(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _pump(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one direction of one connection until it ends."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUE_CHUNKS)
        sending = self._start(self._send(way, queue, writer))
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                await queue.put((time.monotonic() + self._lateness(self.lines[way]), chunk))
        except OSError:
            writer.transport.abort()
        await queue.put((time.monotonic() + self.lines[way].delay_s, b""))
        await sending

    def _lateness(self, line: Line) -> float:
        late = line.delay_s
        if line.loss > 0 and self._chance.random() < line.loss:
            late += line.retransmit_s
        return late + (self._chance.uniform(0.0, line.jitter_s) if line.jitter_s else 0.0)

    async def _send(self, way: Way, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            due, chunk = await queue.get()
            if due > time.monotonic():
                await asyncio.sleep(due - time.monotonic())
            await self._open[way].wait()
            try:
                if not chunk:
                    if writer.can_write_eof() and not writer.is_closing():
                        writer.write_eof()
                    return
                writer.write(chunk)
                await writer.drain()
            except OSError:  # the receiver is gone; the sender learns it from its own side
                writer.transport.abort()
                return
            self.forwarded_bytes += len(chunk)
            speed = self.lines[way].bytes_per_s
            if speed is not None:
                await asyncio.sleep(len(chunk) / speed)


def _abort(writer: asyncio.StreamWriter) -> None:
    """Reset a connection: its other end reads an error, not an end."""
    inner = writer.get_extra_info("socket")
    if inner is not None:
        with contextlib.suppress(OSError):
            inner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
