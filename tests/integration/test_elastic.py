"""An elastic run on real processes: a worker is killed, another frozen; nothing is lost or learned otherwise."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from headrace.elastic import ElasticConfig, run_elastic
from headrace.elastic.run_local import steps_of
from headrace.runtime import LocalLauncher, Pattern

ROWS = 6000


def config(folder: Path, **settings) -> ElasticConfig:
    """Return a run of toy data."""
    arguments = {"rows": ROWS, "epochs": 2}
    given = {"recipe": "headrace.elastic.toy:toy", "arguments": arguments, "workers": 2, "silence_s": 2.0}
    return ElasticConfig(folder=folder, **given | settings)


def weights(run: ElasticConfig) -> dict[str, np.ndarray]:
    """Return what was published, through a replica as a server has it."""
    from headrace.elastic.job import Job
    from headrace.online.layout import RunFolder
    from headrace.online.offline import newest_predictor

    job = Job(run)
    predictor = newest_predictor(job.served, RunFolder(run.folder))
    batch = next(iter(job.splits.test.batches(500)))
    return {"scores": predictor.model(batch).detach().numpy()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return a run that nothing happened to."""
    run = config(tmp_path_factory.mktemp("undisturbed") / "run")
    return run, run_elastic(run)


def test_a_run_learns_publishes_and_accounts_for_every_example(undisturbed) -> None:
    run, report = undisturbed
    assert report.figures["test_auc"].value > 0.6
    audit = report.settings["audit"]
    assert (audit["examples"], audit["lost"], audit["doubled"], audit["unknown"]) == (ROWS * 8 // 10, 0, 0, 0)
    assert report.figures["steps"].value == 2 * -(-ROWS * 8 // 10 // 64)
    status = json.loads((run.folder / "status" / "cluster.json").read_text())
    assert status["finished"]
    assert status["rows"] == {"committed": ROWS * 16 // 10, "all": ROWS * 16 // 10}


def test_a_killed_and_a_frozen_worker_change_nothing(undisturbed, tmp_path) -> None:
    run = config(tmp_path / "run", pattern=Pattern(worker_step_s=0.1))  # slow enough for the killed one to come back
    ended, frozen = threading.Event(), []
    with LocalLauncher(run.folder / "logs") as launcher:

        def disturb() -> None:
            while len(steps_of(run)) < 10 and not ended.wait(0.01):
                pass
            epoch = steps_of(run)[-1]["epoch"]
            launcher.signal("worker-1", signal.SIGKILL)
            while not ended.wait(0.02):
                if any(line["epoch"] > epoch and len(line["workers"]) == 2 for line in steps_of(run)):
                    frozen.append(launcher.signal("worker-0", signal.SIGSTOP))
                    time.sleep(1.5 * run.silence_s)
                    launcher.signal("worker-0", signal.SIGCONT)
                    return

        thread = threading.Thread(target=disturb, daemon=True)
        thread.start()
        try:
            report = run_elastic(run, launcher=launcher)
        finally:
            ended.set()
            thread.join(10.0)
    assert frozen == [True]
    gone = {event["worker"]: event["reason"] for event in report.settings["status"]["events"]
            if event["kind"] == "left" and event["reason"].startswith("silent")}  # fmt: skip
    assert gone == {"worker-0": "silent for more than 2 s"}  # the other one went on without it
    steps = [line["step"] for line in steps_of(run)]
    assert steps == list(range(1, len(steps) + 1))  # no step was lost or taken twice
    audit = report.settings["audit"]
    assert (audit["lost"], audit["doubled"], audit["unknown"]) == (0, 0, 0)
    assert report.figures["restarts"].value >= 1
    np.testing.assert_allclose(weights(run)["scores"], weights(undisturbed[0])["scores"], rtol=2e-3, atol=2e-4)
