"""Processes forked of a fork server: imported once, told apart, watched, ended, and gone with their server."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.errors import WorkerLost
from headrace.runtime import LocalLauncher, RoleCommand

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every process is started")
WARM = """
import os
from pathlib import Path
with Path(__file__).with_name("imports.txt").open("a") as file:
    file.write(f"{os.getpid()}\\n")
"""
ROLE = """
import os, signal, sys, time
import warm_things
from headrace.runtime import announce, launched
me = launched()
print("hears", sys.argv[1:], os.environ.get("SECRET"), signal.getsignal(signal.SIGCHLD), os.getsid(0) == os.getpid())
if "fail" in sys.argv:
    raise ValueError("on purpose")
if "leave" in sys.argv:
    sys.exit(3)
if "say" in sys.argv:
    sys.exit("that was it")
announce(f"{me.host}:{os.getppid()}")
time.sleep(60)
"""


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[LocalLauncher]:
    (tmp_path / "warm_things.py").write_text(WARM)
    (tmp_path / "some_role.py").write_text(ROLE)
    path = os.pathsep.join([str(tmp_path), *(entry for entry in sys.path if entry)])
    with LocalLauncher(tmp_path / "logs", environment={"PYTHONPATH": path}) as launcher:
        yield launcher


def command(name: str, *words: str, warm: str = "warm_things", **environment: str) -> RoleCommand:
    return RoleCommand(name=name, role="worker", words=(sys.executable, "-m", "some_role", *words), warm=warm,
                       environment=environment)  # fmt: skip


def imports(tmp_path: Path) -> list[str]:
    return (tmp_path / "imports.txt").read_text().split()


def server_of(launcher: LocalLauncher, name: str) -> int:
    """Return the process that forked another one, as that one announced it."""
    return int(launcher.address(name).rpartition(":")[2])


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_what_is_needed_is_imported_once(launcher: LocalLauncher, tmp_path: Path) -> None:
    for name in ("a", "b"):
        launcher.start(command(name, name, SECRET=f"of {name}"))
    server = server_of(launcher, "a")
    assert server_of(launcher, "b") == server != os.getpid()
    assert imports(tmp_path) == [str(server)]
    assert launcher.running() == ["a", "b"]
    assert launcher.tail("b").splitlines() == ["hears ['b'] of b 0 True"]  # its own words, session and signals
    assert launcher.pid("a") not in (None, launcher.pid("b"), server)
    launcher.stop("a")
    assert [(end.name, end.code) for end in launcher.exits()] == [("a", -signal.SIGTERM)]


@pytest.mark.parametrize(
    ("word", "code", "said"),
    [("leave", 3, "hears"), ("say", 1, "that was it"), ("fail", 1, "ValueError: on purpose")],
)
def test_an_end_is_as_without_a_server(launcher: LocalLauncher, word: str, code: int, said: str) -> None:
    for warm in ("warm_things", ""):
        launcher.start(command("a", word, warm=warm))
        end = launcher.exits(10.0)[0]
        assert (end.code, said in end.tail) == (code, True), end


def test_a_death_is_told_at_once(launcher: LocalLauncher) -> None:
    delays = []
    for _ in range(5):
        launcher.start(command("a"))
        launcher.address("a")
        killed = time.monotonic()
        assert launcher.signal("a", signal.SIGKILL)
        end = launcher.exits(10.0)[0]
        assert end.code == -signal.SIGKILL
        delays.append(end.time - killed)
    assert min(delays) < 0.05


def test_all_die_with_their_server_and_another_takes_its_place(launcher: LocalLauncher) -> None:
    for name in ("a", "b"):
        launcher.start(command(name))
    server, processes = server_of(launcher, "a"), [launcher.pid(name) for name in ("a", "b")]
    server_of(launcher, "b")
    os.kill(server, signal.SIGKILL)
    ends = []
    while len(ends) < 2:
        ends += launcher.exits(10.0)
    assert sorted((end.name, end.code) for end in ends) == [("a", -signal.SIGKILL), ("b", -signal.SIGKILL)]
    assert all(gone(pid) for pid in processes if pid)
    launcher.start(command("a"))
    assert server_of(launcher, "a") != server


def test_a_launcher_that_closes_leaves_nobody(launcher: LocalLauncher) -> None:
    launcher.start(command("a"))
    server, process = server_of(launcher, "a"), launcher.pid("a")
    launcher.close()
    assert process is not None
    assert gone(process)
    assert gone(server)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()", "threads"),
        ("raise RuntimeError('not here')", "RuntimeError: not here"),
    ],
)
def test_what_cannot_be_forked_is_started(
    launcher: LocalLauncher, tmp_path: Path, caplog: pytest.LogCaptureFixture, code: str, reason: str
) -> None:
    (tmp_path / "bad_things.py").write_text(code)
    with caplog.at_level("INFO"):
        launcher.start(command("a", warm="bad_things"))
        assert server_of(launcher, "a") == os.getpid()
    assert reason in caplog.text


def test_a_variable_that_is_read_early_needs_a_start(launcher: LocalLauncher) -> None:
    launcher.start(command("a", OMP_NUM_THREADS="2"))
    assert server_of(launcher, "a") == os.getpid()


def test_an_end_before_the_word_is_an_error_with_the_log(launcher: LocalLauncher) -> None:
    launcher.start(command("a", "fail"))
    with pytest.raises(WorkerLost, match="ValueError: on purpose"):
        launcher.address("a")
