"""Our side: an elastic run with a head, table servers and workers, one process of which is killed or frozen."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from headrace.elastic import ElasticConfig, run_elastic
from headrace.errors import WorkerLost
from headrace.runtime import LocalLauncher, Pattern
from recovery_contenders.stalls import Blow, Stall, longest_gap
from recovery_contenders.torchft_peer import Shape

SERVERS = 2
PATIENCE_S = 120.0
Line = dict[str, Any]


def run(shape: Shape, blows: Sequence[Blow], folder: Path) -> list[Stall]:
    """Train, strike processes one after another, and return how long nothing was committed after each blow.

    Every blow waits until all workers, those that were struck before too, have taken some steps together.

    Args:
        shape: What is trained, and the heartbeats.
        blows: What is done, and to whom: the last `worker`, the last `server` or the `head`.
        folder: Of the run.
    """
    config = ElasticConfig(
        recipe="recovery_contenders.model:stream", arguments={"width": shape.width}, folder=folder, servers=SERVERS,
        workers=shape.workers, batch_rows=shape.workers * shape.rows, shard_rows=1024, checkpoint_every=25,
        heartbeat_s=shape.beat_s, silence_s=shape.silence_s, publish=False,
        pattern=Pattern(worker_step_s=shape.compute_s),
    )  # fmt: skip
    path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), *(entry for entry in sys.path if entry)])
    ended, moments, problems = threading.Event(), list[float](), list[Exception]()
    with LocalLauncher(folder / "logs", environment={"PYTHONPATH": path}) as launcher:

        def watch() -> None:
            try:
                for blow in blows:
                    moments.append(_strike(launcher, shape, blow, folder))
            except WorkerLost as error:
                problems.append(error)
            finally:
                ended.set()

        watching = threading.Thread(target=watch)
        watching.start()
        run_elastic(config, launcher=launcher, stop=ended.is_set)
        ended.set()
        watching.join()
    if problems:
        raise problems[0]
    lines = steps(folder)
    return [stall_of(lines, moment, blow.steps_after) for blow, moment in zip(blows, moments, strict=True)]


def _strike(launcher: LocalLauncher, shape: Shape, blow: Blow, folder: Path) -> float:
    """Strike once all have learned together for a while, wait until steps go on, and return the moment."""
    name = {"worker": f"worker-{shape.workers - 1}", "server": f"server-{SERVERS - 1}", "head": "head-0"}[blow.role]

    def together() -> bool:
        newest = steps(folder)[-blow.after_steps :]
        return len(newest) == blow.after_steps and all(len(line["workers"]) == shape.workers for line in newest)

    _until(together)
    moment = time.monotonic()
    if not launcher.signal(name, signal.SIGKILL if blow.kind == "kill" else signal.SIGSTOP):
        raise WorkerLost(name, got="no process", expected="one to strike")
    after = moment + (0.3 if blow.kind == "freeze" else 0.05)
    _until(lambda: sum(line["monotonic"] > after for line in steps(folder)) >= blow.steps_after)
    launcher.signal(name, signal.SIGCONT)
    return moment


def steps(folder: Path) -> list[Line]:
    """Return the lines of the committed steps so far."""
    path = folder / "steps.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def stall_of(lines: Sequence[Line], struck: float, steps_after: int) -> Stall:
    """Return the longest time between two committed steps after a blow, and how many steps were taken again.

    Again: one if an epoch ended in it, and all that were rolled back.

    Example:
        >>> told = [(1, 1, 0.1), (2, 1, 0.2), (3, 1, 0.3), (2, 3, 1.5), (3, 3, 1.6), (4, 3, 1.7)]
        >>> stall_of([dict(step=step, epoch=epoch, monotonic=at) for step, epoch, at in told], 0.35, 20)
        Stall(seconds=1.2, redone=3, struck=0.35)
    """
    first = next((place for place, line in enumerate(lines) if line["monotonic"] > struck), len(lines))
    window = lines[max(first - 1, 0) : first + steps_after]
    newest, again = window[0]["step"], 0
    for line in window[1:]:
        again += line["step"] <= newest
    broken = any(later["epoch"] != sooner["epoch"] for sooner, later in pairwise(window))
    return Stall(longest_gap([[line["monotonic"] for line in window]], struck), int(broken) + again, struck)


def _until(ready) -> None:  # noqa: ANN001
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        if time.monotonic() > deadline:
            raise WorkerLost("Elastic run", got=f"no step for {PATIENCE_S:.0f} s", expected="steps")
        time.sleep(0.02)
