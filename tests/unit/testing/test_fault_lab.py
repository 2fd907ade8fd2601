from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace.errors import ConfigError
from headrace.testing.fault_lab import TICK_S
from headrace.testing.faults import KINDS, Fault, FaultLab, FaultPlan, Line, Network, Target, TcpProxy
from headrace.testing.proxy import WAYS, Way

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
            wait_until(lambda: place.exists() and place.stat().st_size > 0)
            yield child, place
        finally:
            child.kill()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def plan(*faults: Fault) -> FaultPlan:
    return FaultPlan(faults=faults)


class Clock:
    """Time that goes on by a tick whenever the laboratory asks whether to end."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def tick(self) -> bool:
        self.now += TICK_S
        return False


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_frozen_role_goes_on_when_the_last_of_two_freezes_is_over(counting) -> None:
    child, place = counting
    seen, clock = [], Clock()

    def look() -> bool:
        if len(lab.report.done) == 1:  # a signal takes its time to arrive
            wait_until(lambda: state(child.pid) == "T")
        seen.append((clock.now, state(child.pid)))
        return clock.tick()

    with FaultLab({"a": Target(pid=lambda: child.pid)}, clock=clock) as lab:
        lab.run(plan(Fault(0.0, "freeze", "a", 0.2), Fault(0.1, "freeze", "a", 0.3)), look)
    held = [letter for at, letter in seen if 0.005 < at < 0.39]
    assert len(held) > 30
    assert set(held) == {"T"}
    assert clock.now < 0.5
    size = place.stat().st_size
    wait_until(lambda: place.stat().st_size > size)


def test_a_full_disk_stops_the_writing_and_lets_it_go_on(counting) -> None:
    child, place = counting
    sizes, clock = [], Clock()

    def look() -> bool:
        sizes.append(place.stat().st_size)
        return clock.tick()

    with FaultLab({"a": Target(pid=lambda: child.pid)}, clock=clock) as lab:
        report = lab.run(plan(Fault(0.0, "disk-full", "a", 0.3)), look)
    assert report.count() == 1
    assert len(sizes) > 25
    assert sizes[4] == sizes[25]  # the first look is before it, and a write may have been on its way
    wait_until(lambda: place.stat().st_size > sizes[25])


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
    seen: dict[int, tuple[Line, list[bool], list[bool]]] = {}
    clock = Clock()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        TcpProxy(server.getsockname()) as to_it,
        TcpProxy(server.getsockname()) as from_it,
        FaultLab({"a": Target(pid=lambda: child.pid, links=[to_it], uplinks=[from_it])}, clock=clock) as lab,
    ):

        def look() -> bool:
            seen[round(clock.now / TICK_S)] = to_it.lines["back"], *(gates(proxy) for proxy in (to_it, from_it))
            return clock.tick()

        lab.run(plan(
            Fault(0.0, "slow-link", "a", 0.4, 5000.0), Fault(0.1, "delay", "a", 0.1, 0.25),
            Fault(0.25, "partition-there", "a", 0.1), Fault(0.3, "slow-link", "a", 0.05, 900.0),
        ), look)  # fmt: skip
        assert to_it.lines["there"] == Line()
        assert gates(to_it) == gates(from_it) == [True, True]
    assert seen[5][0] == Line(bytes_per_s=5000.0)
    assert seen[15][0] == Line(bytes_per_s=5000.0, delay_s=0.25)
    assert seen[23][0] == Line(bytes_per_s=5000.0)
    assert seen[28][1:] == ([False, True], [True, False])
    assert seen[33][0] == Line(bytes_per_s=900.0)


def gates(proxy: TcpProxy) -> list[bool]:
    """Return whether each way of a proxy is open."""
    return [proxy._open[way].is_set() for way in WAYS]


class ToldNetwork(Network):
    """A network that is not built: it keeps what would be told to the kernel."""

    def _apply(self, node: str, way: Way) -> None:
        self.told: list[tuple[str, str]] = getattr(self, "told", [])
        self.told.append((way, "cut" if (node, way) in self._held else f"{self._speed.get((node, way))}"))


def test_a_node_of_a_network_is_cut_off_by_the_kernel_and_delayed_by_its_proxy(counting) -> None:
    child, _ = counting
    seen: dict[int, tuple[Line, list[bool], set[tuple[str, str]]]] = {}
    clock, network = Clock(), ToldNetwork(["a"])
    with socket.create_server(("127.0.0.1", 0)) as server, TcpProxy(server.getsockname()) as proxy:
        target = Target(pid=lambda: child.pid, links=[proxy], node=(network, "a"))
        with FaultLab({"a": target}, clock=clock) as lab:

            def look() -> bool:
                seen[round(clock.now / TICK_S)] = proxy.lines["back"], gates(proxy), set(network.told[-2:])
                return clock.tick()

            network.told = []
            report = lab.run(plan(
                Fault(0.0, "delay", "a", 0.1, 0.25), Fault(0.1, "loss", "a", 0.1, 0.5),
                Fault(0.2, "partition-there", "a", 0.2), Fault(0.3, "slow-link", "a", 0.3, 900.0),
            ), look)  # fmt: skip
    assert report.counts() == {"delay (user space)": 1, "loss (user space)": 1, "partition-there (kernel)": 1,
                               "slow-link (kernel)": 1}  # fmt: skip
    assert (seen[5][0], seen[15][0], seen[35][0]) == (Line(delay_s=0.25), Line(loss=0.5), Line())
    assert all(gate for tick, (_, open_gates, _) in seen.items() for gate in open_gates if tick)
    assert seen[25][2] == {("there", "cut"), ("back", "None")}
    assert seen[35][2] == {("there", "cut"), ("back", "900.0")}
    assert seen[50][2] == {("there", "900.0"), ("back", "900.0")}
    while_it_lasts = network.told[network.told.index(("there", "cut")) :]
    assert ("there", "None") not in while_it_lasts[: len(while_it_lasts) - 4]  # no packet slips through in between


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
    wait_until(lambda: state(child.pid) != "T")


def test_the_laboratory_waits_until_the_run_has_settled(counting) -> None:
    child, _ = counting
    clock = Clock()
    with FaultLab({"a": Target(pid=lambda: child.pid)}, settled=lambda: clock.now > 0.2, clock=clock) as lab:
        report = lab.run(plan(Fault(0.05, "freeze", "a", 0.0)), clock.tick)
    assert clock.now >= 0.25
    assert 0.05 <= report.done[0].began_s < 0.08


@pytest.mark.parametrize("quotas", [False, True])
def test_a_process_that_died_on_the_way_is_reported_and_leaves_nothing(monkeypatch, quotas: bool) -> None:
    left = []

    class Quota:
        def __init__(self, share: float) -> None:
            left.append(self)

        def add(self, pid: int) -> None:
            raise ProcessLookupError(pid)

        def close(self) -> None:
            left.remove(self)

    monkeypatch.setattr("headrace.testing.fault_lab.CpuQuota", Quota)
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    with FaultLab({"a": Target(pid=lambda: child.pid)}, quotas=quotas) as lab:
        report = lab.run(plan(Fault(0.0, "slow-cpu", "a", 0.1, 0.5)))
    assert [(one.form, one.note) for one in report.done] == [("not done", "its process was gone")]
    assert not left


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
