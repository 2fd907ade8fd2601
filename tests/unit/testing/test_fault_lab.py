from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.errors import ConfigError
from headrace.testing.faults import KINDS, Fault, FaultLab, FaultPlan, Line, Target, TcpProxy

COUNT = """
import sys, time
with open(sys.argv[1], "ab", buffering=0) as file:
    while True:
        try:
            file.write(b"x")
        except OSError:
            pass
        time.sleep(0.002)
"""


@pytest.fixture
def counting(tmp_path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process that writes a byte every other millisecond."""
    place = tmp_path / "count"
    with subprocess.Popen([sys.executable, "-c", COUNT, str(place)], start_new_session=True) as child:
        try:
            deadline = time.monotonic() + 20
            while not place.exists() or not place.stat().st_size:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            yield child, place
        finally:
            child.kill()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def plan(*faults: Fault) -> FaultPlan:
    return FaultPlan(faults=faults)


def test_a_frozen_role_goes_on_when_the_last_of_two_freezes_is_over(counting) -> None:
    child, place = counting
    seen = []

    def look() -> bool:
        seen.append((time.monotonic() - began, state(child.pid)))
        return False

    began = time.monotonic()
    with FaultLab({"a": Target(pid=lambda: child.pid)}) as lab:
        lab.run(plan(Fault(0.0, "freeze", "a", 0.2), Fault(0.1, "freeze", "a", 0.3)), look)
    held = [letter for at, letter in seen if 0.05 < at < 0.35]
    assert held
    assert set(held) == {"T"}
    size = place.stat().st_size
    time.sleep(0.1)
    assert place.stat().st_size > size


def test_a_full_disk_stops_the_writing_and_lets_it_go_on(counting) -> None:
    child, place = counting
    sizes = []
    with FaultLab({"a": Target(pid=lambda: child.pid)}) as lab:
        report = lab.run(
            plan(Fault(0.0, "disk-full", "a", 0.3)), lambda: sizes.append(place.stat().st_size) is not None
        )
    assert report.count() == 1
    assert sizes[4] == sizes[min(15, len(sizes) - 1)]
    time.sleep(0.1)
    assert place.stat().st_size > sizes[-1]


def test_a_kill_is_a_kill_and_what_is_gone_is_reported(counting) -> None:
    child, _ = counting
    with FaultLab({"a": Target(pid=lambda: child.pid), "b": Target(pid=lambda: None)}) as lab:
        report = lab.run(plan(
            Fault(0.0, "freeze", "a", 5.0), Fault(0.01, "kill", "a"), Fault(0.02, "freeze", "b", 1.0),
            Fault(0.03, "partition", "a", 1.0),
        ), lambda: child.poll() is not None and len(lab.report.done) == 4)  # fmt: skip
    assert child.wait(20) == -9
    assert report.count() == 2
    assert report.counts() == {
        "freeze (not done)": 1, "freeze (user space)": 1, "kill (user space)": 1, "partition (not done)": 1,
    }  # fmt: skip
    notes = {one.fault.kind: one.note for one in report.done if one.note}
    assert notes == {"freeze": "no process played the role", "partition": "nothing stands between it and the others"}
    assert len(json.loads(report.to_json())["done"]) == 4
    assert "on a 2" in report.text()


def test_a_link_is_as_bad_as_the_faults_that_last(counting) -> None:
    child, _ = counting
    seen: list[tuple[float, Line, list[bool], list[bool]]] = []
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        TcpProxy(server.getsockname()) as to_it,
        TcpProxy(server.getsockname()) as from_it,
        FaultLab({"a": Target(pid=lambda: child.pid, links=[to_it], uplinks=[from_it])}) as lab,
    ):
        began = time.monotonic()

        def look() -> bool:
            gates = [[proxy._open[way].is_set() for way in ("there", "back")] for proxy in (to_it, from_it)]
            seen.append((time.monotonic() - began, to_it.lines["back"], *gates))
            return False

        lab.run(plan(
            Fault(0.0, "slow-link", "a", 0.4, 5000.0), Fault(0.1, "delay", "a", 0.1, 0.25),
            Fault(0.25, "partition-there", "a", 0.1), Fault(0.3, "slow-link", "a", 0.05, 900.0),
        ), look)  # fmt: skip
        time.sleep(0.05)
        assert to_it.lines["there"] == Line()
        assert all(gate.is_set() for proxy in (to_it, from_it) for gate in proxy._open.values())
    at = {moment: min(seen, key=lambda one: abs(one[0] - moment)) for moment in (0.05, 0.15, 0.22, 0.275, 0.325)}
    assert at[0.05][1] == Line(bytes_per_s=5000.0)
    assert at[0.15][1] == Line(bytes_per_s=5000.0, delay_s=0.25)
    assert at[0.22][1] == Line(bytes_per_s=5000.0)
    assert at[0.275][2:] == ([False, True], [True, False])
    assert at[0.325][1] == Line(bytes_per_s=900.0)


def test_what_lasts_is_undone_when_the_run_ends_early(counting) -> None:
    child, _ = counting
    done: list[bool] = []
    with FaultLab({"a": Target(pid=lambda: child.pid)}) as lab:
        report = lab.run(
            plan(Fault(0.0, "freeze", "a", 60.0), Fault(0.0, "slow-cpu", "a", 60.0, 0.2), Fault(30.0, "kill", "a")),
            lambda: len(lab.report.done) == 2 and done.append(True) is None,
        )
    assert report.took_s < 10
    assert child.poll() is None
    time.sleep(0.05)
    assert state(child.pid) != "T"


def test_the_laboratory_waits_until_the_run_has_settled(counting) -> None:
    child, _ = counting
    began = time.monotonic()
    with FaultLab({"a": Target(pid=lambda: child.pid)}, settled=lambda: time.monotonic() > began + 0.2) as lab:
        report = lab.run(plan(Fault(0.05, "freeze", "a", 0.0)))
    assert time.monotonic() - began >= 0.25
    assert 0.05 <= report.done[0].began_s < 0.2


def test_every_kind_has_a_form_or_a_reason() -> None:
    bare, linked = Target(pid=lambda: None), Target(pid=lambda: None, links=[TcpProxy(("127.0.0.1", 9))])
    for kind in KINDS:
        assert linked.form(kind) == "user space"
        assert bare.form(kind) in {"user space", None}
    assert bare.form("slow-cpu", quotas=True) == "kernel"
    linked.links[0].close()


def test_unknown_roles_are_refused_before_anything_is_done() -> None:
    with FaultLab({"worker-0": Target(pid=lambda: None)}) as lab, pytest.raises(ConfigError, match="'worker-0'"):
        lab.run(plan(Fault(0.0, "kill", "worker-O")))
