"""The process behind worker processes: the whole application on a local socket, and the desk that takes impressions."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette

from headrace.errors import HeadraceError
from headrace.serve.access import AccessConfig
from headrace.serve.impressions import ImpressionDesk
from headrace.serve.metrics import ServeMetrics
from headrace.serve.server import _config

APP_SOCKET, ROWS_SOCKET = "app.sock", "rows.sock"


def run_owner(
    app: Starlette, folder: Path, access: AccessConfig, *, loopback: bool, on_ready: Callable[[], None],
    orders: int | None = None, obey: Callable[[str], None] | None = None,
) -> None:  # fmt: skip
    """Answer what workers relay and log what they served, until SIGTERM.

    Args:
        app: What `create_app` returned, with the same `access`.
        folder: Where the sockets are made; nobody else may look into it.
        access: Who may enter. Encryption and limits per address are the workers' business; tokens are looked at here.
        loopback: Whether clients reach the workers on this machine alone.
        on_ready: Called when it answers.
        orders: File descriptor of a pipe from which lines are read.
        obey: Called with each of them.

    Raises:
        HeadraceError: Whatever kept the application from starting.
    """
    asyncio.run(_run(app, folder, access, loopback, on_ready, orders, obey))
    failure = getattr(app.state, "failure", None)
    if isinstance(failure, HeadraceError):
        raise failure


async def _run(
    app: Starlette, folder: Path, access: AccessConfig, loopback: bool, on_ready: Callable[[], None],
    orders: int | None, obey: Callable[[str], None] | None,
) -> None:  # fmt: skip
    # Only workers can reach the socket, and they say where a request comes from.
    config = _config(app, replace(access, certificate=None, private_key=None, client_authority=None), loopback)
    config.proxy_headers, config.forwarded_allow_ips = True, "*"
    config.timeout_keep_alive = 3600
    server = _Quiet(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.end)
    if orders is not None and obey is not None:
        loop.add_reader(orders, _read_orders, orders, obey, server.end)
    desk = ImpressionDesk(app.state.service, lambda told: take_told(app.state.service.metrics, told))
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path = folder / APP_SOCKET
    path.unlink(missing_ok=True)
    sock.bind(str(path))
    path.chmod(0o600)
    sock.listen(2048)

    async def announce() -> None:
        while not server.started and not server.should_exit:
            await asyncio.sleep(0.005)
        if server.started:
            await desk.start(folder / ROWS_SOCKET)
            on_ready()

    telling = loop.create_task(announce())
    with contextlib.suppress(SystemExit):  # uvicorn's way to say that the application did not start
        await server.serve(sockets=[sock])
    telling.cancel()
    await desk.close()


class _Quiet(uvicorn.Server):
    """Leaves signals to the caller."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield

    def end(self) -> None:
        """Stop serving."""
        self.should_exit = True


def _read_orders(orders: int, obey: Callable[[str], None], ended: Callable[[], None]) -> None:
    data = os.read(orders, 4096)
    if not data:  # who gave them is gone
        asyncio.get_running_loop().remove_reader(orders)
        ended()
        return
    for line in data.decode().splitlines():
        obey(line)


def take_told(metrics: ServeMetrics, told: dict[str, Any]) -> None:
    """Add what a worker counted to the metrics.

    Args:
        metrics: Of the process that answers `/metrics`.
        told: `statuses` (count by status), `rows`, and `latencies` in seconds.
    """
    for status, count in dict(told.get("statuses", {})).items():
        metrics.requests.labels("rank", str(status)).inc(int(count))
    metrics.rows.inc(int(told.get("rows", 0)))
    latency = metrics.latency.labels("rank")
    for seconds in told.get("latencies", ()):
        latency.observe(float(seconds))
