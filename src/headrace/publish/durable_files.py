"""Files that are whole or absent: written beside their place, then renamed into it."""

from __future__ import annotations

import os
from pathlib import Path

PART = ".part"


def write_whole(path: Path, data: bytes | bytearray | memoryview, *, sync: bool = True) -> None:
    """Put bytes under a name so that a reader, and a crash at any instant, sees the old file or all of the new one.

    Args:
        path: The file; its folder must exist.
        data: Its content.
        sync: Wait for the disk, so that it also holds through a power cut.

    Raises:
        OSError: If the disk does not take it; what was there before is untouched.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_parts(folder: Path, pattern: str = f"*{PART}") -> int:
    """Remove what killed writers left half written; only for the one writer of such files. Returns how many."""
    removed = 0
    for path in folder.glob(pattern):
        path.unlink(missing_ok=True)
        removed += 1
    return removed
