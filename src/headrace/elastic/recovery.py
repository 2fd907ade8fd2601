"""When a run saves checkpoints, and how it goes back to the newest: what the head does with `ElasticCheckpoint`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from headrace.elastic.checkpoints import ElasticCheckpoint
from headrace.elastic.dense_state import pack_state, unpack_state
from headrace.elastic.server_side import ServerSide
from headrace.errors import CorruptSnapshot, HeadraceError
from headrace.learn import ManifestCheckpoint
from headrace.runtime.frames import Array
from headrace.runtime.work_queue import ShardQueue
from headrace.types import State

_log = logging.getLogger(__name__)
AHEAD = 4
"""Steps between now and a checkpoint, of which servers are told in advance."""


@dataclass(slots=True)
class _Pending:
    """A checkpoint that is being made."""

    step: int
    planning: threading.Thread
    queue: State | None = None
    dense: State | None = None
    begun: bool = False


class Recovery:
    """Saves checkpoints of a run, and goes back to them.

    Of a synchronous run a worker brings the dense part; of an asynchronous one the servers have it.

    Args:
        folder: Of the checkpoints; the head and all servers must see it.
        servers: The table servers.
        queue: The work queue.
        every: Steps between two checkpoints; 0: never.
        dense_at_servers: Whether the dense part is at a server.
        keep: Checkpoints to keep.

    Attributes:
        saved: The newest step that was saved, and is known here.

    Thread-safety: `committed` is called under the conductor's lock; everything else from any thread.
    """

    def __init__(
        self, folder: Path, servers: ServerSide, queue: ShardQueue, every: int, *, dense_at_servers: bool = False,
        keep: int = 2,
    ) -> None:  # fmt: skip
        self.checkpoint = ElasticCheckpoint(folder, keep)
        self.saved = -1
        self._servers, self._queue, self._every, self._dense_at_servers = servers, queue, every, dense_at_servers
        self._lock = threading.Lock()
        self._pending: _Pending | None = None
        self._thread: threading.Thread | None = None
        self._beginning = ManifestCheckpoint(folder / "beginning", keep=1)
        if queue.last_step < 1 and self._beginning.load() is None:
            self._beginning.save({"queue": queue.state()})

    def _due(self, step: int) -> bool:
        """Return whether a checkpoint is due after a step."""
        return self._every > 0 and step > 0 and step % self._every == 0

    def committed(self, step: int) -> None:
        """Keep the queue of a step that was committed, where it is one to save, and plan the next; never raises.

        Servers are told in a thread: one that does not answer must not hold up the run.
        """
        with self._lock:
            if self._pending is not None and self._pending.step == step:
                self._seize(self._pending)
            due = self._next(step)
            if due > step and self._free(due, step):
                planning = threading.Thread(target=self._plan, args=(due,), name="plan", daemon=True)
                self._pending = _Pending(due, planning)
                planning.start()

    def _next(self, step: int) -> int:
        """Return the step whose checkpoint is planned after this one; 0: none."""
        if self._dense_at_servers:
            return step + AHEAD if self._due(step) else 0
        due = (step // self._every + 1) * self._every if self._every else 0
        return due if due - step <= AHEAD else 0

    def _free(self, due: int, step: int) -> bool:
        """Return whether a checkpoint can be planned: one that nobody brings the dense part of has to make room."""
        pending = self._pending
        if pending is None:
            return True
        stuck = not pending.begun and pending.step < step and due - step == (AHEAD if self._dense_at_servers else 1)
        if stuck:
            _log.warning("no checkpoint of step %d: nobody brought its dense part", pending.step)
        return stuck

    def _plan(self, step: int) -> None:
        try:
            self.checkpoint.plan(self._servers.directory, step)
        except HeadraceError as error:
            _log.warning("no checkpoint of step %d: %s", step, error)
            with self._lock:
                if self._pending is not None and self._pending.step == step:
                    self._pending = None

    def _seize(self, pending: _Pending) -> None:
        """Keep what the queue is now, for this is the moment of the checkpoint."""
        pending.queue = self._queue.state()
        if self._dense_at_servers:
            pending.dense = {}
        self._finish_if_whole(pending)

    def wanted(self, step: int) -> bool:
        """Return whether the dense part of a step is still wanted; whoever hears so delivers it."""
        with self._lock:
            pending = self._pending
            return pending is not None and pending.step == step and pending.dense is None

    def deliver(self, step: int, fields: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """Take the dense part of a step, as `pack_state` sends it."""
        with self._lock:
            pending = self._pending
            if pending is None or pending.step != step or pending.dense is not None:
                return
            pending.dense = unpack_state(fields, arrays)
            self._finish_if_whole(pending)

    def _finish_if_whole(self, pending: _Pending) -> None:
        if pending.queue is not None and pending.dense is not None and not pending.begun:
            pending.begun = True
            self._thread = threading.Thread(target=self._finish, args=(pending,), name="checkpoint", daemon=True)
            self._thread.start()

    def _finish(self, pending: _Pending) -> None:
        try:
            assert pending.queue is not None
            pending.planning.join()
            if self._pending is not pending:
                return  # it could not be planned
            applier = self._servers.applier
            assert applier is not None
            applier.flush()
            self.checkpoint.finish(self._servers.directory, pending.step, queue=pending.queue, dense=pending.dense)
            self._queue.saved(pending.queue)
            self.saved = pending.step
            _log.info("checkpoint of step %d", pending.step)
        except HeadraceError as error:
            _log.warning("no checkpoint of step %d: %s", pending.step, error)
        finally:
            with self._lock:
                if self._pending is pending:
                    self._pending = None

    def wait(self, timeout_s: float = 60.0) -> None:
        """Wait for a checkpoint that is being written."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    def restore(self, numbers: Sequence[int]) -> tuple[int, dict[str, Any], dict[str, Array]]:
        """Bring servers and queue to the newest checkpoint, or to the beginning where there is none.

        Nobody may commit meanwhile.

        Args:
            numbers: Of the servers that are to own the tables.

        Returns:
            Its step, and its dense part as `pack_state` sends it; 0 and nothing for the beginning.

        Raises:
            HeadraceError: If a server is lost meanwhile, or no checkpoint is whole.
        """
        self.wait()
        with self._lock:
            self._pending = None
            saved, servers = self.checkpoint.newest(), self._servers
            self.checkpoint.restore_servers(saved, servers.directory, servers.record, numbers)
            step = 0 if saved is None else saved.step
            servers.start_applier(step)
            self._queue.restore(self._first() if saved is None else saved.queue)
            self.saved = step if saved is not None else -1
            if saved is None or not saved.dense:
                return step, {}, {}
            return step, *pack_state(saved.dense)

    def _first(self) -> State:
        """Return what the queue was at the beginning."""
        state = self._beginning.load()
        if state is None:
            raise CorruptSnapshot("Checkpoints", got="none, and no beginning", expected="the folder of this run")
        return cast(State, state["queue"])
