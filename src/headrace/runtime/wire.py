"""The two ends of `headrace.runtime.frames`: a server with a thread per connection, and a connection that calls it."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from headrace.config import require
from headrace.errors import ClusterError, HeadraceError
from headrace.runtime.frames import (
    LEAST_SECRET,
    MAX_BODY,
    Array,
    Reply,
    Request,
    check_loopback,
    error_fields,
    error_of,
    lost,
    prove,
    read_frame,
    secret_of,
    split_address,
    write_frame,
)

__all__ = ["Connection", "Handler", "Reply", "Request", "Server", "secret_of"]

logger = logging.getLogger(__name__)
Handler = Callable[[Request], "Reply | Mapping[str, Any] | None"]
GREETING_S = 5.0
MAX_CONNECTIONS = 4096
PAUSE_S = 0.02
"""Between two tries to reach a server again."""
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""Seconds of silence before the kernel asks whether the other end is there, between its questions, and how many."""


class Server:
    """Answers calls; one thread per connection, so that a call may wait inside its handler.

    Args:
        handlers: What to do, by name of the method. A handler returns fields, a `Reply`, or None; a `HeadraceError`
            that it raises is raised again in the caller, any other error as a `ClusterError`.
        address: `host:port` to listen on; port 0: any free one.
        secret: Of the run.
        closed: Called with a connection's session when the connection has ended, for whatever reason.
        remote: Whether an address may be given that other machines can reach. Nothing on the wire is encrypted.
        max_bytes: Largest body of a request.

    Raises:
        ConfigError: If the address can be reached from elsewhere and `remote` is not set, or the secret is short.

    Example:
        >>> with Server({"add": lambda request: {"sum": sum(request.fields["of"])}}, secret=b"s" * 16) as server:
        ...     with Connection(server.address, b"s" * 16) as connection:
        ...         connection.call("add", {"of": [1, 2]}).fields["sum"]
        3

    Thread-safety: handlers run in many threads at once, those of one connection one after another.
    """

    def __init__(
        self, handlers: Mapping[str, Handler], address: str = "127.0.0.1:0", secret: bytes = b"", *,
        closed: Callable[[dict[str, Any]], None] | None = None, remote: bool = False, max_bytes: int = MAX_BODY,
    ) -> None:  # fmt: skip
        host, port = split_address(address)
        check_loopback(host, remote)
        require(len(secret) >= LEAST_SECRET, "Server, secret", got=f"{len(secret)} bytes",
                expected=f"at least {LEAST_SECRET}")  # fmt: skip
        self._handlers, self._secret, self._closed, self._max = dict(handlers), secret, closed, max_bytes
        self._listener = socket.create_server((host, port), backlog=256,
                                              family=socket.AF_INET6 if ":" in host else socket.AF_INET)  # fmt: skip
        self.address = f"{f'[{host}]' if ':' in host else host}:{self._listener.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        self._lock, self._stopped = threading.Lock(), threading.Event()
        threading.Thread(target=self._accept, name="wire-accept", daemon=True).start()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.close()

    def close(self) -> None:
        """Stop listening and end all connections; calls in progress are not waited for."""
        with self._lock:
            self._stopped.set()
            connections = list(self._open)
        _end(self._listener)
        for connection in connections:
            _end(connection)

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._stopped.is_set():
                    return
                time.sleep(PAUSE_S)
                continue
            with self._lock:
                taken = not self._stopped.is_set() and len(self._open) < MAX_CONNECTIONS
                if taken:
                    self._open.add(connection)
            if taken:
                threading.Thread(target=self._serve, args=(connection,), name="wire-serve", daemon=True).start()
            else:
                connection.close()

    def _serve(self, connection: socket.socket) -> None:
        session: dict[str, Any] = {}
        greeted = False
        try:
            connection.settimeout(GREETING_S)
            _tune(connection)
            prove(connection, self._secret, server=True)
            greeted = True
            connection.settimeout(None)
            while not self._stopped.is_set():
                self._answer(connection, session)
        except (OSError, ClusterError) as error:
            if not greeted or isinstance(error, ClusterError):
                logger.warning("a connection was refused: %s", error)
        finally:
            with self._lock:
                self._open.discard(connection)
            _end(connection)
            if greeted and self._closed is not None:
                self._closed(session)

    def _answer(self, connection: socket.socket, session: dict[str, Any]) -> None:
        header, arrays = read_frame(connection, self._max)
        method, fields = header.get("call"), header.get("fields")
        handler = self._handlers.get(method) if isinstance(method, str) else None
        try:
            if handler is None or not isinstance(fields, dict):
                raise ClusterError("Call", got=repr(method), expected=f"one of {sorted(self._handlers)}")
            found = handler(Request(str(method), fields, arrays, session))
            reply = found if isinstance(found, Reply) else Reply(found or {})
            told: dict[str, Any] = {"fields": dict(reply.fields)}
        except HeadraceError as error:
            reply, told = Reply(), {"error": error_fields(error)}
        except Exception as error:  # any error of a handler belongs to its caller, and must not end the server
            logger.exception("call %s", method)
            reply, told = Reply(), {"error": error_fields(error)}
        try:
            write_frame(connection, told, reply.arrays)
        except OSError:
            raise
        except Exception as error:  # too large, or no plain values: nothing was sent, and the caller must not ask again
            logger.exception("call %s, its answer", method)
            write_frame(connection, {"error": error_fields(error)}, {})


class Connection:
    """Calls a server, and meets it again when a connection is gone.

    A call is sent once. Only with `retry_s` it is sent again, over a new connection, when the old one broke or stayed
    silent: give that to calls which may arrive twice (reading, or writing under a key).

    Args:
        address: `host:port`.
        secret: Of the run.
        timeout_s: How long to wait for an answer, and for a connection.
        name: Of the other side, for messages.

    Thread-safety: any thread may call; calls go one after another. `close` ends a call that waits.
    """

    def __init__(self, address: str, secret: bytes, timeout_s: float = 30.0, *, name: str = "") -> None:
        self.address, self.timeout_s, self.name = address, timeout_s, name or address
        self._secret, self._socket, self._closed = secret, None, False
        self._lock = threading.Lock()

    _socket: socket.socket | None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """End the connection for good; a call that waits ends with WorkerLost."""
        self._closed = True
        self.interrupt()

    def interrupt(self) -> None:
        """End the connection under a call that waits, if there is one; the next call opens another."""
        current = self._socket
        if current is not None:
            _end(current, shut_only=True)

    def call(
        self, method: str, fields: Mapping[str, Any] | None = None, arrays: Mapping[str, Array] | None = None, *,
        timeout_s: float | None = None, retry_s: float = 0.0,
    ) -> Reply:  # fmt: skip
        """Ask, and return the answer.

        Args:
            method: What to call.
            fields: Plain values.
            arrays: Arrays.
            timeout_s: How long to wait for this answer; None: as set.
            retry_s: For how long to try again where the other side is lost.

        Raises:
            WorkerLost: If there is no connection, it broke, or no answer came in time. The call may have been done.
            HeadraceError: What the handler raised.
        """
        end, wait_s = time.monotonic() + retry_s, self.timeout_s if timeout_s is None else timeout_s
        while True:
            try:
                return self._once(method, fields or {}, arrays or {}, wait_s)
            except _Lost as error:
                if self._closed or time.monotonic() >= end:
                    raise lost(f"{self.name}, {method}", str(error)) from error
                time.sleep(PAUSE_S)

    def _once(self, method: str, fields: Mapping[str, Any], arrays: Mapping[str, Array], timeout_s: float) -> Reply:
        with self._lock:
            try:
                connection = self._connected(timeout_s)
                connection.settimeout(timeout_s)
                write_frame(connection, {"call": method, "fields": fields}, arrays)
                header, found = read_frame(connection)
            except TimeoutError as error:
                self._drop()
                raise _Lost(f"no answer within {timeout_s:g} s") from error
            except OSError as error:
                self._drop()
                raise _Lost(str(error) or type(error).__name__) from error
            except BaseException:
                self._drop()
                raise
        if "error" in header:
            raise error_of(header["error"])
        return Reply(header.get("fields", {}), found)

    def _connected(self, timeout_s: float) -> socket.socket:
        if self._closed:
            raise OSError("the connection was closed here")
        if self._socket is None:
            made = socket.create_connection(split_address(self.address), timeout=min(timeout_s, GREETING_S))
            try:
                _tune(made)
                prove(made, self._secret, server=False)
            except BaseException:
                made.close()
                raise
            self._socket = made
            if self._closed:  # while it was made: whoever closed it has not seen it
                raise OSError("the connection was closed here")
        return self._socket

    def _drop(self) -> None:
        current, self._socket = self._socket, None
        if current is not None:
            current.close()


class _Lost(Exception):
    """The other side did not answer."""


def _tune(connection: socket.socket) -> None:
    """Send small frames at once, and notice within a minute that the machine at the other end is gone."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _end(connection: socket.socket, *, shut_only: bool = False) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    if not shut_only:
        with contextlib.suppress(OSError):
            connection.close()
