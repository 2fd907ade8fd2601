"""A slow table server gives buckets away while training goes on, and what is learned stays the same."""

from __future__ import annotations

import time

import torch

from headrace.runtime.actions import MoveBuckets
from headrace.runtime.controller import read_decisions
from headrace.runtime.solutions import solution_json
from headrace.runtime.solutions_nd import AntDtNd

from .cluster import cluster


def test_a_slow_server_gives_buckets_away_and_nothing_else_changes(tmp_path) -> None:
    found = []
    for name, slow in (("plain", False), ("relieved", True)):
        folder = tmp_path / name
        settings = {"solution": solution_json(AntDtNd())} if slow else {}
        with cluster(folder, workers=2, servers=2, arguments={"rows": 2000}, silence_s=30.0, **settings) as run:
            if slow:
                for number, (_, server) in run.servers.items():
                    factor = 6.0 if number else 1.0
                    server.delay = lambda rows, factor=factor: rows * 2e-4 * factor
            run.start("worker-0", "worker-1")
            run.wait()
            if slow:
                until = time.monotonic() + 20
                while not run.head.controller.shares and time.monotonic() < until:
                    time.sleep(0.05)  # the last move may still be under way
                shares, version = dict(run.head.controller.shares), run.head.servers.record.map.version
            found.append(run.weights())
    moves = [line for line in read_decisions(tmp_path / "relieved" / "decisions.jsonl")
             if line["order"]["action"] == MoveBuckets.__name__]  # fmt: skip
    assert moves, "the slow server was not noticed"
    assert shares["server-0"] > 0.7
    assert version > 1
    plain, relieved = found
    assert plain.keys() == relieved.keys()
    for name, value in plain.items():
        torch.testing.assert_close(relieved[name], value, rtol=1e-3, atol=1e-4)
