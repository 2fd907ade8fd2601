from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from headrace.errors import ConfigError, WorkerLost
from headrace.testing import Chaos, Child

NAP = (sys.executable, "-c", "import time; time.sleep(60)")
COUNT = """
import pathlib, sys, time
path = pathlib.Path(sys.argv[1])
while True:
    path.write_text(str(int(path.read_text() or 0) + 1) if path.exists() else "1")
    time.sleep(0.005)
"""


def until(condition, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] if Path("/proc").is_dir() else ""
    except (ProcessLookupError, FileNotFoundError):
        return True
    return state == "Z"


def naps(*names: str) -> list[Child]:
    return [Child(name=name, command=NAP) for name in names]


def test_children_start_and_none_is_left_behind() -> None:
    with Chaos(naps("a", "b"), seed=0) as chaos:
        assert chaos.alive("a")
        assert chaos.alive("b")
        pids = [chaos._running[name].pid for name in ("a", "b")]
    assert all(gone(pid) for pid in pids)


def test_a_killed_child_is_gone_and_can_be_started_again() -> None:
    with Chaos(naps("a"), seed=0) as chaos:
        pid = chaos._running["a"].pid
        chaos.kill("a")
        assert gone(pid)
        assert not chaos.alive("a")
        assert chaos.start("a") != pid
        assert [fault.kind for fault in chaos.history] == ["start", "kill", "start"]


def test_what_a_child_started_dies_with_it(tmp_path) -> None:
    place = tmp_path / "pid"
    code = (
        "import subprocess, sys, time, pathlib; "
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        "pathlib.Path(sys.argv[1] + '.part').write_text(str(inner.pid)); "
        "pathlib.Path(sys.argv[1] + '.part').rename(sys.argv[1]); time.sleep(60)"
    )
    with Chaos([Child(name="a", command=(sys.executable, "-c", code, str(place)))], seed=0) as chaos:
        until(place.exists)
        chaos.kill("a")
        until(lambda: gone(int(place.read_text())))


def test_the_same_seed_strikes_the_same_victims() -> None:
    seen = []
    for _ in range(2):
        with Chaos(naps("a", "b", "c"), seed=7, every_s=(0.0, 0.01)) as chaos:
            seen.append([fault.name for fault in chaos.run(6)])
    assert seen[0] == seen[1]
    assert len(set(seen[0])) > 1


def test_a_strike_restarts_its_victim() -> None:
    with Chaos(naps("a"), seed=0, every_s=(0.0, 0.01)) as chaos:
        before = chaos._running["a"].pid
        fault = chaos.strike()
        assert fault is not None
        assert fault.kind == "kill"
        assert chaos.alive("a")
        assert chaos._running["a"].pid != before


def test_a_paused_child_does_nothing_until_it_is_resumed(tmp_path) -> None:
    place = tmp_path / "count"
    child = Child(name="a", command=(sys.executable, "-c", COUNT, str(place)))

    def count() -> int:
        return int(place.read_text() or 0) if place.exists() else 0

    with Chaos([child], seed=0) as chaos:
        until(lambda: count() > 3)
        chaos.pause("a")
        time.sleep(0.05)
        held = count()
        time.sleep(0.2)
        assert count() == held
        assert chaos.alive("a")
        chaos.resume("a")
        until(lambda: count() > held)


def test_strikes_may_be_pauses() -> None:
    with Chaos(naps("a"), seed=0, every_s=(0.0, 0.0), pause_share=1.0, pause_s=(0.0, 0.01)) as chaos:
        pid = chaos._running["a"].pid
        assert [fault.kind for fault in chaos.run(2)] == ["pause", "pause"]
        assert chaos._running["a"].pid == pid
        assert [fault.kind for fault in chaos.history] == ["start", "pause", "resume", "pause", "resume"]


def test_a_paused_child_can_be_killed() -> None:
    with Chaos(naps("a"), seed=0) as chaos:
        chaos.pause("a")
        chaos.kill("a")
        assert not chaos.alive("a")


def test_a_finished_child_is_left_alone() -> None:
    done = Child(name="done", command=(sys.executable, "-c", ""))
    with Chaos([done], seed=0, every_s=(0.0, 0.0)) as chaos:
        assert chaos.wait("done", 20) == 0
        assert chaos.finished("done")
        assert chaos.strike() is None
        assert chaos.run(5) == []


def test_a_child_that_fails_by_itself_is_reported_with_its_last_words(tmp_path) -> None:
    log = tmp_path / "log"
    failing = Child(name="bad", command=(sys.executable, "-c", "raise SystemExit('the disk is on fire')"), log=log)
    with Chaos([failing], seed=0, every_s=(0.0, 0.0)) as chaos:
        chaos.wait("bad", 20)
        with pytest.raises(WorkerLost, match="the disk is on fire"):
            chaos.strike()


def test_a_run_ends_when_it_is_told() -> None:
    with Chaos(naps("a"), seed=0, every_s=(0.0, 0.0)) as chaos:
        assert len(chaos.run(100, until=lambda: len(chaos.history) > 4)) < 5


def test_waiting_has_an_end() -> None:
    with Chaos(naps("a"), seed=0) as chaos, pytest.raises(WorkerLost, match=r"within 0\.05 s"):
        chaos.wait("a", 0.05)


def test_environment_and_folder_are_the_childs(tmp_path) -> None:
    log = tmp_path / "log"
    code = "import os; print(os.environ['COLOUR'], os.getcwd())"
    child = Child(
        name="a", command=(sys.executable, "-c", code), environment={"COLOUR": "teal"}, folder=tmp_path, log=log
    )
    with Chaos([child], seed=0) as chaos:
        assert chaos.wait("a", 20) == 0
    assert log.read_text().split() == ["teal", str(tmp_path)]


def test_a_child_meets_a_full_disk(tmp_path) -> None:
    code = """
import errno, sys
with open(sys.argv[1], "wb", buffering=0) as file:
    try:
        for _ in range(100):
            file.write(b"x" * 1000)
    except OSError as error:
        sys.exit(0 if error.errno == errno.EFBIG else 3)
sys.exit(4)
"""
    place = tmp_path / "file"
    child = Child(name="a", command=(sys.executable, "-c", code, str(place)), file_limit_bytes=5500)
    with Chaos([child], seed=0) as chaos:
        assert chaos.wait("a", 20) == 0
    assert place.stat().st_size == 5500


@pytest.mark.parametrize(
    "settings", [{"every_s": (1.0, 0.5)}, {"pause_share": 2.0}, {"pause_s": (-1.0, 0.0)}, {"children": []}]
)
def test_settings_that_cannot_work_are_refused(settings) -> None:
    with pytest.raises(ConfigError):
        Chaos(**{"children": naps("a"), "seed": 0, **settings})


def test_two_children_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError):
        Chaos(naps("a", "a"), seed=0)


def test_an_unknown_child_is_named() -> None:
    with Chaos(naps("learner"), seed=0) as chaos, pytest.raises(ConfigError, match="'learner'"):
        chaos.start("lerner")


def test_a_running_child_is_not_started_twice() -> None:
    with Chaos(naps("a"), seed=0) as chaos, pytest.raises(ConfigError):
        chaos.start("a")


def test_a_program_that_does_not_exist_leaves_nothing_behind() -> None:
    children = [*naps("a"), Child(name="b", command=("no-such-program-anywhere",))]
    chaos = Chaos(children, seed=0)
    with pytest.raises(FileNotFoundError):
        chaos.__enter__()
    assert not chaos.alive("a")
