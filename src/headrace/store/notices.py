"""Fallbacks of the store: each is logged once per process and remembered, so that a report can name it."""

from __future__ import annotations

import logging
import threading

_logger = logging.getLogger("headrace.store")
_taken: dict[str, str] = {}
_lock = threading.Lock()


def note_once(topic: str, text: str) -> None:
    """Log a warning the first time that `topic` comes up in this process."""
    with _lock:
        if topic in _taken:
            return
        _taken[topic] = text
    _logger.warning("%s", text)


def fallbacks() -> list[str]:
    """Return every fallback that the store has taken in this process; belongs into a report's notes."""
    with _lock:
        return list(_taken.values())
