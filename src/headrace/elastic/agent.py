"""The part of a worker that talks with the head while the worker computes: signs of life, and news of another epoch.

One call is always on its way: the head answers it after a heartbeat's time, or at once when the epoch has changed. So a
frozen or cut off worker falls silent, a dead one breaks the connection, and everybody else hears of it in milliseconds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from headrace.errors import HeadraceError, WorkerLost
from headrace.runtime.wire import Connection

_log = logging.getLogger(__name__)
PAUSE_S = 0.05


class Agent:
    """Keeps a worker known to the head.

    Args:
        address: Of the head.
        secret: Of the run.
        worker: Name of the worker.
        silence_s: After so long without an answer a call is given up and made anew.
        numbers: Asked for what to tell with every sign of life.

    Attributes:
        epoch: The newest that was heard of.

    Thread-safety: any thread.
    """

    def __init__(
        self, address: str, secret: bytes, worker: str, silence_s: float, numbers: Callable[[], dict[str, Any]]
    ) -> None:
        self._connection = Connection(address, secret, 2 * silence_s + 1.0, name="head")
        self._worker, self._numbers = worker, numbers
        self._changed: Callable[[], None] | None = None
        self._expected, self.epoch = -1, -1
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="agent", daemon=True)
        self._thread.start()

    def watch(self, epoch: int, changed: Callable[[], None]) -> None:
        """Call `changed` once, from another thread, as soon as the epoch is another one than this."""
        with self._lock:
            self._expected, self._changed = epoch, changed
        self._look()

    def stop(self) -> None:
        """Say nothing any more."""
        self._stopped.set()
        self._connection.close()

    def _look(self) -> None:
        with self._lock:
            call = self._changed if self.epoch > self._expected else None
            if call is not None:
                self._changed = None
        if call is not None:
            call()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                fields = {"worker": self._worker, "epoch": self.epoch, **self._numbers()}
                told = self._connection.call("beat", fields).fields
                self.epoch = int(told["epoch"])
                self._look()
            except WorkerLost:
                time.sleep(PAUSE_S)
            except HeadraceError as error:
                _log.warning("the head refused a sign of life: %s", error)
                time.sleep(PAUSE_S)
