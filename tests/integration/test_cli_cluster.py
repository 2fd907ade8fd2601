"""A ranker learned by several processes from the command line, looked at while it runs, and served afterwards."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headrace.cli.inspect_cluster import from_folder

pytestmark = pytest.mark.timeout(400)  # five processes import torch, on whatever cores there are
START = [sys.executable, "-m", "headrace"]
RECIPE = ["headrace.elastic.demo:clicks", "rows=3000", "batch_rows=128"]


def learn(folder: Path, cluster: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*START, "run", *RECIPE, "--cluster", cluster, "--folder", str(folder), "--json", *words],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip


def check(run: subprocess.Popen[str], folder: Path) -> None:
    said, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors[-2000:] + "".join(
        f"\n{log.name}: {log.read_text()[-1000:]}" for log in (folder / "logs").glob("*.log")
    )
    figures = json.loads(said)["figures"]
    assert figures["steps"]["value"] == 19  # 2400 rows in steps of 128
    status = from_folder(folder)
    assert status["finished"] is True
    assert status["rows"] == {"committed": 2400, "all": 2400}
    assert status["shards"]["quarantined"] == status["shards"]["todo"] == 0


def test_a_ranker_is_learned_by_two_workers_and_a_table_server(tmp_path) -> None:
    folder = tmp_path / "run"
    run = learn(folder, "local", "--workers", "2", "--servers", "1", "--solution", "AntDtNd")
    seen = set()
    while run.poll() is None and not seen >= {"worker-0", "worker-1"}:
        if (folder / "status" / "cluster.json").exists():
            seen |= {one["name"] for one in from_folder(folder)["workers"]}
        time.sleep(0.05)
    check(run, folder)
    assert (folder / "secret").stat().st_mode & 0o077 == 0
    secret = (folder / "secret").read_text().strip()
    assert all(secret not in log.read_text() for log in (folder / "logs").glob("*.log"))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_the_same_through_ray(tmp_path) -> None:
    check(learn(tmp_path / "run", "ray", "--workers", "2", "--servers", "1"), tmp_path / "run")
