"""Random faults over all roles of an elastic run; the ledger inside the model says what was learned."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.elastic import ElasticConfig, run_elastic
from headrace.runtime import LocalLauncher, Pattern, RestartConfig
from headrace.testing.faults import Audit, Fault, FaultLab, FaultPlan, LabReport, ProxiedLauncher, audit
from headrace.types import Report

HERE = Path(__file__).resolve().parent
POISON = (17, 4000)
SILENCE_S = 1.0
KINDS = {"kill": 2.0, "freeze": 2.0, "partition": 2.0, "slow-link": 1.0, "disk-full": 1.0}
OFTEN = RestartConfig(give_up_after=40, free_per_minute=100)
ROLES = ["head-0", "server-0", "server-1", "worker-0", "worker-1", "worker-2", "worker-3"]


@dataclass
class Chaos:
    """What came of a run: its audit, what was done to it, how many steps it took, and who was taken for dead."""

    audit: Audit
    faults: LabReport
    steps: int
    silent: set[str]


@pytest.fixture(autouse=True)
def _recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))


def chaos(
    folder: Path, plan: FaultPlan, *, rows: int, mode: str = "sync", roles: Sequence[str] = ROLES, step_s: float = 0.02
) -> Chaos:
    """Learn every row once while the plan is carried out."""
    count = Counter(role.split("-")[0] for role in roles)
    config = ElasticConfig(
        recipe="elastic_recipe:planted", arguments={"rows": rows, "poison": POISON}, folder=folder, mode=mode,
        workers=count["worker"], servers=count["server"], shard_rows=512, heartbeat_s=0.1, silence_s=SILENCE_S,
        checkpoint_every=20, publish=False, pattern=Pattern(worker_step_s=step_s),
    )  # fmt: skip
    path = os.pathsep.join([str(HERE), *(entry for entry in sys.path if entry)])
    ended, done, silent = threading.Event(), list[LabReport](), set[str]()

    def on_status(status: Mapping[str, Any]) -> None:
        silent.update(event["worker"] for event in status["events"] if event["reason"].startswith("silent"))

    plan.write(folder.parent / f"{folder.name}-plan.json")
    with ProxiedLauncher(LocalLauncher(folder / "logs", environment={"PYTHONPATH": path})) as launcher:

        def strike() -> None:
            while len(steps(folder)) < 5 and not ended.wait(0.05):
                pass
            with FaultLab({name: launcher.target(name) for name in roles}) as lab:
                done.append(lab.run(plan, until=ended.is_set))

        striking = threading.Thread(target=strike)
        striking.start()
        try:
            report = run_elastic(config, launcher=launcher, restarts=OFTEN, on_status=on_status)
        finally:
            ended.set()
            striking.join()
    assert not launcher.running()
    return Chaos(audited(report, rows), done[0], int(report.figures["steps"].value), silent)


def steps(folder: Path) -> list[str]:
    path = folder / "steps.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def audited(report: Report, rows: int) -> Audit:
    """Return what the ledger in the tables says, and the queue's list."""
    counts, found = np.ones(rows, dtype=np.int64), report.settings["audit"]
    for example, apart in found["wrong"]:
        counts[example] += apart
    assert found["learned"] == counts.sum()
    listed = {row["row"]: row["error"] for row in report.settings["status"]["quarantined"]}
    return audit(counts, quarantined=listed, others=range(rows, rows + found["unknown"]))


def check(found: Chaos) -> None:
    told = f"{found.audit.text()}\n{found.faults.text()}"
    assert found.audit.clean, told
    assert set(found.audit.quarantined) == set(POISON), told
    assert all("nan" in reason for reason in found.audit.quarantined.values()), told


def test_a_fault_of_each_kind_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """The short form: three workers, every kind of fault, and two of them long enough to be taken for dead."""
    long_s = 2.5 * SILENCE_S
    plan = FaultPlan(faults=(
        Fault(0.1, "freeze", "worker-0", 0.3), Fault(0.3, "partition", "server-0", 0.3),
        Fault(0.6, "slow-link", "worker-1", 0.5, 50_000.0), Fault(0.9, "disk-full", "head-0", 0.3),
        Fault(1.3, "freeze", "worker-0", long_s), Fault(1.4 + long_s, "partition", "worker-1", long_s),
        Fault(1.5 + 2 * long_s, "kill", "worker-2"), Fault(1.8 + 2 * long_s, "kill", "head-0"),
    ))  # fmt: skip
    roles = ["head-0", "server-0", "worker-0", "worker-1", "worker-2"]
    found = chaos(tmp_path / "run", plan, rows=8000, roles=roles, step_s=0.05)
    check(found)
    assert found.faults.count() == len(plan.faults), found.faults.text()
    assert found.silent >= {"worker-0", "worker-1"}  # each was fenced, and came back as new


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_two_hundred_faults_lose_and_double_nothing(tmp_path: Path, mode: str) -> None:
    """As many runs as it takes; each has a plan of its own and is audited by itself."""
    done, seed, roles, kinds = 0, 0, Counter[str](), Counter[str]()
    while done < 200:
        plan = FaultPlan.draw(seed, ROLES, 70, kinds=KINDS, every_s=(0.3, 1.5), length_s=(0.1, 1.2))
        found = chaos(tmp_path / f"run-{seed}", plan, rows=40_000, mode=mode)
        check(found)
        struck = [one.fault for one in found.faults.done if one.form != "not done"]
        done, seed = done + len(struck), seed + 1
        roles.update(fault.name for fault in struck)
        kinds.update(fault.kind for fault in struck)
    assert set(roles) == set(ROLES)
    assert set(kinds) == set(KINDS)
