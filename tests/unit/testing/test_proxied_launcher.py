from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

import pytest

from headrace.runtime import LocalLauncher, RoleCommand
from headrace.testing.faults import Fault, FaultLab, FaultPlan, ProxiedLauncher

ECHO = """
import os, socket
server = socket.create_server(("127.0.0.1", 0))
os.write(int(os.environ["HEADRACE_ANNOUNCE_FD"]), f"127.0.0.1:{server.getsockname()[1]}\\n".encode())
while True:
    link, _ = server.accept()
    with link:
        link.sendall(str(os.getpid()).encode())
"""
ASK = """
import socket, sys
host, port = sys.argv[1].split(":")
with socket.create_connection((host, int(port)), timeout=20) as link:
    print("heard", link.recv(20).decode(), sys.argv[1], flush=True)
import time; time.sleep(60)
"""


def command(name: str, code: str, *words: str) -> RoleCommand:
    return RoleCommand(name=name, role=name.split("-")[0], words=(sys.executable, "-c", code, *words))


def ask(address: str, timeout: float = 20.0) -> str:
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=timeout) as link:
        return link.recv(20).decode()


def test_processes_reach_each_other_through_proxies_and_find_a_restarted_one_again(tmp_path: Path) -> None:
    with ProxiedLauncher(LocalLauncher(tmp_path)) as launcher:
        launcher.start(command("server-0", ECHO))
        address = launcher.address("server-0")
        assert address != launcher.inner.address("server-0")
        assert ask(address) == str(launcher.pid("server-0"))

        launcher.start(command("worker-0", ASK, address))
        deadline = time.monotonic() + 20
        while "heard" not in (said := launcher.tail("worker-0")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert address not in said  # a proxy of its own
        assert launcher.target("worker-0").uplinks[0].accepted == 1

        assert set(launcher.targets()) == {"server-0", "worker-0"}
        with FaultLab(launcher.targets()) as lab:
            lab.run(FaultPlan(faults=(Fault(0.0, "kill", "server-0"),)))
        assert [end.name for end in launcher.exits(10.0)] == ["server-0"]
        launcher.start(command("server-0", ECHO))
        while True:
            try:
                heard = ask(address)
            except ConnectionError:
                heard = ""
            if heard:
                break
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert heard == str(launcher.pid("server-0"))
        assert launcher.address("server-0") == address


def test_a_partition_cuts_off_one_process_alone(tmp_path: Path) -> None:
    with ProxiedLauncher(LocalLauncher(tmp_path)) as launcher:
        launcher.start(command("server-0", ECHO))
        address = launcher.address("server-0")
        launcher.start(command("worker-0", ASK, address))
        target = launcher.target("worker-0")
        target.uplinks[0].partition()
        with pytest.raises(TimeoutError):
            ask(f"127.0.0.1:{target.uplinks[0].address[1]}", 0.2)
        assert ask(address) == str(launcher.pid("server-0"))
