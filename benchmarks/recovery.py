"""What a death costs: how long no step is committed and how many steps are taken again, ours and torchft in turn.

    python benchmarks/recovery.py [--quick | --tiny] [--json] [--record FILE]

Four workers train the same network with the same batches in steps of the same length; heartbeats and the silence after
which a process counts as dead are the same for both. After some steps the last worker is killed (SIGKILL) or frozen
(SIGSTOP). The stall is the longest time between two committed steps of a survivor, from the blow on. Ours also keeps
its tables on servers and its work queue in a head process: their deaths are timed as well. `make peers` installs
torchft; without it its figures are null. Exit code 0: every goal holds; 3: some do not; 1: failed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from recovery_contenders import ours, torchft_peer
from recovery_contenders.stalls import Blow, Stall
from recovery_contenders.torchft_peer import PeerFailed, Shape
from table_contenders.delivery import deliver
from table_contenders.figures import Figures

from headrace.errors import HeadraceError
from headrace.evaluate.claims import ClaimTable, Goal

SETTINGS = {
    "ours": "head, 2 table servers and 4 workers as processes; dense sums by gloo, rows by our own sockets",
    "torchft": "a lighthouse and 4 replicas as processes; gloo; defaults but for the time-outs",
    "stall": "longest time between two committed steps of one survivor, from the blow on; the step itself included",
    "redone": "steps that were begun with the dead worker and taken again without it",
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        blows: Heartbeat time-out -> what is done to a worker of ours and of torchft; the first one is the goals'.
        rounds: Alternated runs at each time-out.
        roles: Further roles of ours whose death is timed, at the last time-out ...
        role_rounds: ... and in how many rounds.
    """

    blows: tuple[tuple[float, tuple[str, ...]], ...] = ((5.0, ("kill",)), (1.0, ("kill", "freeze")))
    rounds: int = 3
    roles: tuple[str, ...] = ("server", "head")
    role_rounds: int = 1


PLANS = {
    "standard": Plan(), "quick": Plan(blows=((1.0, ("kill",)),), rounds=1),
    "tiny": Plan(blows=((1.0, ("kill",)),), rounds=1, roles=()),
}  # fmt: skip


def say(text: str) -> None:
    """Tell a person who waits."""
    print(text, file=sys.stderr, flush=True)


class Recovery:
    """Runs the rounds and keeps what came of them."""

    def __init__(self, plan: Plan, figures: Figures, folder: Path) -> None:
        self.plan, self.figures, self.folder = plan, figures, folder
        self.peer_missing = torchft_peer.available()
        self.rows: list[tuple[str, ...]] = []
        self._runs = 0

    def measure(self) -> None:
        """Run everything."""
        last = self.plan.blows[-1][0]
        for silence_s, kinds in self.plan.blows:
            shape, blows = Shape(silence_s=silence_s), [Blow(kind=kind) for kind in kinds]
            others = [Blow(kind="kill", role=role) for role in self.plan.roles] if silence_s == last else []
            mine = {blow: list[Stall]() for blow in [*blows, *others]}
            theirs = {blow: list[Stall | None]() for blow in blows}
            for number in range(self.plan.rounds):
                chosen = [*blows, *(others if number < self.plan.role_rounds else [])]
                turns = [partial(self._ours, shape, chosen, mine), partial(self._torchft, shape, theirs)]
                for turn in turns if number % 2 == 0 else reversed(turns):
                    turn()
            for blow in blows:
                self._compared(silence_s, blow.kind, mine[blow], theirs[blow])
            for blow in others:
                self._role(blow.role, silence_s, mine[blow])

    def _place(self) -> Path:
        self._runs += 1
        return self.folder / f"run-{self._runs}"

    def _ours(self, shape: Shape, blows: list[Blow], into: dict[Blow, list[Stall]]) -> None:
        for blow, stall in zip(blows, ours.run(shape, blows, self._place()), strict=True):
            into[blow].append(stall)
            self._told("headrace", shape, blow, stall)

    def _torchft(self, shape: Shape, into: dict[Blow, list[Stall | None]]) -> None:
        for blow in into if self.peer_missing is None else ():
            try:
                stall = torchft_peer.run(shape, blow, self._place())
                into[blow].append(stall)
                self._told("torchft", shape, blow, stall)
            except PeerFailed as error:
                into[blow].append(None)  # so that rounds stay beside each other
                self.figures.notes.append(f"torchft, {blow.kind}, {shape.silence_s:g} s: {error}.")

    @staticmethod
    def _told(name: str, shape: Shape, blow: Blow, stall: Stall) -> None:
        say(f"{name}, {blow.kind} the {blow.role}, silence {shape.silence_s:g} s: stall {stall.seconds:.2f} s, "
            f"{stall.redone} step(s) again")  # fmt: skip

    def _compared(self, silence_s: float, kind: str, mine: list[Stall], theirs: list[Stall | None]) -> None:
        first = silence_s == self.plan.blows[0][0]
        tail = ("" if kind == "kill" else f"/{kind}") + ("" if first else f"/silence_{silence_s:g}_s")
        # A frozen worker is known by its silence alone, on both sides; a dead one by its connection, on ours.
        killed = kind == "kill"
        self.figures.add(f"stall_s{tail}", [stall.seconds for stall in mine], unit="s",
                         goal=Goal("<=", silence_s) if killed else None)  # fmt: skip
        self.figures.add(f"steps_redone{tail}", [float(max(stall.redone for stall in mine))], unit="steps",
                         goal=Goal("<=", 1.0))  # fmt: skip
        below = Goal("<=", 0.99) if killed else None
        ran = [stall for stall in theirs if stall is not None]
        pairs = [one.seconds / other.seconds for one, other in zip(mine, theirs, strict=False) if other is not None]
        if pairs:
            self.figures.add(f"stall_s{tail}/torchft", [stall.seconds for stall in ran], unit="s")
            self.figures.add(f"stall_vs_torchft{tail}", pairs, goal=below)
        else:
            self.figures.missing(f"stall_vs_torchft{tail}", self.peer_missing or "torchft did not run", goal=below)
        self._row(f"{kind} a worker, {silence_s:g} s", "headrace", mine)
        self._row(f"{kind} a worker, {silence_s:g} s", "torchft", ran)

    def _role(self, role: str, silence_s: float, mine: list[Stall]) -> None:
        self.figures.add(f"stall_s/{role}", [stall.seconds for stall in mine], unit="s")
        self.figures.add(f"steps_redone/{role}", [float(max(stall.redone for stall in mine))], unit="steps")
        self._row(f"kill the {role}, {silence_s:g} s", "headrace", mine)

    def _row(self, what: str, who: str, found: list[Stall]) -> None:
        if found:
            times = sorted(stall.seconds for stall in found)
            again = str(max(stall.redone for stall in found))
            self.rows.append((what, who, f"{statistics.median(times):.2f}", f"{times[-1]:.2f}", again))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="size", action="store_const", const="quick", help="under a minute")
    size.add_argument("--tiny", dest="size", action="store_const", const="tiny", help="no useful numbers; for tests")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else")
    parser.add_argument("--record", type=Path, help="write the result there too")
    parser.set_defaults(size="standard")
    asked = parser.parse_args()
    plan, figures, began = PLANS[asked.size], Figures(), time.monotonic()
    flag = "" if asked.size == "standard" else f" --{asked.size}"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        with tempfile.TemporaryDirectory() as place:
            recovery = Recovery(plan, figures, Path(place))
            recovery.measure()
    except HeadraceError as error:
        say(f"benchmarks/recovery.py: {error}")
        return 1
    columns = ("blow, heartbeat time-out", "", "median stall, s", "longest, s", "steps again")
    figures.tables.append(ClaimTable("A process is struck while four workers train", columns, tuple(recovery.rows)))
    result = figures.result({"command": f"python benchmarks/recovery.py{flag}", **SETTINGS, **asdict(plan),
                             "shape": asdict(replace(Shape(), silence_s=plan.blows[0][0])),
                             "seconds_in_all": round(time.monotonic() - began)})  # fmt: skip
    return deliver(result, record=asked.record, as_json=asked.json)


if __name__ == "__main__":
    sys.exit(main())
