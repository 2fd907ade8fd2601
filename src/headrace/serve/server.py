"""Runs an application on a port until it is told to stop; encrypted where there is a certificate.

What is open to others asks for tokens, unless it is told not to; what is open to this machine alone refuses web pages
that reach it by a name of their own.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import json
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from headrace.config import require
from headrace.errors import ConfigError, HeadraceError
from headrace.serve.access import AccessConfig

App = Callable[..., Any]
_log = logging.getLogger(__name__)
LOOPBACK = "127.0.0.1"
GRACE_S = 10
HEAD_S = 10.0
MAX_HEAD_BYTES = 65_536


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
    stop: threading.Event | None = None, access: AccessConfig | None = None,
) -> None:  # fmt: skip
    """Serve until SIGINT, SIGTERM or `stop`; requests that were begun are answered, and what was taken is made durable.

    Args:
        app: What `create_app` returned, with the same `access`.
        host: Address to listen on; anything but loopback needs tokens, or `access.open_to_all`.
        port: Port; 0 takes a free one.
        on_ready: Called with the server's URL once it answers.
        stop: Ends the server when set; for servers that run in a thread.
        access: Certificates, trusted proxies, and whether tokens are asked for.

    Raises:
        ConfigError: If the port is in use, a certificate cannot be used, or others would reach the server without
            tokens; before anything was started.
        HeadraceError: Whatever kept the application from starting.
    """
    access = access or AccessConfig()
    check_exposure(host, access)
    config = _config(app, access, _is_loopback(host))
    sock = bind(host, port)
    where = sock.getsockname()
    shown = f"[{where[0]}]" if ":" in where[0] else where[0]
    kind = "http" if access.certificate is None else "https"
    server = _Server(config, f"{kind}://{shown}:{where[1]}", on_ready, stop)
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


def check_exposure(host: str, access: AccessConfig) -> None:
    """Refuse to be reached by others without tokens; warn of what they could overhear.

    Raises:
        ConfigError: If `host` is not loopback, there are no tokens, and nobody said that this is meant.
    """
    if _is_loopback(host):
        return
    require(access.tokens is not None or access.open_to_all, "host", got=f"{host} without tokens",
            expected=f"tokens, or an address of this machine alone ({LOOPBACK})",
            do="`headrace tokens FILE add NAME` makes one; --open-to-all goes without.")  # fmt: skip
    if access.tokens is None:
        _log.warning("listening on %s: everybody who reaches this address can do everything", host)
    elif access.certificate is None:
        _log.warning("listening on %s without a certificate: tokens can be overheard, unless a proxy encrypts", host)


def _config(app: App, access: AccessConfig, loopback: bool) -> uvicorn.Config:
    inside = app if access.tokens is not None or not loopback else KnownNames(app, access.hosts)
    config = uvicorn.Config(
        inside, log_level="warning", access_log=False, lifespan="on", timeout_graceful_shutdown=GRACE_S,
        server_header=False, date_header=False, http=Punctual, ws="none",
        proxy_headers=bool(access.trusted_proxies), forwarded_allow_ips=list(access.trusted_proxies),
    )  # fmt: skip
    context = encryption(access)
    if context is not None:
        config.load()
        config.ssl = context
    return config


def encryption(access: AccessConfig) -> ssl.SSLContext | None:
    """Return how connections are encrypted; None: they are not.

    Raises:
        ConfigError: If a certificate or key cannot be used.
    """
    if access.certificate is None:
        return None
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(access.certificate, access.private_key, _no_password)
        if access.client_authority is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(access.client_authority)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError("certificate", got=str(error), expected="PEM files of a certificate and its own key",
                          do="A key with a password cannot be used.") from error  # fmt: skip
    return context


def _no_password() -> str:
    raise ValueError("a key with a password")


class Punctual(HttpToolsProtocol):
    """One connection; it is closed when the head of a request does not come in time, or does not end.

    So whoever opens connections and says little or nothing holds them, and memory, for a while only. How long a body
    may take is `ServeConfig.body_timeout_s`.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect the head of a first request."""
        super().connection_made(transport)
        self._late: asyncio.TimerHandle | None = None
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Read on, unless a head grows without end."""
        super().data_received(data)
        if self._late is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.transport.close()

    def on_message_begin(self) -> None:
        """Expect the rest of a request's head."""
        super().on_message_begin()
        self._expect()

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._arrived()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing more."""
        self._arrived()
        super().connection_lost(exc)

    def _expect(self) -> None:
        self._arrived()
        self._head_bytes = 0
        self._late = self.loop.call_later(HEAD_S, self.transport.close)

    def _arrived(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class KnownNames:
    """Lets requests pass that call the server by an address, by `localhost`, or by a name that was allowed.

    A browser sends a page's requests to whatever address the page's own name has. So a page could point its name to
    loopback and talk to a server that asks for no tokens; but the request still says that name.

    Args:
        app: What answers.
        names: Further names.
    """

    def __init__(self, app: App, names: Sequence[str] = ()) -> None:
        self.app, self.names = app, {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer 421 to a name that is not known."""
        if scope["type"] == "http" and not self.knows(dict(scope["headers"]).get(b"host", b"")):
            body = json.dumps({
                "what": "Host", "got": "a name that is not known here", "expected": "an address, or localhost",
                "do": "Allow the name (`hosts`), or use tokens.",
            }).encode()  # fmt: skip
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 421, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await self.app(scope, receive, send)

    def knows(self, host: bytes) -> bool:
        """Return whether a Host header is an address, or a name that is allowed."""
        name = host.decode("latin-1").lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        if not name or name in self.names or name.endswith(".localhost"):
            return True  # HTTP/1.0 has no name; a browser never sends that
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


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
