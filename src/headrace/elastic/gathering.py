"""How the members of a run come together: who has entered an epoch, when its work begins, who gives the dense state.

An epoch begins once all its members have entered. Members that hold the dense state of the newest committed step give
it to those that do not; where nobody holds it, everybody has to go back to a checkpoint.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from headrace.elastic.attendance import Attendance
from headrace.elastic.membership import Membership
from headrace.elastic.turns import Tables
from headrace.errors import ClusterError, CorruptSnapshot, HeadraceError, LeaseLost, StoreError
from headrace.runtime.controller import Controller
from headrace.runtime.frames import Array

_log = logging.getLogger(__name__)
State = tuple[Mapping[str, Any], Mapping[str, Array]]
WAKE_S = 0.5


class Gathering(Attendance):
    """Members and epochs. A subclass says what the work of an epoch is.

    Args:
        members: Who takes part; epochs.
        controller: Told of members.
        tables: The table servers.
        committed: The newest committed step.
        begin_with: Workers that the first epoch waits for, at most `begin_s`.
        begin_s: See there.

    Attributes:
        finishers: Who learned the last step.

    Thread-safety: every method may be called from any thread; those that wait hold no lock meanwhile.
    """

    def __init__(self, members: Membership, controller: Controller, tables: Tables, committed: int, begin_with: int,
                 begin_s: float) -> None:  # fmt: skip
        super().__init__(members, controller, committed)
        self.tables, self.finishers = tables, set[str]()
        self._begin_with, self._begin_s = begin_with, begin_s
        self._open, self._born = False, time.monotonic()
        self._entered: dict[str, int] = {}
        self._formed = self._adrift = self._basis = 0
        self._holders: list[str] = []
        self._states: dict[int, State] = {}
        self._restored: tuple[int, State] | None = None

    @abstractmethod
    def begin_work(self, epoch: int) -> None:
        """Begin the work of an epoch, behind what is committed."""

    @abstractmethod
    def void(self) -> None:
        """Forget what belonged to the former epoch."""

    @abstractmethod
    def forget_results(self) -> None:
        """Forget what was committed: everybody went back."""

    @abstractmethod
    def told(self, worker: str, known: int) -> list[dict[str, Any]]:
        """Return the plans of steps after a known one, as a worker gets them."""

    def enter(self, worker: str, told: Mapping[str, Any], step: int) -> dict[str, Any]:
        """Take part in the next epoch; returns once all its members are here.

        Args:
            worker: Who.
            told: What it says of itself.
            step: The newest step that its dense part has taken; -1: it has none.

        Raises:
            LeaseLost: If it was taken for dead meanwhile: it has to enter again, where it lives.
            HeadraceError: What ended the run.
        """
        with self.turn:
            now, epoch = time.monotonic(), self.members.epoch
            self._raise_failure()
            try:
                if worker not in self.members:
                    self._joined(worker, told, now)
                elif self._formed == epoch and not self.ended:
                    self._changed("broken", worker, "its group is broken", now)
            except HeadraceError as error:
                if not heals(error):  # more workers than rows, say: it is no fault of this one
                    self.fail(error)
                raise
            while True:
                self._raise_failure()
                if worker not in self.members:
                    raise _over(epoch, self.members.epoch)
                if self.ended and (step == self.committed or self.finishers & set(self.members.names)):
                    return {"end": True, "committed": self.committed}
                if self.ended:  # all who held what was learned are gone
                    self.ended, self._adrift = False, self.members.epoch
                self._entered[worker] = step
                if self._complete() and self._begun():
                    return self._place(worker)
                self.turn.wait(WAKE_S)

    def _begun(self) -> bool:
        """Begin the work of this epoch, where that has not been done; return whether it has begun."""
        try:
            if self._formed != self.members.epoch:
                self._form()
            return self._formed == self.members.epoch
        except HeadraceError as error:
            self._formed = 0
            if not heals(error):
                self.fail(error)
            else:
                _log.warning("epoch %d does not begin yet: %s", self.members.epoch, error)
            return False

    def _joined(self, worker: str, told: Mapping[str, Any], now: float) -> None:
        self.join(worker, told, now)
        self._void()

    def gone(self, worker: str) -> None:
        """Void the epoch in which a worker was."""
        self._void()

    def changed(self, kind: str, worker: str, reason: str) -> None:
        """Begin another epoch with the same members: the step is done again."""
        with self.turn:
            self._changed(kind, worker, reason, time.monotonic())

    def _changed(self, kind: str, worker: str, reason: str, now: float) -> None:
        self.members.raise_epoch(kind, worker, reason, now)
        self._void()

    def _void(self) -> None:
        """Forget what belonged to the former epoch."""
        self._entered.clear()
        self._states.clear()
        self.void()
        self.tables.fence(self.members.epoch)
        self.turn.notify_all()

    def _complete(self) -> bool:
        """Return whether all members of this epoch have entered, and enough are here to begin."""
        if not self._open:
            late = time.monotonic() - self._born > self._begin_s
            if len(self.members) < self._begin_with and not late:
                return False
            self._open = True
        here = bool(self._entered) and set(self.members.names) == self._entered.keys()
        return here and self.tables.ready and not self.homeless()

    def _form(self) -> None:
        """Begin the work of an epoch, behind what is committed; not where nobody holds the dense state."""
        epoch, names = self.members.epoch, self.members.names
        self._basis = self.committed
        self._holders = [name for name in names if self._entered[name] == self._basis]
        if not self._holders and self._restored is not None and self._restored[0] == self._basis:
            self._states[epoch] = self._restored[1]
        elif not self._holders and self._basis:
            self._adrift = epoch
            return
        self._formed = epoch
        self.begin_work(epoch)
        self.turn.notify_all()

    def _place(self, worker: str) -> dict[str, Any]:
        names, basis, holders = self.members.names, self._basis, self._holders
        return {
            "end": self.ended, "epoch": self.members.epoch, "members": names, "rank": names.index(worker),
            "meeting": self.members[names[0]].told.get("meeting", ""), "committed": basis,
            "donor": holders[0] if holders else "",
            "lacking": [name for name in names if name not in holders], "plans": self.told(worker, basis),
        }  # fmt: skip

    def go_back(self, step: int, fields: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """Go on from a checkpoint: servers and queue stand there already, workers get its dense state.

        Args:
            step: Of the checkpoint.
            fields: The dense state, packed; empty for step 0, which workers can make themselves.
            arrays: The same.
        """
        with self.turn:
            self.committed, self.ended = step, False
            self._restored = (step, (dict(fields), dict(arrays)))
            self.forget_results()
            self._changed("restored", "", f"everything is at step {step}", time.monotonic())

    def homeless(self) -> bool:
        """Return whether an epoch has begun in which nobody holds the dense state: then all must go back."""
        with self.turn:
            return self._adrift == self.members.epoch and not self.ended

    def hand_over(self, epoch: int, fields: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """Keep the dense state that a donor gives to those who lack it."""
        with self.turn:
            if epoch == self.members.epoch:
                self._states[epoch] = (dict(fields), dict(arrays))
                self.turn.notify_all()

    def handed(self, epoch: int) -> State:
        """Return what was handed over in an epoch, waiting for it.

        Raises:
            LeaseLost: If another epoch has begun.
        """
        with self.turn:
            while epoch not in self._states:
                self._raise_failure()
                if epoch != self.members.epoch:
                    raise _over(epoch, self.members.epoch)
                self.turn.wait(WAKE_S)
            return self._states[epoch]

    def is_news(self, epoch: int) -> bool:
        """Return whether another epoch than this one is the present one."""
        return self.members.epoch != epoch

    def _require_epoch(self, worker: str, epoch: int) -> None:
        if epoch != self.members.epoch or worker not in self.members:
            raise _over(epoch, self.members.epoch)


def heals(error: HeadraceError) -> bool:
    """Return whether an error may be over in a moment: a full disk, a server that is started again."""
    return isinstance(error, (StoreError, ClusterError)) and not isinstance(error, (CorruptSnapshot, LeaseLost))


def _over(epoch: int, now: int) -> LeaseLost:
    return LeaseLost(f"Epoch {epoch}", got=f"epoch {now}", expected="the present one", do="Enter again.")
