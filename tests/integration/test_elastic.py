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
from headrace.runtime import LocalLauncher

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
    run = config(tmp_path / "run")
    with LocalLauncher(run.folder / "logs") as launcher:

        def disturb() -> None:
            while len(steps_of(run)) < 10:
                time.sleep(0.005)
            launcher.signal("worker-1", signal.SIGKILL)
            while len(steps_of(run)) < 25:
                time.sleep(0.005)
            launcher.signal("worker-0", signal.SIGSTOP)
            time.sleep(3.0)
            launcher.signal("worker-0", signal.SIGCONT)

        thread = threading.Thread(target=disturb, daemon=True)
        thread.start()
        report = run_elastic(run, launcher=launcher)
        thread.join(1.0)
    steps = [line["step"] for line in steps_of(run)]
    assert steps == list(range(1, len(steps) + 1))  # no step was lost or taken twice
    audit = report.settings["audit"]
    assert (audit["lost"], audit["doubled"], audit["unknown"]) == (0, 0, 0)
    assert report.figures["restarts"].value >= 1
    np.testing.assert_allclose(weights(run)["scores"], weights(undisturbed[0])["scores"], rtol=2e-3, atol=2e-4)
