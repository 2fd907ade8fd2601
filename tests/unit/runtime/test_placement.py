"""What a role asks of a machine."""

from __future__ import annotations

import pytest

from headrace.errors import ConfigError
from headrace.protocols import Placement
from headrace.runtime import Demand, demand


def test_a_role_without_an_entry_takes_one_core() -> None:
    assert demand(Placement(), "worker") == Demand(cpus=1.0)


def test_amounts_are_read() -> None:
    placement = Placement(devices={"server": "cpu:0.5, memory:2GiB", "worker": "gpu"})
    assert demand(placement, "server") == Demand(cpus=0.5, memory_bytes=2**31)
    assert demand(placement, "worker").options() == {"num_cpus": 1.0, "num_gpus": 1.0}


def test_other_resources_are_passed_on() -> None:
    assert demand(Placement(devices={"a": "fast_disk:2"}), "a").options()["resources"] == {"fast_disk": 2.0}


@pytest.mark.parametrize("text", ["cpu:many", "cpu:1, cpu:2", "memory:-1GiB"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        demand(Placement(devices={"a": text}), "a")
