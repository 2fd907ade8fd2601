"""AntDT-ND: slow nodes of a shared cluster, for a while or for good, workers and table servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np

from headrace.config import require
from headrace.runtime.actions import AdjustBatch, Decision, MoveBuckets, Nothing, Restart
from headrace.runtime.balance import share_batch
from headrace.runtime.monitor import Floats, NodeSpeeds, View
from headrace.runtime.solutions import Hysteresis, rounded

SETTLED = 5
"""Samples after which it is known what a move of buckets came to."""
UNEVEN = 1.1
"""How many times the mean a server may be waited for, once that is known."""


def even_waits(row_s: Floats, rows: float, workers: int) -> Floats:
    """Return the shares (N,) of servers under which a step waits as long for each of them.

    A step waits for the worst request of all workers, and how many rows of a request fall to one server is chance: n in
    the mean, with a deviation of sqrt(n). So a slow server, of which few rows are asked, gets a little less than its
    speed says.

    Args:
        row_s: Seconds by row (N,).
        rows: Rows of a request over all servers; 0: not known, then speed alone counts.
        workers: Whose requests are waited for.

    Example:
        >>> even_waits(np.array([1.0, 3.0]), 0.0, 4).round(3).tolist()
        [0.75, 0.25]
        >>> even_waits(np.array([1.0, 3.0]), 100.0, 4).round(3).tolist()
        [0.765, 0.235]
    """
    speeds = np.asarray((1 / row_s) / (1 / row_s).sum(), dtype=np.float64)
    if rows <= 0 or workers < 2:
        return speeds
    worst = NormalDist().inv_cdf((workers - 0.375) / (workers + 0.25))  # Blom: the largest of so many
    bottom, top = 0.0, 4.0 * float((row_s * (rows + worst * np.sqrt(rows))).max())

    def under(level: float) -> Floats:
        return np.asarray(((np.sqrt(worst * worst + 4 * level / row_s) - worst) / 2) ** 2)

    for _ in range(60):
        level = (bottom + top) / 2
        bottom, top = (level, top) if under(level).sum() < rows else (bottom, level)
    return np.asarray(under(top) / under(top).sum())


@dataclass(frozen=True, kw_only=True)
class RestartCost:
    """What it costs to start a node again, and how often that is tried.

    Attributes:
        wait_s: Seconds until the node in its place takes part, where none was measured yet; the slow one works on.
        stall_s: Seconds in which nobody trains: the swap, the state to load, the step to redo.
        tries: How often one node is started again. One that is as slow afterwards is slow by kind.
        margin: How many times its cost a restart must save.
    """

    wait_s: float = 10.0
    stall_s: float = 1.0
    tries: int = 1
    margin: float = 1.0

    def __post_init__(self) -> None:
        require(min(self.wait_s, self.stall_s) >= 0, "RestartCost: wait_s, stall_s", got=(self.wait_s, self.stall_s),
                expected="seconds")  # fmt: skip
        require(self.tries >= 0 and self.margin > 0, "RestartCost: tries, margin", got=(self.tries, self.margin),
                expected="tries from 0, a margin above 0")  # fmt: skip

    def pays(self, step_s: float, healed_step_s: float, view: View) -> tuple[bool, dict[str, Any]]:
        """Return whether a restart saves more than it costs, with the numbers.

        Steps until the new node is there are as long as now; the later ones are shorter. A stream has no last step, so
        there every saving pays in the end.
        """
        wait_s = self.wait_s if view.pending_s is None else view.pending_s
        numbers = {"step_s": round(step_s, 5), "healed_step_s": round(healed_step_s, 5), "wait_s": round(wait_s, 3),
                   "stall_s": self.stall_s, "steps_left": view.steps_left}  # fmt: skip
        gain_s = step_s - healed_step_s
        if view.steps_left is None:
            return gain_s > 0, numbers
        saved_s = gain_s * max(view.steps_left - wait_s / max(step_s, 1e-9), 0.0)
        return saved_s > self.margin * self.stall_s, {**numbers, "saved_s": round(saved_s, 3)}


@dataclass(frozen=True, kw_only=True)
class AntDtNd:
    """Rows by speed for workers that are slow for a while, another node for those that are slow for good.

    Slow *now* is what the short window says, since the node's level last changed: rows are shared by speed, and the
    global batch stays exact. Slow *for good* is a node whose level has been the slow one for the whole long window; if
    that saves more than it costs, it is started again elsewhere. A slow server cannot be helped by batch sizes: its
    buckets move to the others at once, and when it stays slow it is started again as well.

    Attributes:
        hysteresis: What keeps noise from becoming changes.
        restart: Costs of starting a worker again; tries=0 never does.
        restart_server: Costs of starting a server again: everything goes back to a checkpoint.
        rows_min: Rows that every worker takes at least.
        rows_max: Rows that fit into a worker's memory; None: the batch.
        move_buckets: Whether buckets of slow servers move to the others.

    Source:
        AntDT (arXiv 2404.09679), AntDT-ND, from our notes. Ours: windows end where a level changed, a slow server is
        relieved before it is replaced, the cost test counts what balancing has saved already, hysteresis.
    """

    hysteresis: Hysteresis = field(default_factory=Hysteresis)
    restart: RestartCost = field(default_factory=RestartCost)
    restart_server: RestartCost = field(default_factory=lambda: RestartCost(wait_s=0.0, stall_s=30.0))
    rows_min: int = 1
    rows_max: int | None = None
    move_buckets: bool = True

    def __post_init__(self) -> None:
        require(self.rows_min >= 1, "AntDtNd: rows_min", got=self.rows_min, expected="at least 1 row")

    def decide(self, view: View) -> Sequence[Decision]:
        """Return what to do about workers, then what to do about servers."""
        found = [*self._workers(view), *self._servers(view)]
        real = [decision for decision in found if not isinstance(decision.action, Nothing)]
        return real or found[:1]

    def _workers(self, view: View) -> list[Decision]:
        workers = view.workers
        if len(workers.names) < 2 or 2 * int(workers.known().sum()) <= len(workers.names):
            return [Decision(Nothing("too little is known of the workers"), "wait for samples")]
        row_s = 1.0 / workers.speeds()
        found = self._replace(view, workers, row_s)
        sizes = np.array([view.sizes.get(name, 1) for name in workers.names], dtype=np.float64)
        times = sizes * row_s
        out = self.hysteresis.out_of_line(times, workers.noise, workers.samples)
        return [*found, self._balance(view, row_s, times, out)]

    def _balance(self, view: View, row_s: Floats, times: Floats, out: np.ndarray[Any, np.dtype[np.bool_]]) -> Decision:
        """Share rows by speed when somebody is out of line and it is worth a change."""
        names, keep = view.workers.names, self.hysteresis
        if not out.any():
            return Decision(Nothing("in line"), "no worker is out of line",
                            {"slowest": float(times.max() / times.mean())})  # fmt: skip
        rows = share_batch(view.batch, 1.0 / row_s, low=self.rows_min, high=self.rows_max)
        before = np.array([view.sizes.get(name, 1) for name in names], dtype=np.float64)
        change = float((np.abs(np.array(rows) - before) / before).max())
        gain = float(times.max() / (np.array(rows) * row_s).max()) - 1.0
        numbers = {"out_of_line": [names[place] for place in np.flatnonzero(out)][:8], "gain": round(gain, 4),
                   "change": round(change, 4), "row_s": rounded(row_s[:16]), "rows": rows[:16]}  # fmt: skip
        if change < keep.min_change or gain <= 0:
            return Decision(
                Nothing("small change"), f"the change of {change:.1%} is below {keep.min_change:.0%}", numbers
            )
        if view.since_change < keep.min_interval and gain < keep.urgent:
            return Decision(Nothing("too soon"), f"only {view.since_change} steps since the last change", numbers)
        return Decision(AdjustBatch(dict(zip(names, rows, strict=True))),
                        f"{', '.join(numbers['out_of_line'])} out of line: {gain:.0%} to gain", numbers)  # type: ignore[arg-type] # fmt: skip

    def _replace(self, view: View, workers: NodeSpeeds, row_s: Floats) -> list[Decision]:
        """Start the slowest of those workers again that have been slow for the whole long window, if it pays."""
        slow = self._for_good(view, workers, row_s, self.restart.tries)
        if slow is None:
            return []
        name, others = workers.names[slow], np.delete(row_s, slow)
        # with a batch that is balanced before and after
        now, then = view.batch / (1 / row_s).sum(), view.batch / ((1 / others).sum() + 1 / np.median(others))
        pays, numbers = self.restart.pays(float(now), float(then), view)
        ratio = float(row_s[slow] / others.mean())
        if not pays:
            return [Decision(Nothing("a restart does not pay"), f"{name} is {ratio:.1f} times slower for good, but a "
                             "restart costs more than it saves", numbers)]  # fmt: skip
        return [Decision(Restart(name), f"{name} is {ratio:.1f} times slower for good", {"ratio": ratio, **numbers})]

    def _for_good(self, view: View, nodes: NodeSpeeds, row_s: Floats, tries: int) -> int | None:
        """Return the place of the slowest node that has been slow long enough and may be tried again, or None."""
        count = len(nodes.names)
        if count < 2:
            return None
        others = (row_s.sum() - row_s) / (count - 1)
        doubt = self.hysteresis.doubts * nodes.noise / np.sqrt(np.maximum(nodes.steady, 1))
        bar = self.hysteresis.ratio * np.exp(doubt)
        long_others = (np.nansum(nodes.long_row_s) - nodes.long_row_s) / (count - 1)
        slow = (row_s > bar * others) & (nodes.long_row_s > bar * long_others) & (nodes.steady >= view.long_window)
        for place in np.argsort(-row_s):
            name = nodes.names[place]
            if slow[place] and name not in view.moving and view.attempts.get(name, 0) < tries:
                return int(place)
        return None

    def _servers(self, view: View) -> list[Decision]:
        servers = view.servers
        if len(servers.names) < 2 or not servers.known().all():
            return []
        found, row_s = [], servers.row_s
        slow = self._for_good(view, servers, row_s, self.restart_server.tries)
        if slow is not None:
            name = servers.names[slow]
            healed = float(servers.rows.sum() / len(row_s) * np.median(np.delete(row_s, slow)))
            pays, numbers = self.restart_server.pays(float((servers.rows * row_s).max()), healed, view)
            ratio = float(row_s[slow] / np.delete(row_s, slow).mean())
            if pays:
                found.append(Decision(Restart(name), f"{name} answers {ratio:.1f} times slower for good",
                                      {"ratio": ratio, **numbers}))  # fmt: skip
        return [*found, *self._move(view, servers, row_s)]

    def _move(self, view: View, servers: NodeSpeeds, row_s: Floats) -> list[Decision]:
        """Share buckets by speed when a server's requests are out of line."""
        if not self.move_buckets or "buckets" in view.moving:
            return []
        even = 1.0 / len(servers.names)
        before = np.array([view.shares.get(name, even) for name in servers.names])
        after = even_waits(row_s, float(servers.rows.sum()), len(view.workers.names))
        out = self.hysteresis.out_of_line(before * row_s, servers.noise, servers.samples)
        change = float(np.abs(after - before).max())
        if not out.any() and int(servers.asked.min()) >= SETTLED:  # the shares that came of it, not those meant
            before = servers.rows / servers.rows.sum()
            out = before * row_s > UNEVEN * (before * row_s).mean()
            change = float((np.abs(after - before) / before).max())
        if not out.any() or change < self.hysteresis.min_change:
            return []
        gain = float((before * row_s).max() / (after * row_s).max()) - 1.0
        sizes = np.array([view.sizes.get(name, 0) for name in view.workers.names], dtype=np.float64)
        step_s = float((sizes / view.workers.speeds()).max()) if view.workers.known().any() else 0.0
        saved_s = float((servers.rows * row_s).max()) * gain / (1 + gain)
        if saved_s < self.hysteresis.min_change * step_s:  # look-ups are no part of the step to speak of
            return []
        names = [servers.names[place] for place in np.flatnonzero(out)]
        shares = {name: round(float(share), 4) for name, share in zip(servers.names, after, strict=True)}
        return [Decision(MoveBuckets(shares), f"{', '.join(names)} out of line: {gain:.0%} to gain",
                         {"row_s": rounded(row_s), "gain": round(gain, 4), "saved_s": round(saved_s, 5),
                          "step_s": round(step_s, 5)})]  # fmt: skip
