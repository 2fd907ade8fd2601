"""The kernel's forms, where the rights exist."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headrace.errors import ClusterError, ConfigError
from headrace.testing.faults import (
    CpuQuota,
    Fault,
    FaultLab,
    FaultPlan,
    Network,
    SmallDisk,
    Target,
    Throttle,
    limit_files,
    probe_rights,
)

SEND = """
import socket, sys, time
try:
    with socket.create_connection((sys.argv[1], 4000), timeout=float(sys.argv[3])) as link:
        began = time.monotonic()
        link.sendall(b"x" * int(sys.argv[2]))
        link.shutdown(socket.SHUT_WR)
        link.recv(1)
        print(time.monotonic() - began)
except TimeoutError:
    print("silence")
"""
TAKE = """
import socket
server = socket.create_server(("0.0.0.0", 4000))
print("ready", flush=True)
while True:
    link, _ = server.accept()
    with link:
        while link.recv(1 << 16):
            pass
        link.sendall(b".")
"""
SPIN = "import time\nprint('on', flush=True)\nwhile True: sum(range(1000))"


def need(right: str) -> None:
    found = probe_rights().found[right]
    if not found.held:
        pytest.skip(f"no {right} here: {found.why}")


def cpu_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def test_links_are_slow_cut_and_healed() -> None:
    need("namespaces")
    with Network(["a", "b"]) as network:
        taking = subprocess.Popen(network.command("b", [sys.executable, "-c", TAKE]), stdout=subprocess.PIPE, text=True)
        try:
            assert taking.stdout is not None
            assert taking.stdout.readline() == "ready\n"

            def sent(count: int, patience_s: float = 20.0) -> str:
                words = [sys.executable, "-c", SEND, network.address("b"), str(count), str(patience_s)]
                done = subprocess.run(network.command("a", words), capture_output=True, text=True, timeout=60)
                return done.stdout.strip() or done.stderr

            assert float(sent(1_000_000)) < 0.5
            network.shape("b", 1e6, "there")
            assert 0.5 < float(sent(1_000_000)) < 2.5
            network.shape("b", None)
            network.partition("b", "back")
            assert sent(1, 0.3) == "silence"
            network.heal("b")
            assert float(sent(1000)) < 2.0
        finally:
            taking.kill()
            taking.wait()
            taking.stdout.close()
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    assert network._mark not in names


@pytest.mark.parametrize("nodes", [[], ["a", "a"], ["A b"]])
def test_nodes_need_names(nodes) -> None:
    with pytest.raises(ConfigError):
        Network(nodes)


@pytest.mark.parametrize("form", ["cpu quota", "signals"])
def test_a_slow_processor_is_slow(form: str) -> None:
    need(form)
    with subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            if form == "signals":
                slowed = Throttle(child.pid, 0.1)
            else:
                slowed = CpuQuota(0.1)
                slowed.add(child.pid)
            before, began = cpu_s(child.pid), time.monotonic()
            time.sleep(0.6)
            share = (cpu_s(child.pid) - before) / (time.monotonic() - began)
            slowed.close()
            assert share < 0.35
            before = cpu_s(child.pid)
            time.sleep(0.3)
            assert cpu_s(child.pid) > before
        finally:
            child.kill()


def test_a_small_disk_fills_up_and_is_freed(tmp_path) -> None:
    need("small disk")
    with SmallDisk(tmp_path / "disk", 1 << 20) as disk:
        (disk.folder / "one").write_bytes(b"x" * 1000)
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            (disk.folder / "two").write_bytes(b"x" * 10_000)
        disk.free()
        (disk.folder / "two").write_bytes(b"x" * 10_000)
    assert not (tmp_path / "disk" / "one").exists()


def test_a_running_process_meets_a_full_disk_and_gets_room_again(tmp_path) -> None:
    code = """
import sys, time
with open(sys.argv[1], "ab", buffering=0) as file:
    while True:
        try:
            file.write(b"x")
            print("written", flush=True)
        except OSError as error:
            print(error.errno, flush=True)
        time.sleep(0.005)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "file")], stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "written\n"
            limit_files(child.pid, 0)
            assert any(child.stdout.readline() == "27\n" for _ in range(1000))
            limit_files(child.pid, None)
            assert any(child.stdout.readline() == "written\n" for _ in range(1000))
        finally:
            child.kill()


def test_the_laboratory_cuts_off_and_slows_a_node() -> None:
    """The kernel's form of partitions and slow links."""
    need("namespaces")
    with Network(["a", "b"]) as network:
        taking = subprocess.Popen(network.command("b", [sys.executable, "-c", TAKE]), stdout=subprocess.PIPE, text=True)
        told: dict[str, str] = {}
        try:
            assert taking.stdout is not None
            assert taking.stdout.readline() == "ready\n"

            def until() -> bool:
                kinds = [one.fault.kind for one in lab.report.done]
                if kinds and kinds[-1] not in told:
                    count, patience = ("1", "0.3") if kinds[-1] == "partition" else ("300000", "20")
                    words = [sys.executable, "-c", SEND, network.address("b"), count, patience]
                    done = subprocess.run(network.command("a", words), capture_output=True, text=True, timeout=60)
                    told[kinds[-1]] = done.stdout.strip() or done.stderr
                return len(told) == 2

            plan = FaultPlan(faults=(Fault(0.0, "partition", "b", 0.4), Fault(0.8, "slow-link", "b", 30.0, 5e5)))
            with FaultLab({"b": Target(pid=lambda: taking.pid, node=(network, "b"))}) as lab:
                report = lab.run(plan, until)
        finally:
            taking.kill()
            taking.wait()
            taking.stdout.close()
    assert report.counts() == {"partition (kernel)": 1, "slow-link (kernel)": 1}
    assert told["partition"] == "silence"
    assert 0.3 < float(told["slow-link"]) < 5.0


def test_the_laboratory_gives_a_process_less_of_a_processor() -> None:
    """The kernel's form of a slow processor."""
    need("cpu quota")
    with subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            taken: list[tuple[float, float]] = []

            def until() -> bool:
                if lab.report.done:
                    taken.append((time.monotonic(), cpu_s(child.pid)))
                return len(taken) > 1 and taken[-1][0] - taken[0][0] > 0.6

            with FaultLab({"a": Target(pid=lambda: child.pid)}, quotas=True) as lab:
                report = lab.run(FaultPlan(faults=(Fault(0.0, "slow-cpu", "a", 30.0, 0.1),)), until)
            assert report.counts() == {"slow-cpu (kernel)": 1}
            assert (taken[-1][1] - taken[0][1]) / (taken[-1][0] - taken[0][0]) < 0.35
        finally:
            child.kill()


def test_the_laboratory_fills_a_small_disk(tmp_path) -> None:
    """The kernel's form of a full disk."""
    need("small disk")
    full: list[bool] = []
    with SmallDisk(tmp_path / "disk", 1 << 20) as disk:

        def until() -> bool:
            if lab.report.done:
                try:
                    (disk.folder / "file").write_bytes(b"x" * 10_000)
                except OSError:
                    full.append(True)
            return bool(full)

        with FaultLab({"a": Target(pid=os.getpid, disk=disk)}) as lab:
            report = lab.run(FaultPlan(faults=(Fault(0.0, "disk-full", "a", 30.0),)), until)
        assert report.counts() == {"disk-full (kernel)": 1}
        (disk.folder / "file").write_bytes(b"x" * 10_000)


def test_a_network_that_is_interrupted_while_it_is_built_leaves_nothing(monkeypatch) -> None:
    closed = []
    network = Network(["a"])
    monkeypatch.setattr(network, "_build", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(network, "close", lambda: closed.append(True))
    with pytest.raises(KeyboardInterrupt), network:
        pass
    assert closed == [True]


def test_what_the_machine_does_not_allow_is_a_clear_error(tmp_path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may do it")
    with pytest.raises(ClusterError):
        SmallDisk(tmp_path / "disk", 1 << 20)
