"""Stepping back: work that can wait lets those that answer users go first on the cores that they share."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from headrace.config import require

LEAST, MOST = 0, 19
AUTOGROUP = Path("/proc/self/autogroup")


def step_back(by: int) -> None:
    """Let this process run only where others leave room; for learner, joiner and publisher beside a server.

    Linux shares cores between sessions first and by niceness only within one. So a process that leads a session of
    its own lowers the session's weight as well. Where cores are shared by control groups (containers, systemd) their
    weights count, and niceness within each.

    Args:
        by: Niceness, 0 (nothing is done) to 19. A process that is nicer already stays so.

    Raises:
        ConfigError: If it is out of range.

    Example:
        >>> step_back(0)
    """
    require(LEAST <= by <= MOST, "Niceness", got=by, expected=f"{LEAST} to {MOST}")
    if by <= os.getpriority(os.PRIO_PROCESS, 0):
        return
    os.setpriority(os.PRIO_PROCESS, 0, by)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):  # no such file: this kernel does not group sessions
            AUTOGROUP.write_text(str(by))


def thread_steps_back(by: int) -> None:
    """Let only the calling thread step back; Linux alone can, elsewhere, or where it may not, nothing is done.

    Args:
        by: Niceness, 0 to 19.

    Raises:
        ConfigError: If it is out of range.
    """
    require(LEAST <= by <= MOST, "Niceness", got=by, expected=f"{LEAST} to {MOST}")
    if by and AUTOGROUP.parent.parent.is_dir():
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):  # a sandbox that refuses the call: the thread's work goes on all the same
            if by > os.getpriority(os.PRIO_PROCESS, thread):
                os.setpriority(os.PRIO_PROCESS, thread, by)
