"""A worker process's HTTP: `POST /v1/rank` is answered here, everything else by the process that writes the log.

No framework stands in between: a request is parsed by `httptools`, scored in the event loop and written back. What
the fast way does not read (mistakes, unusual bodies, other addresses) is relayed byte for byte, so that there is one
place for rules and error texts.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import cast

import httptools

from headrace.errors import HeadraceError, StoreError
from headrace.serve.access import Doorkeeper
from headrace.serve.door import ARROW, HEADERS, JSON, READ, Refusal, refused
from headrace.serve.fast_rank import Asked, MicroBatches, Scoring
from headrace.serve.impressions import ImpressionLink
from headrace.serve.relay_routes import Relay, client_address
from headrace.serve.settings import ServeConfig

RANK = b"/v1/rank"
MAX_HEAD_BYTES, MAX_QUEUED = 65_536, 16
TELL_S, IDLE_S, GRACE_S, HEAD_S = 1.0, 75.0, 10.0, 10.0
_TARGETS = {RANK: None, RANK + b"?log_impressions=true": True, RANK + b"?log_impressions=false": False}
_KEPT = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items()).encode()


class Worker:
    """What the connections of one worker process share.

    Args:
        scoring: How requests are scored; None: every request is relayed.
        config: Limits and what is logged.
        keeper: Who may enter; its limits are this process's.
        knows: Whether the server may be called by a name (the Host header); None: by any.
        link: Where impressions go.
        relay: Who answers everything else.

    Thread-safety: runs in one event loop.
    """

    def __init__(
        self, scoring: Scoring | None, config: ServeConfig, keeper: Doorkeeper, link: ImpressionLink, relay: Relay, *,
        knows: Callable[[bytes], bool] | None = None,
    ) -> None:  # fmt: skip
        self.scoring, self.config, self.keeper, self.link, self.relay = scoring, config, keeper, link, relay
        self.knows = knows or (lambda host: True)
        self.batches = MicroBatches(scoring, window_s=config.batch_window_ms / 1e3, most_rows=config.batch_rows,
                                    ) if scoring is not None else None  # fmt: skip
        self.connections: set[Connection] = set()
        self.statuses: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.scored_rows = self.held_bytes = 0
        self.ending = False

    def read(self, request: Request) -> Asked | None:
        """Return a rank request that can be answered here."""
        if self.scoring is None or request.method != b"POST" or request.target not in _TARGETS:
            return None
        kind = request.header(b"content-type").partition(b";")[0].strip().lower()
        if kind not in (JSON.encode(), ARROW.encode()) or not self.knows(request.header(b"host")):
            return None
        asked = self.scoring.read(request.body, kind == ARROW.encode())
        if asked is not None and asked.min_version is not None:
            return None  # rare, and the answer may be 409
        return asked

    def wants_log(self, request: Request, asked: Asked) -> bool:
        """Return whether a request's rows are logged: the query says it, else the body, else the settings."""
        for said in (_TARGETS[request.target], asked.log):
            if said is not None:
                return said
        return self.config.log_impressions

    def count(self, status: int, rows: int, seconds: float) -> None:
        """Remember an answer, for the metrics."""
        self.statuses[str(status)] += 1
        self.scored_rows += rows
        if len(self.latencies) < 20_000:
            self.latencies.append(round(seconds, 6))

    async def tell(self) -> None:
        """Tell the process that has the metrics, every second; closes connections that have been idle for long."""
        while True:
            await asyncio.sleep(TELL_S)
            if self.statuses:
                self.link.tell({"statuses": dict(self.statuses), "rows": self.scored_rows,
                                "latencies": self.latencies})  # fmt: skip
                self.statuses, self.latencies, self.scored_rows = Counter(), [], 0
            for connection in list(self.connections):
                connection.look()

    async def serve(self, sock: socket.socket, stop: asyncio.Event, tls: ssl.SSLContext | None = None) -> None:
        """Take connections until `stop`; requests that were begun are answered."""
        loop = asyncio.get_running_loop()
        starting: set[asyncio.Task[None]] = set()

        async def begin(taken: socket.socket) -> None:
            with contextlib.suppress(OSError, ssl.SSLError):
                await loop.connect_accepted_socket(lambda: Connection(self), taken, ssl=tls)

        def accept() -> None:
            """Take one connection at a time, so that the other workers get their share."""
            try:
                taken, _ = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            taken.setblocking(False)
            task = loop.create_task(begin(taken))
            starting.add(task)
            task.add_done_callback(starting.discard)

        sock.setblocking(False)
        loop.add_reader(sock.fileno(), accept)
        teller = loop.create_task(self.tell())
        await stop.wait()
        loop.remove_reader(sock.fileno())
        self.ending = True
        deadline = time.monotonic() + GRACE_S
        for connection in list(self.connections):
            connection.end_when_idle()
        while self.connections and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        teller.cancel()
        self.link.close()


class Request:
    """One request as it came."""

    __slots__ = ("body", "headers", "keep", "known", "method", "parts", "refusal", "size", "started", "target")

    def __init__(self) -> None:
        self.method, self.target, self.body, self.keep, self.started = b"", b"", b"", True, time.perf_counter()
        self.refusal: Refusal | None = None
        self.size = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.known: dict[bytes, bytes] = {}
        self.parts: list[bytes] = []

    def header(self, name: bytes) -> bytes:
        """Return a header's value, the first one; empty without it."""
        return self.known.get(name, b"")


class Connection(asyncio.Protocol):
    """One client's connection: requests are answered in the order in which they came.

    Args:
        worker: What all connections share.
    """

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.quiet_since, self.partial = time.monotonic(), False
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._request, self._queue = Request(), list[Request]()
        self._busy, self._closing, self._asks_first = False, False, False
        self._head_bytes, self._head_read = 0, False
        self._tasks: set[asyncio.Task[None]] = set()
        self._peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if peer else ""
        self.worker.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End; what was begun goes on, its answer is dropped."""
        self.worker.connections.discard(self)
        self._transport = None
        for request in (*self._queue, self._request):
            self._drop(request)
        self._queue.clear()

    def look(self) -> None:
        """Close what has been idle, or half a request, for too long."""
        taken = time.perf_counter() - self._request.started
        if not self.partial:
            if time.monotonic() - self.quiet_since > IDLE_S:
                self.abandon()
        elif taken > (self.worker.config.body_timeout_s if self._head_read else HEAD_S):
            self._refuse(408, f"only a part of a request within {taken:.0f} s", "all of it")

    def data_received(self, data: bytes) -> None:
        """Read what came."""
        self.quiet_since = time.monotonic()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400, "an upgrade", "a plain request")
        except httptools.HttpParserError as error:
            self._refuse(400, str(error)[:200], "HTTP/1.1")

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._request, self._head_bytes, self._head_read, self.partial = Request(), 0, False, True

    def on_url(self, url: bytes) -> None:
        """Take the address."""
        self._request.target += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._request.headers.append((name, value))
        self._request.known.setdefault(name.lower(), value)
        self._count_head(len(name) + len(value))

    def on_headers_complete(self) -> None:
        """Know what kind of request it is, and whether who asks may come in."""
        request, self._head_read = self._request, True
        request.method, request.keep = self._parser.get_method(), self._parser.should_keep_alive()
        declared = request.header(b"content-length")
        if declared.isdigit() and int(declared) > self.worker.config.max_body_bytes:
            self._refuse(413, f"{declared[:20].decode()} bytes", f"at most {self.worker.config.max_body_bytes}")
        elif request.target in _TARGETS and request.method == b"POST" and self.worker.scoring is not None:
            try:
                self.worker.keeper.admit(_text(request.header(b"authorization")), self._address(request), READ)
            except Refusal as refusal:
                request.refusal = refusal  # its body is passed over
        if not self._closing and request.header(b"expect").lower() == b"100-continue":
            self._asks_first = True
            self._let_go_on()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        request, worker = self._request, self.worker
        if self._closing or request.refusal is not None:
            return
        request.size += len(body)
        worker.held_bytes += len(body)
        if request.size > worker.config.max_body_bytes:
            self._refuse(413, f"{request.size} bytes", f"at most {worker.config.max_body_bytes}")
        elif worker.held_bytes > worker.config.max_held_bytes:
            self._refuse(503, f"bodies of more than {worker.config.max_held_bytes} bytes at a time", "fewer")
        else:
            request.parts.append(body)

    def on_message_complete(self) -> None:
        """Answer the request, after those before it."""
        request, self.partial, self._asks_first = self._request, False, False
        if self._closing:
            return
        request.body = request.parts[0] if len(request.parts) == 1 else b"".join(request.parts)
        self._queue.append(request)
        if not self._busy:
            self._next()
        elif self._full() and self._transport is not None:
            self._transport.pause_reading()

    def _full(self) -> bool:
        """Return whether enough requests wait for their turn on this connection."""
        bytes_waiting = sum(request.size for request in self._queue)
        return len(self._queue) > MAX_QUEUED or bytes_waiting > self.worker.config.max_body_bytes

    def end_when_idle(self) -> None:
        """Close, now or after the answer that is being made."""
        if not self._busy and not self._queue:
            self.abandon()

    def abandon(self) -> None:
        """Close now, unless an answer is being made."""
        if not self._busy and self._transport is not None:
            self._transport.close()

    def _let_go_on(self) -> None:
        """Tell a client that waits with its body to send it, once the answers before are given."""
        if self._asks_first and not self._busy and not self._queue and self._transport is not None:
            self._asks_first = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _next(self) -> None:
        self._let_go_on()
        if not self._queue or self._transport is None:
            return
        request = self._queue.pop(0)
        if not self._full():
            with contextlib.suppress(RuntimeError):  # it was not paused
                self._transport.resume_reading()
        self._busy = True
        if request.refusal is not None:
            self._send_refusal(request, request.refusal)
            return
        asked = self.worker.read(request)
        if asked is None:
            self._start(self._relay(request))
            return
        assert self.worker.batches is not None
        self.worker.batches.submit(asked, lambda asked, answer: self._scored(request, asked, answer))

    def _scored(self, request: Request, asked: Asked, answer: int | HeadraceError) -> None:
        if not isinstance(answer, int):
            self._start(self._relay(request))  # it says what is wrong, and whether it is the request
        elif self.worker.wants_log(request, asked):
            self._start(self._logged(request, asked, answer))
        else:
            self._answer(request, asked, answer)

    async def _logged(self, request: Request, asked: Asked, version: int) -> None:
        try:
            await self.worker.link.submit(asked.impressions(version))
        except HeadraceError as error:
            self._send_refusal(request, Refusal(503, error))
            return
        self._answer(request, asked, version)

    def _answer(self, request: Request, asked: Asked, version: int) -> None:
        body, kind = asked.answer(version)
        self._write(request, b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\n%s" % (kind.encode(), _KEPT), body)
        self.worker.count(200, asked.rows, time.perf_counter() - request.started)

    async def _relay(self, request: Request) -> None:
        head = request.method == b"HEAD"
        try:
            answer = await self.worker.relay.send(b"GET" if head else request.method, request.target, request.headers,
                                                  request.body, self._address(request))  # fmt: skip
        except StoreError as error:
            self._send_refusal(request, Refusal(503, error))
            return
        lines = b"".join(b"%s: %s\r\n" % pair for pair in answer.headers)
        self._write(request, _status_line(answer.status) + lines, b"" if head else answer.body)

    def _send_refusal(self, request: Request, refusal: Refusal) -> None:
        response = refused(refusal)
        lines = b"".join(b"%s: %s\r\n" % pair for pair in response.raw_headers if pair[0] != b"content-length")
        self._write(request, _status_line(response.status_code) + lines, bytes(response.body))
        self.worker.count(response.status_code, 0, time.perf_counter() - request.started)

    def _write(self, request: Request, head: bytes, body: bytes) -> None:
        self._busy = False
        self._drop(request)
        if self._transport is None:
            return
        ends = not request.keep or self._closing or (self.worker.ending and not self._queue)
        more = b"connection: close\r\n" if ends else b""
        self._transport.write(b"%s%scontent-length: %d\r\n\r\n%s" % (head, more, len(body), body))
        self.quiet_since = time.monotonic()
        if ends:
            self._transport.close()
        else:
            self._next()

    def _refuse(self, status: int, got: str, expected: str) -> None:
        """Answer what cannot be read, and close."""
        if self._closing or self._transport is None:
            return
        self._closing = True
        if self._busy:  # the answer that is being made is the last one
            return
        self._send_refusal(self._request, Refusal(status, StoreError("Request", got=got, expected=expected)))

    def _drop(self, request: Request) -> None:
        """Give back the room that a request's body took."""
        self.worker.held_bytes -= request.size
        request.size, request.parts, request.body = 0, [], b""

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, f"more than {MAX_HEAD_BYTES} bytes of headers", "fewer")

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _address(self, request: Request) -> str:
        proxies = self.worker.keeper.config.trusted_proxies
        if self._peer not in proxies:
            return self._peer
        return client_address(self._peer, _text(request.header(b"x-forwarded-for")) or "", proxies)


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Status"
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


def _text(value: bytes) -> str | None:
    return value.decode("latin-1") if value else None
