"""Runs an application on a port until it is told to stop."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

import uvicorn

from headrace.errors import ConfigError, HeadraceError

App = Callable[..., Any]
_log = logging.getLogger(__name__)
LOOPBACK = "127.0.0.1"
GRACE_S = 10


def bind(host: str = LOOPBACK, port: int = 8000) -> socket.socket:
    """Return a listening socket; port 0 takes a free one.

    Raises:
        ConfigError: If the port is in use or may not be used, or the host is not this machine's.
    """
    if not 0 <= port <= 65535:
        raise ConfigError("port", got=port, expected="0 to 65535")
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        advice = f"Use {LOOPBACK}."
        raise ConfigError("host", got=repr(host), expected="an address of this machine", do=advice) from error
    sock = socket.socket(family, kind, number)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(2048)
    except OSError as error:
        sock.close()
        raise _refused(host, port, error) from error
    return sock


def run_server(
    app: App, host: str = LOOPBACK, port: int = 8000, *, on_ready: Callable[[str], None] | None = None,
    stop: threading.Event | None = None,
) -> None:  # fmt: skip
    """Serve until SIGINT, SIGTERM or `stop`; requests that were begun are answered, and what was taken is made durable.

    Args:
        app: What `create_app` returned.
        host: Address to listen on. There is no authentication: anything but loopback opens the server to others.
        port: Port; 0 takes a free one.
        on_ready: Called with the server's URL once it answers.
        stop: Ends the server when set; for servers that run in a thread.

    Raises:
        ConfigError: If the port is in use; before anything was started.
        HeadraceError: Whatever kept the application from starting.
    """
    sock = bind(host, port)
    if not _is_loopback(host):
        _log.warning("listening on %s: everybody who reaches this address can rank and send feedback", host)
    where = sock.getsockname()
    shown = f"[{where[0]}]" if ":" in where[0] else where[0]
    server = _Server(_config(app), f"http://{shown}:{where[1]}", on_ready, stop)
    try:
        server.run(sockets=[sock])
    finally:
        sock.close()
    if not server.started:
        reason = getattr(getattr(app, "state", None), "failure", None)
        if isinstance(reason, HeadraceError):
            raise reason
        raise ConfigError("Server", got=f"a failure while starting ({reason})", expected="a start") from reason


class _Server(uvicorn.Server):
    """Tells when it answers, and whether the application's start failed."""

    def __init__(
        self, config: uvicorn.Config, url: str, on_ready: Callable[[str], None] | None, stop: threading.Event | None
    ) -> None:
        super().__init__(config)
        self._url, self._on_ready, self._stop = url, on_ready, stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit:  # uvicorn's way to say that the application did not start; the caller gets an error
            self.should_exit = True
            return
        if self.started and self._on_ready is not None:
            self._on_ready(self._url)

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or (self._stop is not None and self._stop.is_set())


def _config(app: App) -> uvicorn.Config:
    return uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="on", timeout_graceful_shutdown=GRACE_S,
        server_header=False, date_header=False, h11_max_incomplete_event_size=65536,
    )  # fmt: skip


def _refused(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(f"Port {port} on {host}", got="a port in use", expected="a free one",
                           do="Stop the other server, or choose another port; port 0 takes any free one.")  # fmt: skip
    if error.errno == errno.EACCES:
        return ConfigError(f"Port {port} on {host}", got="no permission", expected="a port that may be used",
                           do="Choose a port above 1023.")  # fmt: skip
    return ConfigError(f"Port {port} on {host}", got=str(error), expected="an address of this machine",
                       do=f"Use host {LOOPBACK}.")  # fmt: skip


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
