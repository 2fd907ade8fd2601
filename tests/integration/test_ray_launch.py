"""Roles through a real Ray: the same life as on one machine, and what happens when a node or the run is gone."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headrace.errors import ClusterError, ConfigError, WorkerLost
from headrace.protocols import Placement
from headrace.runtime import Crew, Launcher, RayLauncher, RestartConfig, RoleCommand
from headrace.runtime.clusters import open_launcher
from headrace.runtime.ray_connection import set_for_ray, settings_of_ray
from headrace.runtime.ray_launch import LOST

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
ROLE = """
import os, sys, time
from headrace.runtime import announce, launched
me = launched()
print("secret", os.environ["HEADRACE_SECRET"][::-1], "threads", os.environ["OMP_NUM_THREADS"], flush=True)
announce(f"{me.host}:{1000 + me.generation}")
time.sleep(600)
"""
ORPHANS = """
import sys, time
from pathlib import Path
from headrace.runtime import RayLauncher, RoleCommand
launcher = RayLauncher(Path(sys.argv[1]), "local")
words = (sys.executable, "-c", sys.argv[2])
launcher.start(RoleCommand(name="child", role="worker", words=words, environment={"HEADRACE_SECRET": "x"}))
launcher.address("child")
print(launcher.pid("child"), flush=True)
time.sleep(600)
"""


def role(name: str, kind: str = "worker", **environment: str) -> RoleCommand:
    words = (sys.executable, "-c", ROLE)
    return RoleCommand(name=name, role=kind, words=words, environment={"HEADRACE_SECRET": "terces", **environment})


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(true, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@needs_ray
def test_a_crew_lives_on_ray_as_it_does_here(tmp_path) -> None:
    home = Path.home() / ".ray" / "auth_token"
    token = home.stat().st_mtime if home.exists() else None
    with open_launcher("ray", tmp_path / "logs") as launcher:
        assert isinstance(launcher, RayLauncher)
        assert isinstance(launcher, Launcher)
        crew = Crew(launcher, lambda kind, index: role(f"{kind}-{index}", kind), {"worker": 2}, RestartConfig())
        crew.start()
        assert [launcher.address(name) for name in crew.names()] == ["127.0.0.1:1000"] * 2
        assert launcher.tail("worker-1") == "secret secret threads 1"
        first = launcher.pid("worker-0")
        assert first is not None
        assert alive(first)
        killed = time.monotonic()
        assert launcher.signal("worker-0", signal.SIGKILL)
        ends = crew.poll(10.0)
        assert [(end.name, end.code) for end in ends] == [("worker-0", -signal.SIGKILL)]
        assert ends[0].time - killed < 10.0
        assert launcher.address("worker-0") == "127.0.0.1:1001"  # the crew has started it again
        second = launcher.pid("worker-0")
        crew.remove(["worker-1"])
        assert launcher.running() == ["worker-0"]
        launcher.start(RoleCommand(name="wrong", role="worker", words=(sys.executable, "-c", "raise SystemExit('no')")))
        with pytest.raises(WorkerLost, match=r"its end(.|\n)*no"):
            launcher.address("wrong")
        with pytest.raises(ConfigError, match="No such file"):
            launcher.start(RoleCommand(name="absent", role="worker", words=("/no/such/program",)))
    assert second is not None
    wait_until(lambda: not alive(second), 5.0)
    assert (home.stat().st_mtime if home.exists() else None) == token  # nothing was written into the user's home


@needs_ray
@pytest.mark.slow
def test_everything_ends_with_the_one_who_started_it(tmp_path) -> None:
    run = subprocess.Popen([sys.executable, "-c", ORPHANS, str(tmp_path), ROLE], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    child = int(run.stdout.readline())
    assert alive(child)
    run.kill()
    run.wait()
    run.stdout.close()
    wait_until(lambda: not alive(child), 30.0)


@needs_ray
@pytest.mark.slow
def test_a_lost_node_is_told_and_its_role_starts_elsewhere(tmp_path) -> None:
    from ray.cluster_utils import Cluster

    with set_for_ray(settings_of_ray()):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            lost = cluster.add_node(num_cpus=1, resources={"here": 1})
            cluster.wait_for_nodes()
            placement = Placement(devices={"worker": "cpu:1, here:1"})
            with RayLauncher(tmp_path, cluster.address, placement) as launcher:
                launcher.start(role("worker-0"))
                child = launcher.pid("worker-0")
                assert child is not None
                cluster.add_node(num_cpus=1, resources={"here": 1})
                began = time.monotonic()
                cluster.remove_node(lost, allow_graceful=False)
                end = launcher.exits(60.0)[0]
                assert (end.name, end.code) == ("worker-0", LOST)
                assert time.monotonic() - began < 20.0
                wait_until(lambda: not alive(child), 10.0)
                launcher.start(role("worker-0"))
                assert launcher.address("worker-0").endswith(":1000")
        finally:
            cluster.shutdown()


@needs_ray
def test_a_cluster_that_is_not_there_is_an_error(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{_closed_port()}")
    with pytest.raises(ClusterError, match="a cluster that answers"):
        open_launcher("auto", tmp_path)


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_without_a_cluster_auto_means_here(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with open_launcher("auto", tmp_path) as launcher:
        assert not isinstance(launcher, RayLauncher)
    assert "this machine alone" in caplog.text
    with pytest.raises(ConfigError, match="host:port"):
        open_launcher("automatic", tmp_path)
    assert os.environ.get("RAY_AUTH_TOKEN") is None
