"""The four processes of a production run, each a function that returns when its stream has ended or `stop` says so.

Every hand-over is a log in the run's folder, so each of them may be killed at any instant and started again:

    server ──events.db──► joiner ──examples.db──► learner ──staged.db──► publisher ──changes.db──► replicas in servers
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from headrace.data import Collator, EmbeddedLog, EventJoin, LogSource
from headrace.data.join_log import join_log
from headrace.learn import ManifestCheckpoint
from headrace.loop import EveryExamples, Loop, Progress, fit
from headrace.online.baselines import Metrics
from headrace.online.build import keep_preparation, open_learner
from headrace.online.config import OnlineConfig
from headrace.online.layout import CHANGES, EVENTS, EXAMPLES, STAGED, RunFolder
from headrace.online.overlap import pipelined
from headrace.publish import LogPublisher, StagingPublisher, relay
from headrace.types import Report, Version

Stop = Callable[[], bool]
STATUS_EVERY_S = 0.25


class StatusWriter:
    """Writes a role's status file at most every `STATUS_EVERY_S` seconds; the last call with `final` always writes."""

    def __init__(self, folder: RunFolder, role: str) -> None:
        self.folder, self.role, self._next = folder, role, 0.0

    def write(self, values: Callable[[], dict[str, object]], *, final: bool = False) -> None:
        """Write if it is time; `values` is only called then."""
        now = time.monotonic()
        if final or now >= self._next:
            self._next = now + STATUS_EVERY_S
            self.folder.write_status(self.role, values() | {"final": final})


def open_log(config: OnlineConfig, folder: RunFolder, name: str) -> EmbeddedLog:
    """Open one of the run's logs."""
    folder.root.mkdir(parents=True, exist_ok=True)
    return EmbeddedLog(folder.log(name), durability=config.durability)


def run_joiner(config: OnlineConfig, folder: RunFolder, stop: Stop) -> None:
    """Join events to examples until the event topic is closed and drained; closes the example topic then."""
    status = StatusWriter(folder, "joiner")
    events, examples = open_log(config, folder, EVENTS), open_log(config, folder, EXAMPLES)
    join = EventJoin(config.join)

    def progress(*_: Any) -> None:
        status.write(lambda: _slots(join.stats()))

    join_log(events, EVENTS, examples, EXAMPLES, join, stop=stop, on_progress=progress)
    status.write(lambda: _slots(join.stats()), final=True)


def _slots(value: object) -> dict[str, object]:
    names = getattr(type(value), "__dataclass_fields__", {})
    return {name: getattr(value, name) for name in names}


def run_learner(config: OnlineConfig, folder: RunFolder, stop: Stop) -> Report:
    """Learn the example log and stage versions; the last one when the example topic is closed and drained."""
    torch.set_num_threads(1)  # one reduction order: replays are bit-equal whatever the machine is doing
    status = StatusWriter(folder, "learner")
    examples, staged = open_log(config, folder, EXAMPLES), open_log(config, folder, STAGED)
    keep_preparation(config, folder)
    learner, metrics = open_learner(config), Metrics(config)

    def values(progress: Progress) -> dict[str, object]:
        tables = {name: _slots(table.stats()) for name, table in learner.collection.tables.items()}  # type: ignore[attr-defined]
        return {"examples": progress.examples, "steps": progress.steps, "loss": progress.loss,
                "version": progress.version.number, "tables": tables, "metrics": metrics.compute(),
                "stages": learner.times.totals()}  # fmt: skip

    last = Progress()

    def on_step(progress: Progress) -> None:
        nonlocal last
        last = progress
        status.write(lambda: values(progress))

    loop = Loop(
        source=LogSource(examples, EXAMPLES), learner=learner,
        joiner=Collator(config.schema, config.batch_rows, config.preparation),
        publisher=StagingPublisher(staged), metric=metrics, cadence=EveryExamples(config.publish_every),
        checkpoint=ManifestCheckpoint(folder.checkpoint), batch_rows=config.batch_rows,
        read_rows=4 * config.batch_rows, checkpoint_every=config.checkpoint_every, on_step=on_step, stop=stop,
    )  # fmt: skip
    with pipelined(loop, config.pipeline, learner.times, made=learner.collection.fetch_ahead):
        report = fit(loop)
    # the report counts what earlier processes of this run learned too; this one may have found nothing left to learn
    last.examples, last.steps = (int(report.figures[name].value) for name in ("examples", "steps"))
    last.version = Version(int(report.figures["version"].value))
    if "the stream ended" in report.notes:
        staged.close_topic(STAGED)
    status.write(lambda: values(last) | {"histories": metrics.histories()}, final=True)
    return report


def run_publisher(config: OnlineConfig, folder: RunFolder, stop: Stop) -> None:
    """Make staged versions durable, numbered and compacted, until the staged topic is closed and drained."""
    status = StatusWriter(folder, "publisher")
    staged, changes = open_log(config, folder, STAGED), open_log(config, folder, CHANGES)
    publisher = LogPublisher(changes, snapshots=folder.snapshots, snapshot_every=config.snapshot_every)

    def progress(*_: Any) -> None:
        status.write(lambda: {"version": publisher.last().number})

    relay(staged, publisher, stop=stop, on_progress=progress)
    status.write(lambda: {"version": publisher.last().number}, final=True)
