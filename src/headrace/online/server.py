"""The fourth process: answers over HTTP with the newest published version, logs what it answered, takes feedback."""

from __future__ import annotations

import threading
import time

from headrace import serve
from headrace.online.build import open_serving, with_preparation
from headrace.online.config import OnlineConfig
from headrace.online.layout import CHANGES, EVENTS, RunFolder
from headrace.online.roles import Stop, open_log
from headrace.publish import ChangeReader
from headrace.serve import ServeConfig, bind, create_app

STOP_POLL_S = 0.1


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with bind(port=0) as sock:
        return int(sock.getsockname()[1])


def run_server(
    config: OnlineConfig, folder: RunFolder, *, host: str = "127.0.0.1", port: int = 8080, stop: Stop | None = None
) -> None:
    """Serve until SIGTERM, SIGINT or `stop`; goes on answering while learner and publisher are dead.

    Args:
        config: The run; the server follows the versions published in its folder.
        folder: The run's folder; created if absent, so that the server may be started first.
        host: Address to bind.
        port: Port to bind.
        stop: Asked ten times a second.

    Raises:
        ConfigError: If the port is in use, before anything was started.
    """
    events, changes = open_log(config, folder, EVENTS), open_log(config, folder, CHANGES)
    played = config.player is not None  # event times of a played log are not wall times
    settings = ServeConfig(topic=EVENTS, position=config.position, max_future_s=None if played else 3600.0)

    def learner_age() -> float | None:
        written = folder.read_status("learner").get("time")
        return time.time() - float(written) if isinstance(written, (int, float)) else None

    app = create_app(
        open_serving(with_preparation(config, folder)).predictor, events, settings,
        changes=ChangeReader(changes, folder.snapshots), sign_of_life=learner_age,
    )  # fmt: skip
    ended = threading.Event()
    if stop is not None:
        threading.Thread(target=_watch, args=(stop, ended), daemon=True).start()
    serve.run_server(app, host, port, stop=ended)


def _watch(stop: Stop, ended: threading.Event) -> None:
    while not stop():
        time.sleep(STOP_POLL_S)
    ended.set()
