"""The four processes of a production run, each a function that returns when its stream has ended or `stop` says so.

Every hand-over is a log in the run's folder, so each of them may be killed at any instant and started again:

    server ──events.db──► joiner ──examples.db──► learner ──staged.db──► publisher ──changes.db──► replicas in servers
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from headrace.data import Collator, EmbeddedLog, EventJoin, LogSource
from headrace.data.join_log import join_log, retained_from
from headrace.learn import ManifestCheckpoint
from headrace.loop import EveryExamples, Loop, Progress, fit
from headrace.online.baselines import Metrics
from headrace.online.build import keep_preparation, open_learner, with_preparation
from headrace.online.changes import acknowledged_in, copied
from headrace.online.config import OnlineConfig
from headrace.online.erase import LearnerErasures, joiner_erasures
from headrace.online.eraser import Eraser, EraserThread
from headrace.online.guarding import examples_of, only_publisher, open_guard
from headrace.online.language_config import RunConfig
from headrace.online.layout import CHANGES, EVENTS, EXAMPLES, STAGED, RunFolder
from headrace.online.logs import open_log
from headrace.online.overlap import pipelined
from headrace.online.trimming import LogTrimmer, TrimmedExamples, keep_for, needed_from
from headrace.publish import LogPublisher, Sluice, StagingPublisher, lags, relay
from headrace.publish.acknowledgements import plain
from headrace.types import Report, Version

Stop = Callable[[], bool]
STATUS_EVERY_S = 0.25
READER_EVERY_S = 5.0
"""How often a run that reads another one's events says how far it is."""


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


def run_joiner(config: RunConfig, folder: RunFolder, stop: Stop, *, events_of: RunFolder | None = None) -> None:
    """Join events to examples until the event topic is closed and drained; closes the example topic then.

    Args:
        config: The run.
        folder: Its folder.
        stop: Asked between two reads.
        events_of: Another run whose server logs the events; so a further arm of that server learns from the same
            events. That run keeps them until they are joined here too. None: the run's own.
    """
    status = StatusWriter(folder, "joiner")
    events, examples = open_log(config, events_of or folder, EVENTS), open_log(config, folder, EXAMPLES)
    join = EventJoin(config.join)
    told = 0.0

    def tell() -> None:
        nonlocal told
        if events_of is not None and time.monotonic() >= told:
            told = time.monotonic() + READER_EVERY_S
            keep_for(events_of, reader_name(folder), retained_from(examples))

    def needed() -> int:
        others = needed_from(folder, config.logs.forget_after_s)
        own = retained_from(examples)
        return own if others is None else min(own, others)

    trimmer = LogTrimmer(events, EVENTS, config.logs.events_s if events_of is None else None, needed)
    tell()

    def progress(*_: Any) -> None:
        tell()
        trimmer.if_due()
        status.write(lambda: _slots(join.stats()))

    join_log(events, EVENTS, examples, EXAMPLES, join, stop=stop, on_progress=progress,
             erasures=joiner_erasures(config, folder) if isinstance(config, OnlineConfig) else None)  # fmt: skip
    status.write(lambda: _slots(join.stats()), final=True)


def reader_name(folder: RunFolder) -> str:
    """Return the name by which a run reads another run's events: the folder's, and a part that tells equal names apart.

    Example:
        >>> from pathlib import Path
        >>> reader_name(RunFolder(Path("/runs/new")))
        'new-f6f27cc7'
    """
    place = folder.root.resolve()
    return f"{place.name[:80]}-{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"


def _slots(value: object) -> dict[str, object]:
    names = getattr(type(value), "__dataclass_fields__", {})
    return {name: getattr(value, name) for name in names}


def run_learner(config: OnlineConfig, folder: RunFolder, stop: Stop) -> Report:
    """Learn the example log and stage versions; the last one when the example topic is closed and drained.

    Where users are to be erased, it stops between two reads, is edited at rest, and goes on.
    """
    torch.set_num_threads(1)  # one reduction order: replays are bit-equal whatever the machine is doing
    erasures = LearnerErasures(config, folder)
    while True:
        erasures.settle()
        report = _learn(config, folder, stop, erasures)
        if stop() or "the stream ended" in report.notes:
            erasures.settle()
            return report


def _learn(config: OnlineConfig, folder: RunFolder, stop: Stop, erasures: LearnerErasures) -> Report:
    """Learn until the end, until `stop`, or until users are to be erased."""
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

    kept = ManifestCheckpoint(folder.checkpoint)
    loop = Loop(
        source=LogSource(examples, EXAMPLES), learner=learner,
        joiner=Collator(config.schema, config.batch_rows, config.preparation),
        publisher=StagingPublisher(staged), metric=metrics, cadence=EveryExamples(config.publish_every),
        checkpoint=TrimmedExamples(kept, kept.keep, examples, EXAMPLES, config.logs.examples_s),
        batch_rows=config.batch_rows, read_rows=4 * config.batch_rows, checkpoint_every=config.checkpoint_every,
        on_step=on_step, stop=lambda: stop() or erasures.wanted(learner.version),
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


def run_publisher(config: OnlineConfig, folder: RunFolder, stop: Stop, *, copies: Sequence[str] = ()) -> None:
    """Make staged versions durable, numbered and compacted, until the staged topic is closed and drained.

    Args:
        config: The run.
        folder: Its folder.
        stop: Ends the role early; nothing is lost.
        copies: Places for replicas of other machines that every version is copied to; see `headrace.online.changes`.
    """
    status = StatusWriter(folder, "publisher")
    staged, changes = open_log(config, folder, STAGED), open_log(config, folder, CHANGES)
    with only_publisher(changes, stop) as alone:
        if alone:
            _publish(config, folder, stop, status, staged, changes, copies)


def _publish(
    config: OnlineConfig, folder: RunFolder, stop: Stop, status: StatusWriter, staged: EmbeddedLog,
    changes: EmbeddedLog, copies: Sequence[str],
) -> None:  # fmt: skip
    """Be the one publisher of a run."""
    acknowledgements = acknowledged_in(config, folder)
    publisher = LogPublisher(
        changes, snapshots=folder.snapshots, snapshot_every=config.snapshot_every, keep=config.retention.snapshots,
        retention=config.retention, acknowledgements=acknowledgements, behind=True,
    )  # fmt: skip
    guard = None
    if config.guard is not None:
        torch.set_num_threads(1)  # the learner needs the other cores
        judged = with_preparation(config, folder)
        guard = open_guard(judged, examples_of(judged, folder))
    sluice = Sluice(publisher, guard=guard)

    def values() -> dict[str, object]:
        behind = {lag.replica: plain(lag) for lag in lags(acknowledgements.newest(), publisher)}
        errors = {place: mirror.error for place, mirror in zip(copies, mirrors, strict=True) if mirror.error}
        return {**sluice.status(), "replicas": behind, "copies_failing": errors, "erasures": eraser.eraser.status()}

    def progress(*_: Any) -> None:
        status.write(values)

    with copied(config, folder, copies) as mirrors:
        eraser = EraserThread(Eraser(config, folder, publisher, mirrors))
        eraser.start()
        try:
            relay(staged, sluice, stop=stop, on_progress=progress)
            if not stop():
                eraser.drain(sluice.obey)
        finally:
            eraser.close()
            publisher.close()
    status.write(values, final=True)
