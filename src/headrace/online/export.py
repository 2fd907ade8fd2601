"""Writes a recorded or simulated log to a file, in arrival order, as `headrace.data.FileSource` reads it back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from headrace.errors import ConfigError, SourceEnded
from headrace.online.config import OnlineConfig
from headrace.online.recording import Recording

ROWS = 8192


def export_log(config: OnlineConfig, path: Path, *, on_rows: Callable[[int], None] | None = None) -> int:
    """Write the log that a run would play to a Parquet file; it appears whole or not at all.

    Rows of kind `impression` and of actions stand mixed, in the order in which they arrived; times are µs.

    Args:
        config: A run that plays a recording; a world that waits for a model's ranking has no log to write.
        path: The file; replaced if it exists.
        on_rows: Called with the rows written so far.

    Returns:
        Rows written.

    Raises:
        ConfigError: If the run does not play a recording.
    """
    player = config.player() if config.player is not None else None
    if not isinstance(player, Recording):
        raise ConfigError(f"Run '{config.name}'", got="no recorded log", expected="a run that plays a recording",
                          do="A simulated world writes its own log with log=true.")  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    writer: pq.ParquetWriter | None = None
    rows = 0
    try:
        while True:
            try:
                events = player.inner.read(ROWS)
            except SourceEnded:
                break
            if events is None:
                break
            if writer is None:
                writer = pq.ParquetWriter(temporary, events.batch.schema, compression="zstd")
            writer.write_batch(events.batch)
            rows += len(events)
            if on_rows is not None:
                on_rows(rows)
        if writer is not None:
            writer.close()
            temporary.replace(path)
    finally:
        if writer is not None:
            writer.close()
        temporary.unlink(missing_ok=True)
    return rows
