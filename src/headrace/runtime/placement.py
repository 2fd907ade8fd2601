"""What a role needs of the place where it runs, read from the `devices` of a `Placement`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from headrace.config import require
from headrace.errors import ConfigError

if TYPE_CHECKING:
    from headrace.protocols import Placement

UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What one process of a role reserves on its machine.

    Attributes:
        cpus: Cores; a part of one is allowed.
        gpus: Accelerators; the process sees only those it was given.
        memory_bytes: Memory.
        others: Any further resource that the machines of the cluster declare, by name.

    Raises:
        ConfigError: If an amount is negative.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: int = 0
    others: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, amount in {"cpu": self.cpus, "gpu": self.gpus, "memory": self.memory_bytes, **self.others}.items():
            require(amount >= 0, f"Demand '{name}'", got=amount, expected="0 or more")

    def options(self) -> dict[str, object]:
        """Return the demand as the options of a Ray actor.

        Example:
            >>> Demand(cpus=2, memory_bytes=1024).options()
            {'num_cpus': 2, 'num_gpus': 0.0, 'memory': 1024}
        """
        options: dict[str, object] = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        if self.memory_bytes:
            options["memory"] = self.memory_bytes
        if self.others:
            options["resources"] = dict(self.others)
        return options


def demand(placement: Placement, role: str) -> Demand:
    """Return what a role needs: the entry of `placement.devices` for it; one core where there is none.

    Raises:
        ConfigError: If the entry cannot be read.

    Example:
        >>> from headrace.protocols import Placement
        >>> demand(Placement(devices={"worker": "cpu:2, gpu:1, memory:4GiB, ssd:0.5"}), "worker")
        Demand(cpus=2.0, gpus=1.0, memory_bytes=4294967296, others={'ssd': 0.5})
    """
    text = placement.devices.get(role, "")
    amounts: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, amount = part.partition(":")
        require(name not in amounts, f"Placement.devices['{role}']", got=text, expected="each resource once")
        amounts[name] = _amount(role, amount or "1")
    cpus, gpus = amounts.pop("cpu", 1.0), amounts.pop("gpu", 0.0)
    return Demand(cpus=cpus, gpus=gpus, memory_bytes=int(amounts.pop("memory", 0)), others=amounts)


def _amount(role: str, text: str) -> float:
    unit = next((unit for unit in UNITS if text.endswith(unit)), "")
    try:
        return float(text.removesuffix(unit)) * UNITS.get(unit, 1)
    except ValueError:
        raise ConfigError(f"Placement.devices['{role}']", got=repr(text), expected="a number, or one with KiB to TiB",
                          do="Write it as cpu:2, gpu:1, memory:4GiB.") from None  # fmt: skip
