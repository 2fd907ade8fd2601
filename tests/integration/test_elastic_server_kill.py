"""A table server is killed while it applies steps or writes a copy: the run goes on from the last checkpoint."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from headrace.elastic.buckets import BucketMap
from headrace.elastic.checkpoints import ElasticCheckpoint
from headrace.elastic.directory import BucketDirectory, Directory
from headrace.elastic.remote_tables import RemoteTables
from headrace.elastic.table_server import TableServer
from headrace.elastic.table_wire import ServerClient
from headrace.elastic.transactions import Part, Transaction
from headrace.errors import HeadraceError
from headrace.testing.equivalence import first_difference

SCRIPT = Path(__file__).with_name("elastic_server.py")
_SPEC = importlib.util.spec_from_file_location("elastic_server", SCRIPT)
script = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(script)
ROWS, STEPS = 4000, 30


def part(step: int) -> Part:
    """Return the gradients of a step: a function of its number."""
    draw = np.random.default_rng(step)
    steps = {}
    for config in script.CONFIGS:
        ids = np.unique(draw.integers(0, 10 * ROWS, ROWS))
        ones = np.ones(len(ids), np.int64)
        steps[config.name] = (ids, draw.normal(size=(len(ids), config.dim)).astype(np.float32), ones, ones)
    return Part(steps)


def start(folder: Path) -> tuple[subprocess.Popen, str]:
    process = subprocess.Popen([sys.executable, str(SCRIPT), str(folder)], stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    return process, process.stdout.readline().strip()


def never_killed(steps: int) -> TableServer:
    """Return a server here that has taken so many steps in peace."""
    server = TableServer(0, script.CONFIGS, BucketMap.even([0]))
    for step in range(1, steps + 1):
        server.prepare(Transaction("w", 0, step), step, 0, part(step))
        server.apply(step, [Transaction("w", 0, step)])
    return server


class Run:
    """One worker, one server process, checkpoints every three steps."""

    def __init__(self, folder: Path) -> None:
        self.checkpoint = ElasticCheckpoint(folder)
        self.checkpoint.tables.mkdir(parents=True)
        self.record = BucketDirectory(BucketMap.even([0]))
        self.directory = Directory(self.record.fields, lambda address: ServerClient(address, script.SECRET, retry_s=0))
        self.remote = RemoteTables(script.CONFIGS, self.directory, patience_s=1.0)
        self.went_back: list[int] = []
        self.begin()

    def begin(self) -> int:
        """Start a server and bring it to the newest checkpoint; return its step."""
        self.process, address = start(self.checkpoint.tables)
        self.record.set_server(0, address)
        saved, self.planned = self.checkpoint.newest(), -1
        self.checkpoint.restore_servers(saved, self.directory, self.record, [0])
        return 0 if saved is None else saved.step

    def step(self, step: int) -> None:
        """Take a step; every third is saved, and learning does not wait for that."""
        if step % 3 == 0:
            self.checkpoint.plan(self.directory, step)
            self.planned = step
        self.remote.prepare(Transaction("w", 0, step), part(step))
        self.remote.apply(step, [Transaction("w", 0, step)])
        if step % 3 == 1 and self.planned == step - 1:
            self.checkpoint.finish(self.directory, step - 1, queue={"at": step - 1})

    def to(self, steps: int) -> None:
        """Take all steps, going back to the checkpoint whenever the server dies."""
        step = 0
        while step < steps:
            try:
                self.step(step + 1)
                step += 1
            except HeadraceError:
                self.process.wait(10)
                step = self.back()
                self.went_back.append(step)

    def back(self) -> int:
        """Begin again, also when the new server dies as well."""
        while True:
            try:
                return self.begin()
            except HeadraceError:
                self.process.wait(10)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.remote.close()
        self.directory.close()


def kill_in(run: Run, seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, lambda: os.kill(run.process.pid, signal.SIGKILL))
    timer.start()
    return timer


@pytest.mark.parametrize("place", ["apply", "copy"])
def test_a_killed_server_comes_back_at_the_last_checkpoint(tmp_path, place) -> None:
    run = Run(tmp_path)
    try:
        run.to(4)  # one checkpoint is whole
        if place == "apply":
            for step in range(5, 9):
                run.remote.prepare(Transaction("w", 0, step), part(step))
            timer = kill_in(run, 0.01)
            with pytest.raises(HeadraceError):
                for step in range(5, 9):
                    run.remote.apply(step, [Transaction("w", 0, step)])
                    time.sleep(0.01)
                timer.join()
                run.process.wait(10)
                run.remote.apply(9, [])  # the four may have been faster than the blow
        else:
            run.checkpoint.plan(run.directory, 4)
            os.kill(run.process.pid, signal.SIGKILL)
            with pytest.raises(HeadraceError):
                run.checkpoint.finish(run.directory, 4, queue={})
        run.process.wait(10)
        begun = time.monotonic()
        assert run.begin() == 3
        took = time.monotonic() - begun
        assert run.checkpoint.newest().queue == {"at": 3}
        for step in range(4, 8):
            run.step(step)
        expected = never_killed(7)
        for config in script.CONFIGS:
            assert first_difference(run.remote.rows(config.name), expected.rows(config.name)) is None
        assert took < 60
    finally:
        run.close()


@pytest.mark.slow
def test_kills_at_any_moment_leave_what_was_never_killed(tmp_path) -> None:
    run, draw = Run(tmp_path), np.random.default_rng(0)
    usual = run.step

    def step(number: int) -> None:
        if draw.random() < 0.15:
            kill_in(run, 0.2 * float(draw.random()))
        usual(number)

    run.step = step
    try:
        run.to(STEPS)
        expected = never_killed(STEPS)
        assert run.went_back
        for config in script.CONFIGS:
            assert first_difference(run.remote.rows(config.name), expected.rows(config.name)) is None
    finally:
        run.close()
