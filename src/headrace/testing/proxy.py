"""A bad network on one machine: a TCP proxy with delay, a slow line, losses, partitions and cut connections."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Coroutine
from types import TracebackType
from typing import Self

from headrace.config import require

CHUNK_BYTES = 1 << 14
QUEUE_CHUNKS = 256


class TcpProxy:
    """Forwards loopback TCP connections to a target, as badly as it is told; use it as a context manager.

    TCP repairs lost packets, so a program sees a loss as a pause: each lost chunk, and everything behind it, comes
    `retransmit_s` later. A partition lets nothing through, both ways, and neither side is told. All settings may be
    changed while it runs.

    Args:
        target: Host and port to forward to.
        delay_s: How much later each chunk arrives, in each direction.
        bytes_per_s: Speed of the line, in each direction of each connection; None: no limit.
        loss: Probability that a chunk of up to 16 KiB is lost and sent again.
        retransmit_s: How much later a lost chunk arrives.
        seed: Of the losses.

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
        retransmit_s: float = 0.2, seed: int = 0,
    ) -> None:  # fmt: skip
        require(delay_s >= 0, "delay_s", got=delay_s, expected="0 or more seconds")
        require(bytes_per_s is None or bytes_per_s > 0, "bytes_per_s", got=bytes_per_s, expected="None or positive")
        require(0 <= loss < 1, "loss", got=loss, expected="a probability below 1")
        self.target, self.delay_s, self.bytes_per_s = (target[0], target[1]), delay_s, bytes_per_s
        self.loss, self.retransmit_s, self.forwarded_bytes, self.accepted = loss, retransmit_s, 0, 0
        self._chance, self._loop = random.Random(seed), asyncio.new_event_loop()
        self._open, self._writers = asyncio.Event(), set[asyncio.StreamWriter]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = ("127.0.0.1", int(self._listener.getsockname()[1]))
        self._thread = threading.Thread(target=self._serve, name="tcp-proxy", daemon=True)
        self._tasks = set[asyncio.Task[None]]()
        self._stop = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def partition(self) -> None:
        """Let nothing through until `heal`; connections stay open and wait, new ones seem to open."""
        self._call(self._open.clear)

    def heal(self) -> None:
        """End a partition; what was held back is delivered."""
        self._call(self._open.set)

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

    def _call(self, what: object) -> None:
        """Run a function in the proxy's thread and wait until it has run."""
        done = threading.Event()

        def run() -> None:
            assert callable(what)
            what()
            done.set()

        self._loop.call_soon_threadsafe(run)
        done.wait()

    def _serve(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._listen())

    async def _listen(self) -> None:
        self._open.set()
        server = await asyncio.start_server(self._accept, sock=self._listener)
        await self._stop.wait()
        server.close()
        self._reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _reset(self) -> None:
        for writer in list(self._writers):
            inner = writer.get_extra_info("socket")
            if inner is not None:
                with contextlib.suppress(OSError):
                    inner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self._writers.clear()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._start(self._connection(reader, writer))

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.add(writer)
        await self._open.wait()
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            self._writers.discard(writer)
            return
        self._writers.add(far_writer)
        both = [self._start(self._pump(reader, far_writer)), self._start(self._pump(far_reader, writer))]
        await asyncio.gather(*both, return_exceptions=True)
        for end in (writer, far_writer):
            self._writers.discard(end)
            end.close()

    def _start(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one direction of one connection until it ends."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUE_CHUNKS)
        sending = self._start(self._send(queue, writer))
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                lost = self.loss > 0 and self._chance.random() < self.loss
                late = self.delay_s + (self.retransmit_s if lost else 0.0)
                await queue.put((time.monotonic() + late, chunk))
        except OSError:
            writer.transport.abort()
        await queue.put((time.monotonic() + self.delay_s, b""))
        await sending

    async def _send(self, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            due, chunk = await queue.get()
            if due > time.monotonic():
                await asyncio.sleep(due - time.monotonic())
            await self._open.wait()
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
            if self.bytes_per_s is not None:
                await asyncio.sleep(len(chunk) / self.bytes_per_s)
