"""The fault lab: what can happen to a program in production, made to happen, by a plan that can be played again.

`FaultPlan` says what happens to which role when; `FaultLab` does it to running processes and reports in which form:
in user space (signals, `TcpProxy`, limits on files), which works anywhere, or in the kernel (`Network`, `CpuQuota`,
`SmallDisk`), where `probe_rights` says that the machine allows it. `Chaos` is the small form for a few child processes.
`audit` reads a ledger of what was learned and says what was lost, doubled or left unexplained.
"""

from __future__ import annotations

from headrace.testing.audit import Audit, audit
from headrace.testing.chaos import Chaos, Child, limited
from headrace.testing.fault_lab import Done, FaultLab, LabReport, Target
from headrace.testing.fault_plan import KINDS, Fault, FaultPlan
from headrace.testing.network import Network
from headrace.testing.proxied_launcher import ProxiedLauncher
from headrace.testing.proxy import Line, TcpProxy
from headrace.testing.quota import CpuQuota, SmallDisk, Throttle, limit_files
from headrace.testing.rights import Right, Rights, probe_rights

__all__ = [
    "KINDS", "Audit", "Chaos", "Child", "CpuQuota", "Done", "Fault", "FaultLab", "FaultPlan", "LabReport", "Line",
    "Network", "ProxiedLauncher", "Right", "Rights", "SmallDisk", "Target", "TcpProxy", "Throttle", "audit",
    "limit_files", "limited", "probe_rights",
]  # fmt: skip
