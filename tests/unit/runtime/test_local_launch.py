"""Processes of this machine: started, heard, watched, ended, and gone with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headrace.errors import ConfigError, WorkerLost
from headrace.runtime import Launcher, LocalLauncher, RoleCommand

SPEAKS = """
import time
from headrace.runtime import announce, launched
me = launched()
print("said it", flush=True)
announce(f"{me.host}:{len(me.name)}{me.generation}")
time.sleep(60)
"""


def python(name: str, code: str, **environment: str) -> RoleCommand:
    return RoleCommand(name=name, role="worker", words=(sys.executable, "-c", code), environment=environment)


@pytest.fixture
def launcher(tmp_path):
    with LocalLauncher(tmp_path / "logs") as launcher:
        yield launcher


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def alive(pid: int) -> bool:
    return state(pid) not in ("Z", "gone")


def wait_until_stopped(pid: int) -> None:
    while state(pid) != "T":
        time.sleep(0.001)


def test_a_process_says_where_it_listens(launcher) -> None:
    assert isinstance(launcher, Launcher)
    launcher.start(python("abc", SPEAKS, HEADRACE_GENERATION="2"))
    assert launcher.address("abc") == "127.0.0.1:32"
    assert launcher.running() == ["abc"]
    assert launcher.exits() == []
    launcher.stop("abc")
    assert [(end.name, end.code) for end in launcher.exits()] == [("abc", -signal.SIGTERM)]
    assert "said it" in launcher.tail("abc")


def test_a_death_is_told_at_once(launcher) -> None:
    launcher.start(python("a", "import time; time.sleep(60)"))
    delays = []
    for _ in range(5):
        if not launcher.running():
            launcher.start(python("a", "import time; time.sleep(60)"))
        killed = time.monotonic()
        assert launcher.signal("a", signal.SIGKILL)
        end = launcher.exits(10.0)[0]
        assert end.code == -signal.SIGKILL
        delays.append(end.time - killed)
    assert min(delays) < 0.05
    assert launcher.exits() == []  # each once


def test_an_end_before_the_word_is_an_error_with_the_log(launcher) -> None:
    launcher.start(python("a", "raise SystemExit('nothing to do here')"))
    with pytest.raises(WorkerLost, match="nothing to do here"):
        launcher.address("a")


def test_silence_is_an_error(launcher) -> None:
    launcher.start(python("a", "import time; time.sleep(60)"))
    with pytest.raises(WorkerLost, match=r"no word in 0\.05 s"):
        launcher.address("a", timeout_s=0.05)


def test_what_cannot_start_is_said(launcher) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        launcher.start(RoleCommand(name="a", role="worker", words=("/no/such/program",)))
    assert launcher.exits(1.0)[0].code == 127


def test_one_name_runs_once(launcher) -> None:
    launcher.start(python("a", "import time; time.sleep(60)"))
    with pytest.raises(ConfigError, match="one that has ended"):
        launcher.start(python("a", "pass"))
    launcher.stop("a")
    launcher.start(python("a", "pass"))
    codes = [end.code for end in launcher.exits(10.0)]
    while len(codes) < 2:
        codes += [end.code for end in launcher.exits(10.0)]
    assert codes == [-signal.SIGTERM, 0]


def test_a_frozen_process_is_stopped_as_well(launcher) -> None:
    launcher.start(python("a", "import time; time.sleep(60)"))
    launcher.signal("a", signal.SIGSTOP)
    wait_until_stopped(launcher.pid("a"))
    launcher.stop("a", timeout_s=0.2)
    assert launcher.exits(5.0)[0].code == -signal.SIGKILL
    assert launcher.pid("a") is None
    assert not launcher.signal("a", signal.SIGKILL)


def test_a_secret_stands_in_the_environment_alone(launcher) -> None:
    command = python("a", "import os; print(os.environ['HEADRACE_SECRET'][::-1])", HEADRACE_SECRET="quite")
    assert "quite" not in repr(command)
    launcher.start(command)
    assert launcher.exits(10.0)[0].tail == "etiuq"


@pytest.mark.parametrize("name", ["", "a b", "../a"])
def test_names_are_file_names(name: str) -> None:
    with pytest.raises(ConfigError, match=r"RoleCommand\.name"):
        RoleCommand(name=name, role="worker", words=("x",))


PARENT = """
import sys, time
from pathlib import Path
from headrace.runtime import LocalLauncher, RoleCommand
launcher = LocalLauncher(Path(sys.argv[1]))
launcher.start(RoleCommand(name="child", role="worker", words=(sys.executable, "-c", sys.argv[2])))
launcher.address("child")
print(launcher.pid("child"), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("frozen", [False, True])
def test_children_die_with_their_parent(tmp_path, frozen: bool) -> None:
    if frozen and sys.platform != "linux":
        pytest.skip("only Linux ends a frozen orphan")
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path), SPEAKS], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert alive(child)
    if frozen:
        os.kill(child, signal.SIGSTOP)
        wait_until_stopped(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 5.0
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(child)
