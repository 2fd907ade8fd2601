"""The end of a run: one worker reads the tables, judges and publishes the result, and audits what was learned."""

from __future__ import annotations

from typing import Any

import torch

from headrace.learn.dense import dense_tensors
from headrace.learn.ledger import LEDGER
from headrace.online.build import keep_preparation, open_serving
from headrace.online.layout import CHANGES, RunFolder
from headrace.online.logs import open_log
from headrace.publish import LogPublisher, Sluice
from headrace.ranking.judge import judge
from headrace.types import Change, Report, Version


def finish(worker: Any) -> None:
    """Make the result if the head chooses this worker to, and wait until it is made otherwise."""
    if not worker.call("farewell", {"worker": worker.name, "step": worker.taken}).fields["leader"]:
        return
    change, report = learned(worker), Report()
    serving = open_serving(worker.job.served)
    serving.replica.apply(change)
    source = f"after {worker.taken} steps"
    with serving.replica.reading() if hasattr(serving.replica, "reading") else torch.no_grad():
        model = serving.predictor.model
        judge(model, worker.job.splits.valid).report(report, "valid", source)
        judge(model, worker.job.splits.test).report(report, "test", source)
    audit = audited(worker)
    if worker.config.publish:
        _publish(worker, change)
    figures = {name: figure.value for name, figure in report.figures.items()}
    worker.call("result", {"figures": figures, "audit": audit, "steps": worker.taken})


def learned(worker: Any) -> Change:
    """Return all that was learned, as version 0."""
    tables = {name: worker.remote.tables[name].rows() for name in worker.remote.tables if name != LEDGER}
    spec = dict(worker.learner.spec)
    rows = torch.tensor([worker.rows_all])
    return Change(version=Version(0), tables=tables, dense=dense_tensors(worker.learner.model),
                  notes={"example_offset": rows}, spec=spec, full=True)  # fmt: skip


def audited(worker: Any) -> dict[str, Any]:
    """Return how many examples were learned how often, by the ledger in the tables."""
    if LEDGER not in worker.remote.tables:
        return {}
    found = worker.remote.tables[LEDGER].rows()
    times = dict(zip(found.ids.tolist(), found.rows.squeeze(1).to(torch.int64).tolist(), strict=True))
    epochs, expected = worker.job.fit.epochs, dict[int, int]()
    for batch in worker.job.splits.train.batches(1 << 16):
        for example in batch.example_ids.tolist():
            expected[example] = expected.get(example, 0) + epochs
    wrong = {example: times.get(example, 0) - count for example, count in expected.items()
             if times.get(example, 0) != count}  # fmt: skip
    return {
        "examples": len(expected), "learned": sum(times.values()), "expected": sum(expected.values()),
        "lost": -sum(apart for apart in wrong.values() if apart < 0),
        "doubled": sum(apart for apart in wrong.values() if apart > 0),
        "unknown": len(times.keys() - expected.keys()), "wrong": sorted(wrong.items())[:1000],
    }  # fmt: skip


def _publish(worker: Any, change: Change) -> None:
    """Publish the result in the run's folder, as a fit does."""
    folder, served = RunFolder(worker.config.folder), worker.job.served
    keep_preparation(served, folder)
    with open_log(served, folder, CHANGES) as log:
        publisher = LogPublisher(log, snapshots=folder.snapshots, snapshot_every=served.snapshot_every)
        Sluice(publisher).publish(change)
