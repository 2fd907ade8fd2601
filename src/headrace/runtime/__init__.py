"""Machines: work in leased shards, decisions about slow nodes, sockets, and starting roles on places.

Moves roles by name and bytes by handle; what the bytes mean is the business of `headrace.elastic`. The only room that
imports Ray. Names are imported when first used: an actor of Ray, which only starts a process, does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.runtime.actions import (
        Action,
        Add,
        AdjustBatch,
        AdjustRate,
        Backup,
        Decision,
        MoveBuckets,
        Nothing,
        Plan,
        Remove,
        Restart,
    )
    from headrace.runtime.balance import DeviceClass, DevicePlan, plan_devices, share_batch
    from headrace.runtime.controller import Controller, ControllerConfig, read_decisions
    from headrace.runtime.crew import Crew, RestartConfig
    from headrace.runtime.launch import Exit, Launched, Launcher, RoleCommand, announce, launched
    from headrace.runtime.local_launch import LocalLauncher
    from headrace.runtime.manners import step_back, thread_steps_back
    from headrace.runtime.monitor import Monitor, MonitorConfig, NodeSpeeds, View
    from headrace.runtime.placement import Demand, demand
    from headrace.runtime.ray_launch import RayLauncher
    from headrace.runtime.shuffle import row_numbers
    from headrace.runtime.simulate_job import Bound, JobResult, Overheads, SimulatedFault, SimulatedJob, bound
    from headrace.runtime.simulate_patterns import (
        Pattern,
        Slow,
        mixed_devices,
        no_stragglers,
        persistent_server,
        persistent_worker,
        transient_worker,
    )
    from headrace.runtime.simulate_run import simulate
    from headrace.runtime.solutions import (
        Asp,
        BackupWorkers,
        Hysteresis,
        LbBsp,
        Solution,
        Static,
        Together,
        solution_from_json,
        solution_json,
    )
    from headrace.runtime.solutions_dd import AntDtDd
    from headrace.runtime.solutions_nd import AntDtNd, RestartCost
    from headrace.runtime.solutions_scale import LagScaling
    from headrace.runtime.work_queue import (
        Contribution,
        Counts,
        Grant,
        Quarantined,
        QueueConfig,
        ShardQueue,
        StreamProgress,
        rows_of,
    )

__all__ = [
    "Action",
    "Add",
    "AdjustBatch",
    "AdjustRate",
    "AntDtDd",
    "AntDtNd",
    "Asp",
    "Backup",
    "BackupWorkers",
    "Bound",
    "Contribution",
    "Controller",
    "ControllerConfig",
    "Counts",
    "Crew",
    "Decision",
    "Demand",
    "DeviceClass",
    "DevicePlan",
    "Exit",
    "Grant",
    "Hysteresis",
    "JobResult",
    "LagScaling",
    "Launched",
    "Launcher",
    "LbBsp",
    "LocalLauncher",
    "Monitor",
    "MonitorConfig",
    "MoveBuckets",
    "NodeSpeeds",
    "Nothing",
    "Overheads",
    "Pattern",
    "Plan",
    "Quarantined",
    "QueueConfig",
    "RayLauncher",
    "Remove",
    "Restart",
    "RestartConfig",
    "RestartCost",
    "RoleCommand",
    "ShardQueue",
    "SimulatedFault",
    "SimulatedJob",
    "Slow",
    "Solution",
    "Static",
    "StreamProgress",
    "Together",
    "View",
    "announce",
    "bound",
    "demand",
    "launched",
    "mixed_devices",
    "no_stragglers",
    "persistent_server",
    "persistent_worker",
    "plan_devices",
    "read_decisions",
    "row_numbers",
    "rows_of",
    "share_batch",
    "simulate",
    "solution_from_json",
    "solution_json",
    "step_back",
    "thread_steps_back",
    "transient_worker",
]

_MODULES = (
    "launch",
    "local_launch",
    "crew",
    "placement",
    "work_queue",
    "shuffle",
    "simulate_patterns",
    "actions",
    "balance",
    "monitor",
    "solutions",
    "solutions_nd",
    "solutions_dd",
    "solutions_scale",
    "controller",
    "simulate_job",
    "simulate_run",
    "ray_launch",
    "manners",
)
"""Where the names are, those that import little first: looked through in this order."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        for home in _MODULES:
            module = importlib.import_module(f"headrace.runtime.{home}")
            if name in vars(module):
                return vars(module)[name]
    raise AttributeError(f"module 'headrace.runtime' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
