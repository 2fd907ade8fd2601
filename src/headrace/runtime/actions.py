"""What a controller may ask for: actions, the plan of a step, and decisions with their numbers and reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, TypeAlias

from headrace.config import known_name
from headrace.errors import ConfigError


@dataclass(frozen=True, slots=True)
class AdjustBatch:
    """Give every worker its own number of rows per step; their sum stays what it was.

    Attributes:
        sizes: Rows per step by worker.
        accumulation: Micro-batches in which a worker computes them; a worker that is not named takes one.
    """

    everyone: ClassVar[bool] = True
    sizes: Mapping[str, int]
    accumulation: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AdjustRate:
    """Multiply all learning rates by a factor, counted from what they were at the start."""

    everyone: ClassVar[bool] = True
    factor: float


@dataclass(frozen=True, slots=True)
class Backup:
    """Take a step as soon as all but so many workers have computed; rows of the others go back to the queue."""

    everyone: ClassVar[bool] = True
    count: int


@dataclass(frozen=True, slots=True)
class Restart:
    """Start a node again, elsewhere where that is possible."""

    everyone: ClassVar[bool] = False
    node: str


@dataclass(frozen=True, slots=True)
class MoveBuckets:
    """Give table servers these shares of the buckets, while training goes on."""

    everyone: ClassVar[bool] = False
    shares: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Add:
    """Start so many more workers."""

    everyone: ClassVar[bool] = False
    count: int


@dataclass(frozen=True, slots=True)
class Remove:
    """Let these workers go; the others take the step that they are in again."""

    everyone: ClassVar[bool] = False
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Nothing:
    """Leave everything as it is, for a reason."""

    everyone: ClassVar[bool] = False
    reason: str = ""


Action: TypeAlias = AdjustBatch | AdjustRate | Backup | Restart | MoveBuckets | Add | Remove | Nothing
SHOWN = 16
"""Nodes that the text of an action names at most."""
NodeAction: TypeAlias = Restart | MoveBuckets | Add | Remove

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (AdjustBatch, AdjustRate, Backup, Restart, MoveBuckets, Add, Remove, Nothing)
}


def action_json(action: Action) -> dict[str, Any]:
    """Return an action as plain values.

    Example:
        >>> action_json(Restart("worker-3"))
        {'action': 'Restart', 'node': 'worker-3'}
    """
    return {"action": type(action).__name__, **asdict(action)}


def action_from_json(plain: Mapping[str, Any]) -> Action:
    """Read what `action_json` returned.

    Raises:
        ConfigError: If it is no action.
    """
    fields = dict(plain)
    kind = _KINDS[known_name("Action", str(fields.pop("action", "")), _KINDS)]
    if "nodes" in fields:
        fields["nodes"] = tuple(fields["nodes"])
    try:
        action: Action = kind(**fields)
    except TypeError as error:
        raise ConfigError(f"Action {kind.__name__}", got=str(error), expected="its own fields") from error
    return action


def action_text(action: Action) -> str:
    """Return an action in a few words.

    Example:
        >>> action_text(AdjustBatch({"worker-0": 512, "worker-1": 300}, {"worker-1": 2}))
        'AdjustBatch worker-0:512 worker-1:300/2'
        >>> action_text(Restart("server-1"))
        'Restart server-1'
    """
    name = type(action).__name__
    if isinstance(action, AdjustBatch):
        parts = [f"{node}:{rows}" + (f"/{count}" if (count := action.accumulation.get(node, 1)) > 1 else "")
                 for node, rows in action.sizes.items()]  # fmt: skip
        more = [f"and {len(parts) - SHOWN} more"] if len(parts) > SHOWN else []
        return " ".join([name, *parts[:SHOWN], *more])
    if isinstance(action, MoveBuckets):
        return " ".join([name, *(f"{node}:{share:.0%}" for node, share in action.shares.items())])
    return " ".join([name, *(" ".join(value) if isinstance(value, tuple) else f"{value}"
                             for value in asdict(action).values())])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """What holds in a step, the same for all who take part.

    Attributes:
        sizes: Rows per worker; their sum is the global batch (with backup workers: of those that a step waits for).
        accumulation: Micro-batches per worker.
        backup: How many workers a step does not wait for.
        rate: Factor on all learning rates.
        number: Counts changes; a worker that sees another number has something to adjust.
    """

    sizes: Mapping[str, int]
    accumulation: Mapping[str, int] = field(default_factory=dict)
    backup: int = 0
    rate: float = 1.0
    number: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        return asdict(self)

    @staticmethod
    def from_json(plain: Mapping[str, Any]) -> Plan:
        """Read what `to_json` returned."""
        return Plan(**plain)


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided and why.

    Attributes:
        action: What is to be done.
        reason: One sentence for a person.
        numbers: What it was decided from.
        step: The newest committed step when it was decided.
        agree_at: The first step under it; None for what is done to single nodes at once.
        time_s: When, on the clock of the caller.
        solution: Who decided.
    """

    action: Action
    reason: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    step: int = -1
    agree_at: int | None = None
    time_s: float = 0.0
    solution: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the decision as plain values, for one line of a log: `action` for people, `order` for programs."""
        return {"time": self.time_s, "step": self.step, "agree_at": self.agree_at, "solution": self.solution,
                "action": action_text(self.action), "order": action_json(self.action), "reason": self.reason,
                "numbers": dict(self.numbers)}  # fmt: skip
