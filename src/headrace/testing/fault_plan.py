"""Plans of faults: what is done to which role when and for how long, drawn from a seed, kept as JSON, played again."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from headrace.config import known_name, require
from headrace.errors import DataError

KINDS: dict[str, str] = {
    "kill": "SIGKILL: no handler runs, no buffer is flushed",
    "freeze": "SIGSTOP, later SIGCONT: files, sockets and locks stay, nothing moves",
    "slow-cpu": "gets `amount` (0.05 to 1) of a processor's time",
    "partition": "nothing comes through to it or from it, and nobody is told",
    "partition-there": "nothing comes through to it; what it sends arrives",
    "partition-back": "nothing that it sends arrives; it hears everything",
    "slow-link": "its link carries `amount` bytes a second",
    "delay": "what goes over its link arrives `amount` seconds later, each way",
    "loss": "a share `amount` of what goes over its link is lost and sent again",
    "cut": "its connections are reset once; new ones work",
    "disk-full": "its files cannot grow: writes fail, as on a full disk",
}
"""Every kind of fault, and what it is."""
INSTANT = ("kill", "cut")
AMOUNTS = {"slow-cpu": (0.1, 0.5), "slow-link": (20_000.0, 400_000.0), "delay": (0.002, 0.05), "loss": (0.02, 0.3)}
"""From which range a drawn fault of a kind takes its amount."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is (in a plan) or was (in a history) done to a process.

    Attributes:
        at_s: Seconds after the beginning.
        kind: One of `KINDS`; in the history of `Chaos` also `start`, `pause` and `resume`.
        name: The role that it is done to: `worker-2`.
        length_s: How long; 0 for what happens at an instant.
        amount: What the kind says.
    """

    at_s: float
    kind: str
    name: str
    length_s: float = 0.0
    amount: float | None = None


@dataclass(frozen=True, kw_only=True)
class FaultPlan:
    """A list of faults in the order of their times.

    Attributes:
        faults: The faults.
        seed: What they were drawn from; None: written by hand.

    Example:
        >>> plan = FaultPlan.draw(seed=7, roles=["head", "server-0", "worker-0"], count=4)
        >>> [(fault.kind, fault.name) for fault in plan.faults]
        [('kill', 'worker-0'), ('partition', 'worker-0'), ('freeze', 'worker-0'), ('freeze', 'worker-0')]
        >>> FaultPlan.from_json(plan.to_json()) == plan
        True
    """

    faults: tuple[Fault, ...]
    seed: int | None = None

    def __post_init__(self) -> None:
        before = 0.0
        for place, fault in enumerate(self.faults):
            what = f"Fault {place}"
            known_name("kind of fault", fault.kind, list(KINDS))
            require(fault.at_s >= before, f"{what}: at_s", got=fault.at_s, expected=f"{before} or later, in order")
            require(fault.length_s >= 0, f"{what}: length_s", got=fault.length_s, expected="0 or more seconds")
            if fault.kind in AMOUNTS:
                require(
                    fault.amount is not None and fault.amount > 0, f"{what}: amount", got=fault.amount,
                    expected=KINDS[fault.kind],
                )  # fmt: skip
            before = fault.at_s

    @classmethod
    def draw(
        cls, seed: int, roles: Sequence[str], count: int, *, kinds: Mapping[str, float] | Sequence[str] | None = None,
        every_s: tuple[float, float] = (0.2, 1.0), length_s: tuple[float, float] = (0.1, 1.0),
    ) -> Self:  # fmt: skip
        """Draw a plan; the same arguments give the same plan everywhere.

        Args:
            seed: Of everything.
            roles: Whom it may hit, each as often as the others.
            count: How many faults.
            kinds: Which kinds, with weights if they are not to be equally frequent; None: kill, freeze, partition,
                slow-link and disk-full.
            every_s: Shortest and longest time between the beginnings of two faults.
            length_s: Shortest and longest time that a fault lasts.
        """
        wanted = kinds if kinds is not None else ("kill", "freeze", "partition", "slow-link", "disk-full")
        weights = dict(wanted) if isinstance(wanted, Mapping) else dict.fromkeys(wanted, 1.0)
        require(len(roles) > 0, "roles", got=list(roles), expected="at least one")
        require(count >= 0, "count", got=count, expected="0 or more")
        for name, (low, high) in {"every_s": every_s, "length_s": length_s}.items():
            require(0 <= low <= high, name, got=(low, high), expected="(shortest, longest), seconds")
        chance, at_s, faults = random.Random(seed), 0.0, []
        for _ in range(count):
            at_s += chance.uniform(*every_s)
            kind = chance.choices(list(weights), list(weights.values()))[0]
            role, length, share = chance.choice(list(roles)), chance.uniform(*length_s), chance.random()
            low, high = AMOUNTS.get(kind, (1.0, 1.0))
            faults.append(Fault(
                round(at_s, 3), kind, role, 0.0 if kind in INSTANT else round(length, 3),
                round(low * (high / low) ** share, 4) if kind in AMOUNTS else None,
            ))  # fmt: skip
        return cls(faults=tuple(faults), seed=seed)

    @property
    def end_s(self) -> float:
        """When the last fault is over."""
        return max((fault.at_s + fault.length_s for fault in self.faults), default=0.0)

    def counts(self) -> dict[str, int]:
        """Return how many faults there are of each kind."""
        return dict(sorted(Counter(fault.kind for fault in self.faults).items()))

    def to_json(self) -> str:
        """Return the plan as JSON, a line per fault."""
        lines = ",\n".join(
            "  " + json.dumps({key: value for key, value in asdict(fault).items() if value is not None})
            for fault in self.faults
        )
        return f'{{"seed": {json.dumps(self.seed)}, "faults": [\n{lines}\n]}}\n'

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the plan that a text holds.

        Raises:
            DataError: If it is not a plan.
        """
        try:
            found: dict[str, Any] = json.loads(text)
            names = {field.name for field in fields(Fault)}
            faults = tuple(Fault(**{key: each[key] for key in each.keys() & names}) for each in found["faults"])
            return cls(faults=faults, seed=found.get("seed"))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                "Plan of faults", got=f"{type(error).__name__}: {error}", expected='{"seed": ..., "faults": [...]}'
            ) from error

    def write(self, path: Path) -> None:
        """Write the plan to a file."""
        path.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a plan from a file."""
        return cls.from_json(path.read_text(encoding="utf-8"))
