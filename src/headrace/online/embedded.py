"""The whole loop in one process: the same parts and the same maths as the four processes, joined by function calls."""

from __future__ import annotations

from collections.abc import Callable

import torch

from headrace.config import require, write_run_record
from headrace.data import Collator, EventJoin, EventJoiner
from headrace.data.files import sha256
from headrace.errors import ConfigError
from headrace.learn import ManifestCheckpoint, RankLearner
from headrace.loop import EveryExamples, Loop, Progress, run
from headrace.online.baselines import Metrics
from headrace.online.build import Serving, keep_preparation, open_learner, open_serving
from headrace.online.changes import acknowledged_in
from headrace.online.config import OnlineConfig
from headrace.online.erase_rest import erase_embedded, screened
from headrace.online.guarding import NewestBatches, open_guard
from headrace.online.layout import CHANGES, RunFolder
from headrace.online.logs import open_log
from headrace.online.recording import Recording
from headrace.online.worlds import Placed
from headrace.protocols import Joiner, Metric, Predictor
from headrace.publish import LogPublisher, Sluice, publishing
from headrace.types import Change, Events, Report


class Embedded:
    """One process that answers, joins, learns and publishes; give it a folder and it resumes there.

    Users are erased between two runs: when `run` begins, and when it ends.

    Args:
        config: The run; needs a player.
        folder: Where logs and manifests live.
        on_step: Called after every learning step.
        stop: Ends the run early; the next one continues.
    """

    def __init__(
        self, config: OnlineConfig, folder: RunFolder, *, on_step: Callable[[Progress], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:  # fmt: skip
        if config.player is None:
            raise ConfigError(f"Run '{config.name}'", got="no player", expected="a recorded log or a world to play",
                              do="Use `headrace serve` and the roles for real users.")  # fmt: skip
        self.config, self.folder = config, folder
        self.learner: RankLearner = open_learner(config)
        self.serving: Serving = open_serving(config)
        self.metrics = Metrics(config)
        metric: Metric = self.metrics
        guard = None
        if config.guard is not None:
            metric = kept = NewestBatches(self.metrics, config.guard.rows)
            guard = open_guard(config, kept)
        player = config.player()
        collator = Collator(config.schema, config.batch_rows, config.preparation)
        joiner: Joiner = EventJoiner(EventJoin(config.join), collator)
        if config.position is not None:
            joiner = Placed(joiner, config.position)
        joiner = screened(joiner, config, folder)
        self.publisher = LogPublisher(
            open_log(config, folder, CHANGES), snapshots=folder.snapshots, snapshot_every=config.snapshot_every,
            keep=config.retention.snapshots, retention=config.retention,
            acknowledgements=acknowledged_in(config, folder),
        )  # fmt: skip
        self.serving.replica.catch_up(self.publisher)
        self.sluice = Sluice(self.publisher, guard=guard)
        self.loop = Loop(
            source=player, feedback=player, predictor=_Following(self.serving.predictor, self.sluice),
            learner=self.learner, joiner=joiner, publisher=self.sluice, metric=metric,
            cadence=EveryExamples(config.publish_every), checkpoint=ManifestCheckpoint(folder.checkpoint),
            batch_rows=config.batch_rows, checkpoint_every=config.checkpoint_every,
            closed=not isinstance(player, Recording), on_step=on_step, stop=stop,
        )  # fmt: skip

    def run(self) -> Report:
        """Run to the end of the log (or `stop`) and report."""
        hashes = {path.name: sha256(path) for path in self.config.data_files}
        keep_preparation(self.config, self.folder)
        write_run_record(self.folder.root, self.config, seed=self.config.seed, data=hashes)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # one reduction order: replays are bit-equal
        try:
            with publishing(self.publisher.changes.log) as alone:
                require(alone, f"Run folder {self.folder.root}", got="another process that publishes there",
                        expected="one run at a time", do="Stop it, or give another folder.")  # fmt: skip
                if erase_embedded(self.config, self.folder, self.sluice):
                    self.serving.replica.catch_up(self.publisher)
                report = run(self.loop)
                erase_embedded(self.config, self.folder, self.sluice)
        finally:
            torch.set_num_threads(threads)
        report.notes.extend(self.config.notes)
        report.notes.extend(waiting_notes(self.sluice))
        return report


class _Following:
    """A predictor that takes the versions that went out, instead of what the learner has just handed over.

    Args:
        inner: Who predicts.
        sluice: Who lets versions out.
    """

    def __init__(self, inner: Predictor, sluice: Sluice) -> None:
        self.inner, self.sluice = inner, sluice

    def predict(self, requests: Events) -> Events:
        """Pass on."""
        return self.inner.predict(requests)

    def apply(self, change: Change) -> None:
        """Apply what was published since the last time; often this very change."""
        while self.sluice.published:
            self.inner.apply(self.sluice.published.popleft())


def waiting_notes(sluice: Sluice) -> list[str]:
    """Return a sentence for the report if not everything that was learned is served."""
    standing = sluice.standing
    notes = [f"{standing.refused} candidates were refused by the guard"] if standing.refused else []
    if standing.hold is not None:
        notes.append(f"versions are on hold ({standing.hold.reason}); {standing.pending_changes} changes wait")
    elif standing.pending_changes:
        notes.append(f"{standing.pending_changes} changes are not published")
    return notes
