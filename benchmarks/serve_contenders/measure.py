"""What is measured of servers: peaks and latencies in turn with the peers, half load, swaps of versions, and memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headrace.publish import LogPublisher
from serve_contenders.load import Load, Taken
from serve_contenders.processes import Server, ServerFailed, fastapi, ours, ray_serve
from serve_contenders.publishing import publishing

OURS, FASTAPI, RAY = "headrace", "fastapi_torch", "ray_serve"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        rows: Rows of each of the 26 tables.
        candidates: Of one request.
        rounds: Rounds; every contender has its turn in each.
        seconds: Of one run of the load generator.
        connections: At which peaks are looked for.
        workers: Processes (replicas) that answer, of every contender.
        swap_pairs: Pairs of windows, without and with new versions.
        swaps_per_s: New versions per second in the second one.
        swap_rows: Rows that a new version changes.
        memory_rows: Rows of each table while memory is measured.
        peers: Contenders beside ours.
        tune: Try the peers' other ways first; the fastest one takes part.
    """

    rows: int = 50_000
    candidates: int = 100
    rounds: int = 3
    seconds: float = 4.0
    connections: tuple[int, ...] = (2, 4, 8, 16, 32)
    workers: int = 2
    swap_pairs: int = 6
    swaps_per_s: float = 4.0
    swap_rows: int = 2_000
    memory_rows: int = 200_000
    peers: tuple[str, ...] = (FASTAPI, RAY)
    tune: bool = False


@dataclass
class Curves:
    """What every contender reached, round by round: one run for every number of connections."""

    taken: dict[str, list[list[Taken]]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def peaks(self, name: str) -> list[Taken]:
        """Return the run with the most answers of every round."""
        return [max(runs, key=lambda run: run.per_s) for runs in self.taken.get(name, [])]

    def ratios(self, peer: str) -> list[float]:
        """Return our answers per second over the peer's at its peak, where our p99 is not worse than its, by round."""
        found = []
        for mine, its in zip(self.taken.get(OURS, []), self.taken.get(peer, []), strict=False):
            best = max(its, key=lambda run: run.per_s)
            fair = [run.per_s for run in mine if run.p99_ms <= best.p99_ms] or [min(mine, key=lambda r: r.p99_ms).per_s]
            found.append(max(fair) / best.per_s)
        return found


def starters(plan: Plan, run: Path, case: Path, *, compiled: bool) -> dict[str, Callable[[], Server]]:
    """Return how every contender is started."""
    return {
        OURS: lambda: ours(run, plan.workers), FASTAPI: lambda: fastapi(case, plan.workers, compiled=compiled),
        RAY: lambda: ray_serve(case, plan.workers),
    }  # fmt: skip


def compiled_is_faster(plan: Plan, load: Load, case: Path, say: Callable[[str], None]) -> bool:
    """Return whether FastAPI with a compiled network gives more answers than with a plain one."""
    found = {}
    for compiled in (False, True):
        try:
            with fastapi(case, plan.workers, compiled=compiled) as server:
                load.run(server, connections=4, seconds=1.0)
                found[compiled] = load.run(server, connections=8, seconds=plan.seconds).per_s
        except (ServerFailed, OSError) as error:
            say(f"FastAPI, compiled={compiled}: {str(error).strip().splitlines()[-1][:200]}")
    say(f"FastAPI with torch, plain and compiled: {found}")
    return found.get(True, 0.0) > found.get(False, 0.0)


def curves(plan: Plan, load: Load, start: dict[str, Callable[[], Server]], say: Callable[[str], None]) -> Curves:
    """Measure all contenders in turn, every other round in reverse order."""
    found, names = Curves(), [OURS, *plan.peers]
    for number in range(plan.rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            if name in found.problems:
                continue
            try:
                with start[name]() as server:
                    load.run(server, connections=4, seconds=max(plan.seconds / 2, 1.0), warm_s=0.5)
                    runs = [load.run(server, connections=count, seconds=plan.seconds) for count in plan.connections]
            except (ServerFailed, OSError) as error:
                found.problems[name] = str(error).strip().splitlines()[-1][:200]
                say(f"{name}: {error}")
                continue
            found.taken.setdefault(name, []).append(runs)
            best = max(runs, key=lambda run: run.per_s)
            say(f"round {number + 1}, {name}: {best.per_s:.0f}/s, p99 {best.p99_ms:.1f} ms, {best.cpu_ms:.3f} ms CPU")
    return found


def half_load(plan: Plan, load: Load, server: Server, rate: float) -> list[float]:
    """Return the p99 of several runs at a rate, requests due at even distances."""
    return [load.run(server, connections=64, seconds=plan.seconds, rate=rate).p99_ms for _ in range(plan.rounds)]


def swaps(
    plan: Plan, load: Load, server: Server, run: Path, publisher: LogPublisher, rate: float
) -> tuple[list[float], int]:
    """Return the p99 with new versions over that without, of windows in pairs, and how many versions came."""
    first = publisher.last().number
    changes = []
    for pair in range(plan.swap_pairs):
        p99 = {}
        for swap in (False, True) if pair % 2 == 0 else (True, False):
            if swap:
                with publishing(run, plan.rows, plan.swap_rows, plan.swaps_per_s):
                    p99[swap] = load.run(server, connections=64, seconds=plan.seconds, rate=rate).p99_ms
            else:
                p99[swap] = load.run(server, connections=64, seconds=plan.seconds, rate=rate).p99_ms
        changes.append(p99[True] / p99[False] - 1.0)
    return changes, publisher.last().number - first


def memory(plan: Plan, folder: Path, bodies: Sequence[bytes], counts: Sequence[int]) -> dict[int, int]:
    """Return the memory of a server with so many workers, after it has answered."""
    found = {}
    for count in counts:
        with ours(folder, count) as server:
            Load(folder, bodies).run(server, connections=8 * count, seconds=2.0)
            found[count] = server.memory_bytes()
    return found
