"""Being connected to Ray: with quick health checks and a token of our own, or to a cluster that others run."""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from headrace.errors import ClusterError, ConfigError
from headrace.runtime.launch import LOOPBACK

HEALTH = {"initial_delay_ms": 1000, "period_ms": 500, "timeout_ms": 1000, "failure_threshold": 3}
"""How soon Ray believes that a node is gone: some 4 s after its last word, instead of the 65 s of Ray's defaults."""
STORE_BYTES = 80 * 2**20
CONNECT_S = 5.0


def settings_of_ray() -> dict[str, str]:
    """Return the environment in which a Ray of this machine is started: a secret token, no telemetry, health checks.

    One machine cannot lose itself, and when it is busy a check may be late: so more of them may fail than `HEALTH`
    says, which is for the machines of a cluster that others start.
    """
    found = {f"RAY_health_check_{name}": str(value) for name, value in (HEALTH | {"failure_threshold": 10}).items()}
    found |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}
    if not any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        # else Ray would write a token of its own into the user's home
        found |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return {name: value for name, value in found.items() if name not in os.environ}


def import_ray() -> ModuleType:
    """Return the module `ray`.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ConfigError("Ray", got="not installed", expected="the package ray",
                          do="pip install 'headrace[cluster]', or use --cluster local.") from error  # fmt: skip
    return ray


@contextmanager
def connected(address: str) -> Iterator[ModuleType]:
    """Connect to a Ray cluster, or start one of this machine alone (`local`); what was started here ends here.

    Raises:
        ConfigError: If Ray is not installed.
        ClusterError: If the cluster cannot be reached, or does not let us in.
    """
    with set_for_ray(settings_of_ray() if address == "local" else {}):
        ray = import_ray()
        started = not ray.is_initialized()
        if started:
            _connect(ray, address)
        try:
            yield ray
        finally:
            if started:
                ray.shutdown()


@contextmanager
def set_for_ray(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment, and take them out again, so that Ray takes notice even if it is imported."""
    os.environ |= variables
    _read_environment_again()
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        _read_environment_again()


def _read_environment_again() -> None:
    """Let Ray forget what it read of `RAY_AUTH_*` when it was imported, which may be before we set it."""
    if importlib.util.find_spec("ray") is None:
        return
    raylet: Any = importlib.import_module("ray._raylet")
    settings, tokens = getattr(raylet, "Config", None), getattr(raylet, "AuthenticationTokenLoader", None)
    if settings is not None and tokens is not None:  # else a Ray that keeps none: it reads them when it connects
        settings.initialize("")
        tokens.instance().reset_cache()


def _connect(ray: ModuleType, address: str) -> None:
    _check_there(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "headrace"}
    if address == "local":
        # never silently a cluster that somebody else left here; no dashboard; bytes do not go through Ray's store
        options |= {"include_dashboard": False, "object_store_memory": STORE_BYTES, "_node_ip_address": LOOPBACK}
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise ClusterError(f"Ray cluster '{address}'", got=f"{type(error).__name__}: {error}",
                           expected="a cluster that answers", do="Is its head running, and RAY_AUTH_TOKEN or "
                           "RAY_AUTH_TOKEN_PATH set to its token?") from error  # fmt: skip


def _check_there(address: str) -> None:
    """Refuse a cluster whose head does not listen; Ray itself would try for minutes."""
    recorded = Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    if address == "auto" and recorded.is_file():
        address = recorded.read_text().strip()
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
        except OSError as error:
            raise ClusterError(f"Ray cluster '{address}'", got=str(error), expected="a cluster that answers",
                               do="Start its head with `ray start --head`.") from error  # fmt: skip
