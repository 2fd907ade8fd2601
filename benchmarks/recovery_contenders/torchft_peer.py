"""torchft as the peer: a lighthouse and replicas, one of which is killed or frozen while they train."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recovery_contenders.stalls import Blow, Stall, longest_gap

HERE = Path(__file__).resolve().parent
PYTHON = os.environ.get(
    "ELASTIC_PEER_PYTHON", str(HERE.parents[1] / "build" / "peers-elastic" / "env" / "bin" / "python")
)


class PeerFailed(Exception):
    """The peer could not be run; the text says why."""


def available() -> str | None:
    """Return why the peer cannot run, or None."""
    if not Path(PYTHON).exists():
        return "torchft is not installed (scripts/peers_elastic.sh)"
    done = subprocess.run([PYTHON, "-c", "import torchft"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"torchft cannot be imported: {done.stderr.strip().splitlines()[-1]}"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is trained and how death is noticed; the same for both.

    Attributes:
        workers: Processes that train.
        rows: Of one worker's part of a step.
        inputs: Numbers that go into the network.
        width: Of its two hidden layers.
        compute_s: What a step's computation takes beside (a sleep, so that four workers fit on two cores).
        beat_s: Between two heartbeats.
        silence_s: Without a heartbeat for so long, a process counts as dead; collectives time out after as long.
        tick_ms: How often torchft's lighthouse looks (its default).
        join_timeout_ms: torchft's default.
    """

    workers: int = 4
    rows: int = 64
    inputs: int = 64
    width: int = 64
    compute_s: float = 0.01
    beat_s: float = 0.1
    silence_s: float = 5.0
    tick_ms: int = 100
    join_timeout_ms: int = 60_000

    def json(self) -> str:
        """Return the settings as the replica reads them."""
        return json.dumps(self.__dict__)


def run(shape: Shape, blow: Blow, folder: Path) -> Stall:
    """Train with torchft, strike one replica after some steps, and return how long nothing was committed.

    Raises:
        PeerFailed: If it does not come into motion, before or after.
    """
    folder.mkdir(parents=True, exist_ok=True)
    variables = {**os.environ, "RECOVERY_SETTINGS": shape.json(), "OMP_NUM_THREADS": "1", "RUST_LOG": "off"}
    variables.pop("PYTHONPATH", None)
    script, processes = str(HERE / "torchft_replica.py"), list[subprocess.Popen[bytes]]()
    house = subprocess.Popen(
        [PYTHON, script, "lighthouse"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=variables, text=True
    )
    try:
        assert house.stdout is not None
        where = house.stdout.readline().strip()
        if not where:
            raise PeerFailed("the lighthouse did not start")
        for index in range(shape.workers):
            with (folder / f"replica-{index}.log").open("wb") as log:
                processes.append(subprocess.Popen(
                    [PYTHON, script, str(index), where, str(folder)], stdout=log, stderr=log, env=variables,
                ))  # fmt: skip
        _until(lambda: _steps(folder, shape.workers, at_least=blow.after_steps, all_of=shape.workers), 120.0)
        victim, struck = processes[-1], time.monotonic()
        victim.send_signal(signal.SIGKILL if blow.kind == "kill" else signal.SIGSTOP)
        survivors = range(shape.workers - 1)
        _until(
            lambda: all(_after(folder, index, struck + shape.silence_s / 5) >= blow.steps_after for index in survivors),
            60.0 + 4 * shape.silence_s,
        )
        (folder / "stop").touch()
        times = [_committed(folder, index) for index in survivors]
        again = max(redone(_lines(folder, index), struck) for index in survivors)
        return Stall(longest_gap(times, struck), again, struck)
    finally:
        for process in [*processes, house]:
            process.kill()
            process.wait()
        if house.stdout is not None:
            house.stdout.close()


def redone(lines: Sequence[Sequence[float]], struck: float) -> int:
    """Return how many steps of a replica were not committed after a blow; those that fail while all start are others.

    Example:
        >>> redone([[0, 0, 0.0, 0.1, 2], [0, 1, 0.1, 0.2, 4], [1, 0, 0.2, 1.4, 3], [1, 1, 1.4, 1.5, 3]], struck=0.3)
        1
    """
    return sum(line[1] == 0 and line[3] > struck for line in lines)


def _lines(folder: Path, index: int) -> list[list[float]]:
    path = folder / f"replica-{index}.steps"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [[float(word) for word in line.split()] for line in text.splitlines() if len(line.split()) == 5]


def _committed(folder: Path, index: int) -> list[float]:
    return [line[3] for line in _lines(folder, index) if line[1] == 1]


def _after(folder: Path, index: int, moment: float) -> int:
    return sum(line[1] == 1 and line[2] > moment for line in _lines(folder, index))


def _steps(folder: Path, workers: int, *, at_least: int, all_of: int) -> bool:
    """Whether all train together and have done so for some steps."""
    return all(sum(line[4] == all_of for line in _lines(folder, index)) >= at_least for index in range(workers))


def _until(ready, patience_s: float) -> None:  # noqa: ANN001
    deadline = time.monotonic() + patience_s
    while not ready():
        if time.monotonic() > deadline:
            raise PeerFailed(f"nothing moved for {patience_s:.0f} s")
        time.sleep(0.05)
