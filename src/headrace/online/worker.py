"""One worker process of a server: scores rank requests over shared memory."""

from __future__ import annotations

import asyncio
import importlib
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from headrace.online.config import OnlineConfig
from headrace.online.shared_serving import open_shared_view
from headrace.serve import AccessConfig, ServeConfig
from headrace.serve.access import Doorkeeper
from headrace.serve.fast_rank import FieldScoring, GeneralScoring, Scoring
from headrace.serve.field_plan import field_plan
from headrace.serve.impressions import ImpressionLink
from headrace.serve.owner_routes import APP_SOCKET, ROWS_SOCKET
from headrace.serve.predictor import RankPredictor
from headrace.serve.readiness import practice_rows
from headrace.serve.relay_routes import Relay
from headrace.serve.requests import RequestReader
from headrace.serve.server import KnownNames, encryption
from headrace.serve.worker_routes import Worker
from headrace.store.field_scores import FieldScores
from headrace.store.shared_memory import SharedReader

_log = logging.getLogger(__name__)


def run_worker(
    config: OnlineConfig, folder: Path, number: int, sock: socket.socket, access: AccessConfig, settings: ServeConfig,
    *, share: int = 1,
) -> None:  # fmt: skip
    """Answer requests until SIGTERM.

    Args:
        config: The run.
        folder: The shared space, with the sockets of the process that writes the log.
        number: Which worker this is; no two may have the same.
        sock: Listening socket, shared by all workers.
        access: Who may enter; limits per bearer are divided by `share`.
        settings: Limits and what is logged.
        share: How many workers there are.
    """
    torch.set_num_threads(1)
    predictor, reader = open_shared_view(config, folder, number)
    scoring = scoring_of(predictor, reader, settings)
    warm_up(predictor, scoring, settings)
    with asyncio.Runner(loop_factory=_new_loop()) as runner:
        runner.run(_serve(scoring, folder, sock, access, settings, share))


def scoring_of(predictor: RankPredictor, reader: SharedReader, settings: ServeConfig) -> Scoring:
    """Return the fastest way of scoring that the model allows."""
    plan, reason = field_plan(predictor)
    if plan is not None:
        return FieldScoring(FieldScores(plan, reader, max_rows=settings.max_rows), settings)
    _log.info("scores are computed by torch, because %s", reason)
    return GeneralScoring(predictor, RequestReader(predictor.request_schema, settings))


def warm_up(predictor: RankPredictor, scoring: Scoring, settings: ServeConfig) -> None:
    """Answer made-up requests, if there is a version yet, so that the first real one is not the slow one."""
    if predictor.version.number < 0 or not isinstance(scoring, GeneralScoring):
        return
    for rows in settings.warm_rows:
        predictor.predict(practice_rows(scoring.reader.columns, predictor.schema.item, rows))


def _nothing() -> None:
    """Stand for the application behind names that are only looked at."""


def _new_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes event loops: uvloop's, where it is installed, take less CPU for a request."""
    try:
        module = importlib.import_module("uvloop")
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = module.new_event_loop
    return factory


async def _serve(
    scoring: Scoring, folder: Path, sock: socket.socket, access: AccessConfig, settings: ServeConfig, share: int
) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    rate = access.requests_per_s
    own = access if rate is None else replace(access, requests_per_s=rate / share, burst=max(access.burst // share, 1))
    loopback = sock.getsockname()[0] in ("127.0.0.1", "::1")
    known = KnownNames(_nothing, access.hosts) if access.tokens is None and loopback else None
    settings = replace(settings, max_held_bytes=max(settings.max_held_bytes // share, settings.max_body_bytes))
    worker = Worker(
        scoring, settings, Doorkeeper(own), ImpressionLink(folder / ROWS_SOCKET), Relay(folder / APP_SOCKET),
        knows=None if known is None else known.knows,
    )  # fmt: skip
    await worker.serve(sock, stop, encryption(access))
