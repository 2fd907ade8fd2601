"""Hands requests on to the process that writes the log, over a local socket, and brings its answers back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import httptools

from headrace.errors import StoreError

HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"expect", b"upgrade", b"te", b"trailer",
       b"proxy-connection", b"x-forwarded-for", b"x-forwarded-proto"}  # fmt: skip
"""Headers that belong to one connection, and those that say where a request comes from: the worker knows that."""
Headers = Sequence[tuple[bytes, bytes]]


@dataclass(slots=True)
class Relayed:
    """An answer of the other process."""

    status: int = 502
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""


class Relay:
    """Connections to the process that has everything but the fast path.

    Args:
        path: Its socket.
        timeout_s: How long it may take.

    Thread-safety: runs in one event loop.
    """

    def __init__(self, path: Path, *, timeout_s: float = 60.0) -> None:
        self.path, self.timeout_s = path, timeout_s
        self._free: list[_Wire] = []

    async def send(self, method: bytes, target: bytes, headers: Headers, body: bytes, address: str) -> Relayed:
        """Return the answer to a request.

        Args:
            method: As the client sent it.
            target: Path and query, as the client sent them.
            headers: As the client sent them.
            body: All of it.
            address: Where the request comes from.

        Raises:
            StoreError: If the other process does not answer.
        """
        lines = [method + b" " + target + b" HTTP/1.1"]
        lines += [name + b": " + value for name, value in headers if name.lower() not in HOP]
        lines += [b"content-length: %d" % len(body), b"x-forwarded-for: " + address.encode("latin-1", "replace")]
        request = b"\r\n".join(lines) + b"\r\n\r\n" + body
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._answer(request)
        except (OSError, TimeoutError, httptools.HttpParserError) as error:
            got = f"no answer of the process that writes the log ({error})"
            advice = "It is being started again; try again in a second."
            raise StoreError("Server", got=got, expected="an answer", do=advice) from error

    async def _answer(self, request: bytes) -> Relayed:
        while self._free:  # a connection that was kept may have ended meanwhile; nothing was sent on it then
            wire = self._free.pop()
            if wire.open:
                return await self._on(wire, request)
        loop = asyncio.get_running_loop()
        _, wire = await loop.create_unix_connection(_Wire, str(self.path))
        return await self._on(wire, request)

    async def _on(self, wire: _Wire, request: bytes) -> Relayed:
        try:
            answer = await wire.ask(request)
        except BaseException:
            wire.close()
            raise
        if wire.open and wire.keep:
            self._free.append(wire)
        else:
            wire.close()
        return answer


class _Wire(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer, self._parts = Relayed(), list[bytes]()
        self._done: asyncio.Future[Relayed] | None = None
        self.keep = True

    @property
    def open(self) -> bool:
        """Whether it can be asked."""
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, request: bytes) -> asyncio.Future[Relayed]:
        """Send a request; the future has its answer."""
        assert self._transport is not None
        self._parser = httptools.HttpResponseParser(self)
        self._answer, self._parts = Relayed(), []
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._done

    def close(self) -> None:
        """End it."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionResetError("the connection ended"))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if self._done is not None and not self._done.done():
                self._done.set_exception(error)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() not in HOP:
            self._answer.headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()
        self._answer.body, self.keep = b"".join(self._parts), self._parser.should_keep_alive()
        if self._done is not None and not self._done.done():
            self._done.set_result(self._answer)


def client_address(peer: str, forwarded: str, proxies: Sequence[str]) -> str:
    """Return where a request comes from that proxies have handed on: the last address that is not one of theirs.

    Args:
        peer: Who is connected.
        forwarded: The `X-Forwarded-For` header.
        proxies: Addresses that are believed.

    Example:
        >>> client_address("10.0.0.1", "203.0.113.9, 198.51.100.7, 10.0.0.2", ("10.0.0.1", "10.0.0.2"))
        '198.51.100.7'
    """
    for address in [peer, *reversed([part.strip() for part in forwarded.split(",") if part.strip()])]:
        if address not in proxies:
            return address
    return peer
