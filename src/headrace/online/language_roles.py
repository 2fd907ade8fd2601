"""The processes of a language model's run, each a function that returns when its stream has ended or `stop` says so.

    server or generator ──events.db──► joiner ──examples.db──► learner ──staged.db──► publisher ──changes.db──► replicas

Joiner, publisher and every log are those of a ranker's run. A run may have all of them in one process, as threads.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import cast

import pyarrow as pa
import torch

from headrace.config import require, write_run_record
from headrace.data import LogSource
from headrace.data.event_joiner import scored
from headrace.errors import StaleError
from headrace.feedback import RewardFeedback
from headrace.feedback.reward import REWARD
from headrace.learn import BoundedStaleness, ManifestCheckpoint
from headrace.loop import EveryExamples, Loop, Progress, fit
from headrace.online.changes import acknowledged_in, copied
from headrace.online.guarding import only_publisher
from headrace.online.language_build import open_collator, open_language_learner, open_language_predictor
from headrace.online.language_config import LanguageConfig, Rollouts
from headrace.online.layout import CHANGES, EVENTS, EXAMPLES, STAGED, RunFolder
from headrace.online.logs import open_log
from headrace.online.roles import StatusWriter, Stop
from headrace.online.trimming import TrimmedExamples
from headrace.publish import (
    Acknowledger,
    ChangeReader,
    LogPublisher,
    Replica,
    Sluice,
    StagingPublisher,
    lags,
    relay,
)
from headrace.publish.acknowledgements import plain
from headrace.types import Events, Report, Version

_log = logging.getLogger(__name__)
GENERATOR = "generator"
IDLE_S = 0.005


def run_language_learner(config: LanguageConfig, folder: RunFolder, stop: Stop) -> Report:
    """Learn the example log and stage versions; the last one when the example topic is closed and drained."""
    torch.set_num_threads(1)  # one reduction order: replays are bit-equal whatever the machine is doing
    write_run_record(folder.root, config, seed=config.seed, data={})
    status = StatusWriter(folder, "learner")
    examples, staged = open_log(config, folder, EXAMPLES), open_log(config, folder, STAGED)
    learner = open_language_learner(config)
    last = Progress()

    def values() -> dict[str, object]:
        refused = learner.refused if isinstance(learner, BoundedStaleness) else 0
        return {"examples": last.examples, "steps": last.steps, "loss": last.loss, "version": last.version.number,
                "refused": refused}  # fmt: skip

    def on_step(progress: Progress) -> None:
        nonlocal last
        last = progress
        status.write(values)

    def asked() -> bool:
        status.write(values)  # a sign of life also while nobody votes
        return stop()

    kept = ManifestCheckpoint(folder.checkpoint)
    report = fit(Loop(
        source=LogSource(examples, EXAMPLES), learner=learner, joiner=open_collator(config),
        publisher=StagingPublisher(staged), cadence=EveryExamples(config.batch_rows), batch_rows=config.batch_rows,
        checkpoint=TrimmedExamples(kept, kept.keep, examples, EXAMPLES, config.logs.examples_s),
        read_rows=config.batch_rows, checkpoint_every=config.checkpoint_every, on_step=on_step, stop=asked,
    ))  # fmt: skip
    last.examples, last.steps = (int(report.figures[name].value) for name in ("examples", "steps"))
    last.version = Version(int(report.figures["version"].value))
    if "the stream ended" in report.notes:
        staged.close_topic(STAGED)
    status.write(values, final=True)
    report.notes.extend(config.notes)
    return report


def run_language_publisher(
    config: LanguageConfig, folder: RunFolder, stop: Stop, *, copies: Sequence[str] = ()
) -> None:  # fmt: skip
    """Make staged versions durable and numbered, until the staged topic is closed and drained.

    Args:
        config: The run.
        folder: Its folder.
        stop: Ends the role early; nothing is lost.
        copies: Places for replicas of other machines that every version is copied to.
    """
    status = StatusWriter(folder, "publisher")
    staged, changes = open_log(config, folder, STAGED), open_log(config, folder, CHANGES)
    with only_publisher(changes, stop) as alone:
        if not alone:
            return
        acknowledgements = acknowledged_in(config, folder)
        # Snapshots are written before the next version is published: there is one of version 0, and with as many as
        # are kept the generator finds the version that it needs, however far behind it is.
        publisher = LogPublisher(
            changes, snapshots=folder.snapshots, snapshot_every=config.snapshot_every,
            keep=max(config.retention.snapshots, 2), retention=config.retention, acknowledgements=acknowledgements,
        )  # fmt: skip
        sluice = Sluice(publisher)

        def values() -> dict[str, object]:
            behind = {lag.replica: plain(lag) for lag in lags(acknowledgements.newest(), publisher)}
            return {**sluice.status(), "replicas": behind}

        with copied(config, folder, copies):
            relay(staged, sluice, stop=stop, on_progress=lambda _: status.write(values))
        status.write(values, final=True)


def run_generator(config: LanguageConfig, folder: RunFolder, stop: Stop) -> int:
    """Write completions, have them judged, and log both, until the prompts end; closes the event topic then.

    Rollout i is written by version i - k exactly, where k is `Rollouts.behind`. What was logged is logged together with
    how far the generator is, so a generator that is killed writes the same again, or goes on behind it.

    Returns:
        Rollouts logged in all.

    Raises:
        ConfigError: If the run has no rollouts.
        HeadraceError: Whatever the rewarder raises; nothing of that rollout was logged.
    """
    how = config.rollouts
    require(how is not None, f"Run '{config.name}'", got="no rollouts", expected="prompts and a rewarder",
            do="Serve it: people ask and vote.")  # fmt: skip
    torch.set_num_threads(1)
    how = cast(Rollouts, how)
    events, status = open_log(config, folder, EVENTS), StatusWriter(folder, GENERATOR)
    source = ChangeReader(open_log(config, folder, CHANGES), folder.snapshots)
    predictor = open_language_predictor(config, how=how.config)
    asked, feedback = how.prompts(), RewardFeedback(how.rewarder())
    told = Acknowledger(acknowledged_in(config, folder), GENERATOR)
    turns = -(-len(asked) // config.batch_rows)
    done = int(events.state(GENERATOR) or b"0")
    for turn in range(done, turns):
        if not move_to(predictor.replica, source, max(turn - how.behind, 0), stop):
            return turn
        told.tell(predictor.version)
        requests = asked.slice(turn * config.batch_rows, min(config.batch_rows, len(asked) - turn * config.batch_rows))
        predictions = predictor.predict(requests)
        answers = feedback.collect(requests, predictions)
        with events.transaction() as write:
            write.append(EVENTS, scored(requests, predictions))
            if answers is not None:
                write.append(EVENTS, _valued(answers))
            write.put_state(GENERATOR, str(turn + 1).encode())
        state = {"rollouts": turn + 1, "of": turns, "version": predictor.version.number}
        status.write(lambda state=state: state)  # type: ignore[misc]
    events.close_topic(EVENTS)
    status.write(lambda: {"rollouts": turns, "of": turns, "version": predictor.version.number}, final=True)
    return turns


def move_to(replica: Replica, source: ChangeReader, number: int, stop: Stop) -> bool:
    """Move a replica to exactly this version, waiting until it is published; returns False if `stop` came first.

    Raises:
        StaleError: If the replica is past it, or it can no longer be put together.
    """
    while source.last().number < number:
        if stop():
            return False
        time.sleep(IDLE_S)
    held = replica.version.number
    if held < 0:
        older = [found for found in source.snapshots.numbers() if found <= number]
        if older:
            replica.apply(source.snapshots.read(older[-1]))
    for change in source.read_since(replica.version.number):
        if change.version.number > number:
            break
        replica.apply(change)
    if replica.version.number != number:
        raise StaleError("Generator", got=f"version {replica.version.number}", expected=f"version {number}",
                         do="The run's change log is not the one that it began with; begin a new run.")  # fmt: skip
    return True


def _valued(answers: Events) -> Events:
    """Return rewards in the column by which the joiner knows values."""
    columns = {name: answers.column(name) for name in answers.names if name != REWARD}
    return Events.from_columns({**columns, "value": answers.column(REWARD).cast(pa.float32())})
