"""Opens the logs of a run."""

from __future__ import annotations

from headrace.data import EmbeddedLog
from headrace.online.language_config import RunConfig
from headrace.online.layout import RunFolder


def open_log(config: RunConfig, folder: RunFolder, name: str) -> EmbeddedLog:
    """Open one of the run's logs."""
    folder.root.mkdir(parents=True, exist_ok=True)
    return EmbeddedLog(folder.log(name), durability=config.durability)
