"""A laboratory that carries out a plan of faults on running processes, undoes them, and reports what ran and how.

Every fault has a form in user space (signals, a TCP proxy, a limit on files), which works everywhere, and some have one
in the kernel (namespaces with shaped links, CPU quotas, a small disk). Which of them a fault took is in the report.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial

from headrace.config import known_name, require
from headrace.testing.closing import Closing
from headrace.testing.fault_plan import Fault, FaultPlan
from headrace.testing.network import Network
from headrace.testing.proxy import WAYS, Line, TcpProxy, Way
from headrace.testing.quota import CpuQuota, SmallDisk, Throttle, limit_files, send

KERNEL, USER = "kernel", "user space"
CUT_OFF: dict[str, Way | None] = {"partition": None, "partition-there": "there", "partition-back": "back"}
OTHER: dict[Way, Way] = {"there": "back", "back": "there"}
TICK_S = 0.01


@dataclass(frozen=True, kw_only=True)
class Target:
    """A role that faults are done to.

    Attributes:
        pid: Says which process plays the role now; None while none does.
        links: Proxies that stand before it (`there` is the way to it) ...
        uplinks: ... and those through which it reaches others (`there` is the way from it).
        node: The network and the node in it on which the role runs; None: not in a namespace.
        disk: The small disk that its files are on; None: its files are limited instead.
    """

    pid: Callable[[], int | None]
    links: Sequence[TcpProxy] = ()
    uplinks: Sequence[TcpProxy] = ()
    node: tuple[Network, str] | None = None
    disk: SmallDisk | None = None

    def form(self, kind: str, quotas: bool = False) -> str | None:
        """Return which form a kind of fault would take here; None: it cannot be done to this role."""
        if kind in {"kill", "freeze"}:
            return USER
        if kind == "slow-cpu":
            return KERNEL if quotas else USER
        if kind == "disk-full":
            return KERNEL if self.disk is not None else USER
        if self.node is not None and (kind in CUT_OFF or kind == "slow-link"):
            return KERNEL
        return USER if self.links or self.uplinks else None


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a planned fault.

    Attributes:
        fault: What was planned.
        began_s: Seconds after the plan's beginning when it was done.
        form: `kernel`, `user space`, or `not done`.
        note: Why it was not done.
    """

    fault: Fault
    began_s: float
    form: str
    note: str = ""


@dataclass(kw_only=True)
class LabReport:
    """What a laboratory did.

    Attributes:
        done: A line for every fault that came up.
        took_s: How long it took.
    """

    done: list[Done] = field(default_factory=list)
    took_s: float = 0.0

    def count(self) -> int:
        """Return how many faults were really done."""
        return sum(one.form != "not done" for one in self.done)

    def counts(self) -> dict[str, int]:
        """Return how many faults were done, by kind and form: `freeze (user space)`."""
        return dict(sorted(Counter(f"{one.fault.kind} ({one.form})" for one in self.done).items()))

    def to_json(self) -> str:
        """Return all of it as JSON."""
        return json.dumps({"took_s": self.took_s, "done": [asdict(one) for one in self.done]})

    def text(self) -> str:
        """Return it for people: how many of which kind, in which form, on which role."""
        roles = Counter(one.fault.name for one in self.done if one.form != "not done")
        lines = [f"{count:5d}  {what}" for what, count in self.counts().items()]
        return "\n".join([*lines, "on " + ", ".join(f"{name} {count}" for name, count in sorted(roles.items()))])


class FaultLab(Closing):
    """Carries out plans; as a context manager it undoes whatever is still done when it ends.

    Faults may overlap: a role is let go when the last fault that holds it is over, and its link is as bad as the worst
    of them. A killed role is not started again by the laboratory: whoever started it does that, as in production.

    Args:
        targets: The roles by name.
        quotas: Slow processors with control groups (`probe_rights()["cpu quota"]`) instead of signals.
        settled: The plan's clock starts when this first returns True: until then the run is still starting.
        clock: Seconds; a test gives its own.

    Example:
        >>> import subprocess, sys
        >>> child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        >>> plan = FaultPlan(faults=(Fault(0.0, "freeze", "nap", 0.05), Fault(0.1, "kill", "nap")))
        >>> with child, FaultLab({"nap": Target(pid=lambda: child.pid)}) as lab:
        ...     lab.run(plan).counts()
        {'freeze (user space)': 1, 'kill (user space)': 1}
    """

    def __init__(
        self, targets: Mapping[str, Target], *, quotas: bool = False, settled: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        require(len(targets) > 0, "targets", got=dict(targets), expected="at least one role")
        self.targets, self.quotas, self.settled, self._clock = dict(targets), quotas, settled, clock
        self.report = LabReport()
        self._frozen: Counter[int] = Counter()
        self._full: Counter[str] = Counter()
        self._bad: dict[str, list[Fault]] = {name: [] for name in targets}
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def close(self) -> None:
        """Undo every fault that still lasts."""
        while self._due:
            heapq.heappop(self._due)[2]()

    def run(self, plan: FaultPlan, until: Callable[[], bool] = lambda: False) -> LabReport:
        """Do the plan's faults at their times, wait until the last is over, and return what was done.

        Args:
            plan: The plan. Its roles have to be known here.
            until: Ends the run early when it holds (the job is done); what lasts then is undone.
        """
        for fault in plan.faults:
            known_name("role", fault.name, list(self.targets))
        self.report = LabReport()
        while not self.settled() and not until():
            time.sleep(TICK_S)
        began = self._clock()
        for fault in plan.faults:
            while self._clock() < began + fault.at_s and not until():
                self._undo(self._clock())
                time.sleep(TICK_S)
            if until():
                break
            self._undo(self._clock())
            self._do(fault, began)
        while self._due and not until():
            self._undo(self._clock())
            time.sleep(TICK_S)
        self.close()
        self.report.took_s = self._clock() - began
        return self.report

    def _undo(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2]()

    def _later(self, length_s: float, undo: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self._clock() + length_s, next(self._order), undo))

    def _do(self, fault: Fault, began: float) -> None:
        target = self.targets[fault.name]
        form, pid, note = target.form(fault.kind, self.quotas), target.pid(), ""
        if form is None:
            note = "nothing stands between it and the others"
        elif pid is None:
            form, note = None, "no process played the role"
        elif fault.kind in CUT_OFF or fault.kind in {"slow-link", "delay", "loss"}:
            self._bad[fault.name].append(fault)
            self._link(fault.name)
            self._later(fault.length_s, partial(self._mend, fault))
        elif fault.kind == "cut":
            for proxy in (*target.links, *target.uplinks):
                proxy.cut()
        elif not self._process(fault, pid, target):
            form, note = None, "its process was gone"
        self.report.done.append(Done(fault, self._clock() - began, form or "not done", note))

    def _process(self, fault: Fault, pid: int, target: Target) -> bool:
        """Do a fault to a process; False if it was not there any more."""
        try:
            if fault.kind == "kill":
                return send(pid, signal.SIGKILL)
            if fault.kind == "freeze":
                if not send(pid, signal.SIGSTOP):
                    return False
                self._frozen[pid] += 1
                self._later(fault.length_s, partial(self._thaw, pid))
            elif fault.kind == "slow-cpu":
                self._later(fault.length_s, self._slow(fault, pid))
            elif target.disk is not None:
                target.disk.fill()
                self._full[fault.name] += 1
                self._later(fault.length_s, partial(self._free, fault.name, pid))
            else:
                limit_files(pid, 0)
                self._full[fault.name] += 1
                self._later(fault.length_s, partial(self._free, fault.name, pid))
        except ProcessLookupError:
            return False
        return True

    def _slow(self, fault: Fault, pid: int) -> Callable[[], None]:
        share = fault.amount or 0.5
        if self.quotas:
            quota = CpuQuota(share)
            try:
                quota.add(pid)
            except BaseException:
                quota.close()
                raise
            return quota.close
        os.kill(pid, 0)
        return Throttle(pid, share, held=lambda: self._frozen[pid] > 0).close

    def _thaw(self, pid: int) -> None:
        self._frozen[pid] -= 1
        if not self._frozen[pid]:
            send(pid, signal.SIGCONT)

    def _free(self, name: str, pid: int) -> None:
        self._full[name] -= 1
        if self._full[name]:
            return
        disk = self.targets[name].disk
        if disk is not None:
            disk.free()
            return
        for each in {pid, self.targets[name].pid()} - {None}:
            try:
                limit_files(each or 0, None)
            except (ProcessLookupError, PermissionError):  # killed meanwhile: its successor has no limit
                continue

    def _mend(self, fault: Fault) -> None:
        self._bad[fault.name].remove(fault)
        self._link(fault.name)

    def _link(self, name: str) -> None:
        """Make a role's links as bad as the faults that last."""
        target, line, cut_off, faults = self.targets[name], Line(), set[Way](), self._bad[name]
        speeds = [fault.amount for fault in faults if fault.kind == "slow-link" and fault.amount is not None]
        for fault in faults:
            if fault.kind in CUT_OFF:
                way = CUT_OFF[fault.kind]
                cut_off |= set(WAYS) if way is None else {way}
            elif fault.kind in {"delay", "loss"} and fault.amount is not None:
                line = _worse(line, fault.kind, fault.amount)
        line = replace(line, bytes_per_s=min(speeds, default=None))
        if target.node is not None:
            network, node = target.node
            for way in WAYS:
                if way in cut_off:
                    network.partition(node, way)
                else:
                    network.heal(node, way)
            network.shape(node, min(speeds, default=network.bytes_per_s))
            cut_off, line = set(), replace(line, bytes_per_s=None)  # the kernel does these; the proxies do the others
        for proxies, turned in ((target.links, False), (target.uplinks, True)):
            for proxy in proxies:
                proxy.set(line)
                for way in WAYS:
                    outer = OTHER[way] if turned else way
                    if outer in cut_off:
                        proxy.partition(way)
                    else:
                        proxy.heal(way)


def _worse(line: Line, kind: str, amount: float) -> Line:
    if kind == "delay":
        return replace(line, delay_s=max(line.delay_s, amount))
    return replace(line, loss=max(line.loss, min(amount, 0.99)))
