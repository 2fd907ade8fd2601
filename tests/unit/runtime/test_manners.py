"""Stepping back: whole processes, and single threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from headrace.errors import ConfigError
from headrace.runtime import step_back, thread_steps_back

LINUX = pytest.mark.skipif(not Path("/proc").is_dir(), reason="Linux alone has threads of their own niceness")
SCRIPT = """
import os
from pathlib import Path
from headrace.runtime import step_back
step_back(7)
step_back(3)
group = Path("/proc/self/autogroup")
words = group.read_text().split() if group.exists() else []
print(os.getpriority(os.PRIO_PROCESS, 0), words[-1] if words else "none")
"""


def _group() -> str:
    """The weight of the group of processes; one that belongs to none (started by no login) reads an empty file."""
    group = Path("/proc/self/autogroup")
    words = group.read_text().split() if group.exists() else []
    return words[-1] if words else "none"


@pytest.mark.parametrize("alone", [True, False])
def test_a_process_steps_back_and_never_forward(alone: bool) -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True,
                          start_new_session=alone)  # fmt: skip
    nice, group = done.stdout.split()
    assert int(nice) == max(before, 7)
    if alone and group != "none" and before < 7:
        assert group == "7"  # the session's weight follows; it is this process's own
    elif not alone:
        assert group == _group()  # others share it: left alone


@LINUX
def test_a_thread_steps_back_alone() -> None:
    before, seen = os.getpriority(os.PRIO_PROCESS, 0), []

    def work() -> None:
        thread_steps_back(before + 2)
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before + 2]
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


@LINUX
def test_a_thread_that_may_not_step_back_goes_on(monkeypatch) -> None:
    def refused(*_arguments):
        raise PermissionError("seccomp")

    for call in ("setpriority", "getpriority"):
        monkeypatch.setattr(os, call, refused)
        thread_steps_back(5)


@pytest.mark.parametrize("by", [-1, 20])
def test_a_niceness_out_of_range_is_refused(by: int) -> None:
    for call in (step_back, thread_steps_back):
        with pytest.raises(ConfigError, match="0 to 19"):
            call(by)
