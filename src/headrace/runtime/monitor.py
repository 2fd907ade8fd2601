"""What is known about the speed of every node: short and long windows of bounded memory, and where a level changed."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from headrace.config import require

Floats = npt.NDArray[np.float64]
EVENTS_KEPT = 1000
NOISE_MEMORY = 0.05
"""Weight of the newest difference in the running estimate of a node's noise."""


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    """How speeds are watched.

    A sample is one batch of a worker or one request of a server, as seconds by row. A node's level has *changed* when
    the logarithms of its samples, over its own level, sum to `evidence` after `drift` was taken from each (a two-sided
    CUSUM). A large change is seen in three samples, a small one in many, one within the node's own noise never.

    Attributes:
        short: Samples of the short window.
        long: Samples of the long window.
        drift: Relative change that counts as none.
        evidence: Sum at which a level has changed; one sample adds a third of it at most.
    """

    short: int = 10
    long: int = 60
    drift: float = 0.15
    evidence: float = 1.0

    def __post_init__(self) -> None:
        require(1 <= self.short <= self.long, "MonitorConfig: short, long", got=(self.short, self.long),
                expected="1 <= short <= long")  # fmt: skip
        require(self.drift > 0 and self.evidence > 0, "MonitorConfig: drift, evidence",
                got=(self.drift, self.evidence), expected="positive numbers")  # fmt: skip


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """Something that happened to a node: `join`, `leave`, `dead`, `restart`, `ready`, ..."""

    time_s: float
    node: str
    kind: str


@dataclass(frozen=True, slots=True)
class NodeSpeeds:
    """Windows over nodes of one kind; all arrays in the order of `names`, NaN where nothing was seen.

    Attributes:
        names: The nodes.
        row_s: Seconds by row, the median of the short window or of what there was since the level changed: batches that
            take long now and then do not count.
        long_row_s: The mean over the long window, changes or not.
        noise: Relative noise of one sample.
        rows: Rows of a sample, the running mean of the newest ones.
        samples: How many samples `row_s` rests on.
        steady: How many samples the present level has lasted, up to the long window.
        generation: How often the node was started again.
        asked: How many samples `rows` rests on: since rows were last shared out anew.
    """

    names: tuple[str, ...]
    row_s: Floats
    long_row_s: Floats
    noise: Floats
    rows: Floats
    samples: npt.NDArray[np.int64]
    steady: npt.NDArray[np.int64]
    generation: npt.NDArray[np.int64]
    asked: npt.NDArray[np.int64]

    def known(self) -> npt.NDArray[np.bool_]:
        """Return of which nodes anything was seen."""
        seen: npt.NDArray[np.bool_] = self.samples > 0
        return seen

    def speeds(self) -> Floats:
        """Return rows a second; a node of which nothing was seen counts as a middling one.

        All are 1 when nothing was seen of any.
        """
        known = self.known()
        if not known.any():
            return np.ones(len(self.names))
        return 1.0 / np.where(known, self.row_s, np.median(self.row_s[known]))


@dataclass(slots=True)
class _Node:
    """Samples of one node in a ring, and the running sums of the change detector."""

    ring: Floats
    generation: int = 0
    seen: int = 0
    steady: int = 0
    level: float = math.nan
    calm: int = 0
    noise: float = 0.0
    last: float = math.nan
    up: float = 0.0
    down: float = 0.0
    climbing: int = 0
    rows: float = 0.0
    asked: int = 0

    def clear(self) -> None:
        """Forget everything: the node is another one now."""
        self.seen = self.steady = self.calm = self.climbing = self.asked = 0
        self.up = self.down = self.noise = self.rows = 0.0
        self.level = self.last = math.nan


class Monitor:
    """Takes samples of all nodes and answers with windows over them.

    Memory is bounded: the long window of each node, whatever the length of the job.

    Thread-safety:
        None of its own; the caller holds one lock.

    Cost:
        `record` O(1); `speeds` O(nodes × short window).

    Example:
        >>> monitor = Monitor()
        >>> for node in ("worker-0", "worker-1"):
        ...     monitor.join(node, "worker", 0.0)
        >>> for step in range(5):
        ...     _ = monitor.record("worker-0", rows=100, seconds=0.1)
        ...     _ = monitor.record("worker-1", rows=100, seconds=0.4)
        >>> monitor.speeds("worker").speeds().round().tolist()
        [1000.0, 250.0]
    """

    def __init__(self, config: MonitorConfig | None = None) -> None:
        self.config = config or MonitorConfig()
        self.events: deque[NodeEvent] = deque(maxlen=EVENTS_KEPT)
        self.lag: deque[tuple[float, int, int]] = deque(maxlen=self.config.long)
        self._kinds: dict[str, str] = {}
        self._nodes: dict[str, _Node] = {}

    def nodes(self, kind: str) -> tuple[str, ...]:
        """Return the names of present nodes of a kind, in the order they came."""
        return tuple(name for name, own in self._kinds.items() if own == kind)

    def join(self, node: str, kind: str, now: float) -> None:
        """Take a node in; one that is there already was started again, and what was known of it is forgotten."""
        self.event(node, "restart" if node in self._nodes else "join", now)
        if node in self._nodes:
            self._nodes[node].clear()
            self._nodes[node].generation += 1
        else:
            self._nodes[node] = _Node(np.full(self.config.long, math.nan))
            self._kinds[node] = kind

    def leave(self, node: str, now: float, why: str = "leave") -> None:
        """Let a node go; an unknown one is no error."""
        if self._nodes.pop(node, None) is not None:
            del self._kinds[node]
            self.event(node, why, now)

    def event(self, node: str, kind: str, now: float) -> None:
        """Note what happened to a node."""
        self.events.append(NodeEvent(now, node, kind))

    def record(self, node: str, *, rows: int, seconds: float) -> bool:
        """Take one sample; return whether it showed that the node's level had changed.

        Samples of no rows or no time, and of nodes that are gone, say nothing and are left out.
        """
        own = self._nodes.get(node)
        if own is None or rows <= 0 or not (math.isfinite(seconds) and seconds > 0):
            return False
        value = seconds / rows
        own.ring[own.seen % self.config.long] = value
        own.seen += 1
        own.asked += 1
        own.rows += max(NOISE_MEMORY, 1.0 / own.asked) * (rows - own.rows)
        own.steady = min(own.steady + 1, self.config.long)
        return self._detect(own, value)

    def shared_anew(self, kind: str) -> None:
        """Forget how many rows nodes of a kind are asked for: it is another number now."""
        for name in self.nodes(kind):
            self._nodes[name].asked = 0

    def record_lag(self, rows: int, learned: int, now: float) -> None:
        """Note how many rows of a stream wait, and how many were learned so far."""
        self.lag.append((now, rows, learned))

    def _detect(self, own: _Node, value: float) -> bool:
        if math.isnan(own.level):
            own.level, own.last, own.calm = value, value, 1
            return False
        # The mean difference of neighbours of a normal law is 1.128 times its spread; a jump counts once, with a bound.
        step = min(abs(math.log(value / own.last)), self.config.evidence) / 1.128
        own.noise += max(NOISE_MEMORY, 1.0 / (own.seen - 1)) * (step - own.noise)
        own.last = value
        moved = math.log(value / own.level)
        drift = max(math.log1p(self.config.drift), own.noise)
        bound = max(self.config.evidence, 5 * own.noise)
        own.up = max(0.0, own.up + min(moved - drift, bound / 3))
        own.down = max(0.0, own.down + min(-moved - drift, bound / 3))
        if own.up == 0.0 and own.down == 0.0:
            own.climbing = 0
            own.calm = min(own.calm + 1, self.config.long)
            own.level += (value - own.level) / own.calm
            return False
        own.climbing += 1
        if max(own.up, own.down) < bound * (1 - 1e-9):
            return False
        own.steady = min(own.climbing, self.config.long)
        places = np.arange(own.seen - own.steady, own.seen) % self.config.long
        own.level, own.calm = float(own.ring[places].mean()), own.steady
        own.up = own.down = 0.0
        own.climbing = 0
        return True

    def speeds(self, kind: str) -> NodeSpeeds:
        """Return the windows over all present nodes of a kind."""
        names = self.nodes(kind)
        nodes = [self._nodes[name] for name in names]
        row_s, long_row_s = np.full(len(names), math.nan), np.full(len(names), math.nan)
        samples = np.array([min(each.steady, self.config.short) for each in nodes], dtype=np.int64)
        if nodes:
            rings = np.stack([each.ring for each in nodes])
            back = np.arange(self.config.short)
            places = (np.array([each.seen for each in nodes])[:, None] - 1 - back) % self.config.long
            recent, inside = np.take_along_axis(rings, places, axis=1), back < samples[:, None]
            known = samples > 0
            ordered = np.sort(np.where(inside, recent, math.inf), axis=1)
            middle = np.maximum(samples - 1, 0) // 2
            row_s[known] = np.take_along_axis(ordered, middle[:, None], axis=1)[known, 0]
            held = np.array([min(each.seen, self.config.long) for each in nodes])
            filled = np.arange(self.config.long) < held[:, None]
            long_row_s[known] = np.where(filled, rings, 0.0).sum(axis=1)[known] / held[known]
        return NodeSpeeds(
            names, row_s, long_row_s, np.array([each.noise for each in nodes], dtype=np.float64),
            np.array([each.rows for each in nodes], dtype=np.float64), samples,
            np.array([each.steady for each in nodes], dtype=np.int64),
            np.array([each.generation for each in nodes], dtype=np.int64),
            np.array([each.asked for each in nodes], dtype=np.int64),
        )  # fmt: skip

    def counts(self) -> Mapping[str, int]:
        """Return how many nodes of each kind are there."""
        return Counter(self._kinds.values())


@dataclass(frozen=True, slots=True)
class View:
    """All that a solution may decide from.

    Attributes:
        step: The newest committed step; -1 before the first.
        now: Seconds, on the clock of the caller.
        batch: Rows of the global batch.
        steps_left: Steps until the job ends; None when nobody knows (a stream).
        workers: Windows over workers.
        servers: Windows over table servers.
        sizes: Rows per worker in the newest plan.
        backup: Workers that a step does not wait for, in the newest plan.
        accumulation: Micro-batches per worker, in the newest plan.
        since_change: Steps under the newest plan.
        moving: Nodes and groups for which an action is under way.
        attempts: How often each node was started again for being slow.
        shares: Share of the buckets by server; empty: all alike.
        long_window: Samples of the long window.
        solved_for: Workers that the newest plan was made for by a solution; empty when membership changed since.
        pending_s: Seconds from asking for a node until it takes part, as measured; None before the first.
        lag: (seconds, rows waiting, rows learned so far) of a stream, oldest first.
    """

    step: int
    now: float
    batch: int
    steps_left: int | None
    workers: NodeSpeeds
    servers: NodeSpeeds
    sizes: Mapping[str, int]
    backup: int = 0
    accumulation: Mapping[str, int] = field(default_factory=dict)
    since_change: int = 1 << 30
    moving: frozenset[str] = frozenset()
    attempts: Mapping[str, int] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    long_window: int = 60
    solved_for: frozenset[str] = frozenset()
    pending_s: float | None = None
    lag: tuple[tuple[float, int, int], ...] = ()
