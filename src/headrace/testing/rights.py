"""What this machine lets a test do: each form of each fault, tried, with the reason where it is not there."""

from __future__ import annotations

import functools
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import HeadraceError
from headrace.testing.network import Network
from headrace.testing.quota import CpuQuota, SmallDisk, limit_files, send

FORMS: dict[str, tuple[str | None, str | None]] = {
    "kill": (None, "signals"), "freeze": (None, "signals"), "slow-cpu": ("cpu quota", "signals"),
    "partition": ("namespaces", "proxy"), "partition-there": ("namespaces", "proxy"),
    "partition-back": ("namespaces", "proxy"), "slow-link": ("namespaces", "proxy"), "delay": (None, "proxy"),
    "loss": (None, "proxy"), "cut": (None, "proxy"), "disk-full": ("small disk", "file limit"),
}  # fmt: skip
"""Kind of fault -> what it needs (in the kernel, in user space); None: there is no such form."""


@dataclass(frozen=True, slots=True)
class Right:
    """Whether something can be done here.

    Attributes:
        held: It was tried, and it can.
        why: What the machine said if it cannot.
    """

    held: bool
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Rights:
    """What can be done on this machine, by name: `namespaces`, `cpu quota`, `small disk`, `signals` and the others."""

    found: Mapping[str, Right]

    def __getitem__(self, name: str) -> bool:
        return self.found[name].held

    def text(self) -> str:
        """Return a line for each right."""
        width = max(len(name) for name in self.found)
        return "\n".join(
            f"{name:{width}}  {'yes' if right.held else 'no: ' + right.why}" for name, right in self.found.items()
        )


@functools.cache
def probe_rights() -> Rights:
    """Try what the lab needs, each once per process.

    Cost: about 0.2 s.

    Example:
        >>> probe_rights()["signals"], probe_rights()["proxy"]
        (True, True)
    """
    tries: dict[str, Callable[[], None]] = {
        "signals": _signals, "proxy": lambda: None, "file limit": _file_limit, "namespaces": _namespaces,
        "cpu quota": _quota, "small disk": _disk,
    }  # fmt: skip
    return Rights(found={name: _tried(attempt) for name, attempt in tries.items()})


def _tried(attempt: Callable[[], None]) -> Right:
    try:
        attempt()
    except (HeadraceError, OSError, ValueError, subprocess.SubprocessError) as error:
        return Right(False, " ".join(str(error).split())[:200])
    return Right(True)


def _signals() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True) as child:
        send(child.pid, signal.SIGSTOP)
        send(child.pid, signal.SIGCONT)
        send(child.pid, signal.SIGKILL)


def _file_limit() -> None:
    if not hasattr(resource, "prlimit"):
        raise OSError("prlimit is Linux's")
    limit_files(os.getpid(), None)


def _namespaces() -> None:
    with Network(["a"], bytes_per_s=1e6) as network:
        network.partition("a")
        network.heal("a")


def _quota() -> None:
    CpuQuota(0.5).close()


def _disk() -> None:
    with tempfile.TemporaryDirectory() as place:
        SmallDisk(Path(place) / "disk", 1 << 20).close()
