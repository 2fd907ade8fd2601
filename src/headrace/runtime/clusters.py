"""Which launcher a word of the command line means."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.config import require
from headrace.errors import ClusterError
from headrace.runtime.launch import Launcher
from headrace.runtime.local_launch import LocalLauncher
from headrace.runtime.ray_launch import RayLauncher

if TYPE_CHECKING:
    from headrace.protocols import Placement

_log = logging.getLogger(__name__)
WORDS = ("auto", "local", "ray")


def open_launcher(
    cluster: str, logs: Path, placement: Placement | None = None, environment: Mapping[str, str] | None = None
) -> Launcher:
    """Return the launcher of a cluster.

    Args:
        cluster: `local`: processes of this machine, without Ray. `ray`: a Ray of this machine alone. `host:port`: the
            Ray cluster with that head. `auto`: the Ray cluster that this machine belongs to (`RAY_ADDRESS`, or a Ray
            that runs here); where there is none, `local`, which is said in the log.
        logs: Folder for the output of the processes.
        placement: What each role needs; only Ray uses it.
        environment: Added to every process's environment.

    Raises:
        ConfigError: If the word means nothing, or Ray is needed and not installed.
        ClusterError: If the cluster cannot be reached.
    """
    named = cluster in WORDS or cluster.rpartition(":")[2].isdigit()
    require(named, "cluster", got=cluster, expected=f"{', '.join(WORDS)}, or host:port of a Ray cluster's head")
    if cluster == "local":
        return LocalLauncher(logs, environment=environment)
    if cluster == "auto":
        if importlib.util.find_spec("ray") is None:
            return _here("Ray is not installed", logs, environment)
        try:
            return RayLauncher(logs, os.environ.get("RAY_ADDRESS") or "auto", placement, environment)
        except ClusterError:
            if os.environ.get("RAY_ADDRESS"):
                raise  # somebody said where; elsewhere would be wrong
            return _here("no Ray cluster runs here", logs, environment)
    return RayLauncher(logs, "local" if cluster == "ray" else cluster, placement, environment)


def _here(why: str, logs: Path, environment: Mapping[str, str] | None) -> LocalLauncher:
    _log.warning("%s: the run's processes are started on this machine alone", why)
    return LocalLauncher(logs, environment=environment)
