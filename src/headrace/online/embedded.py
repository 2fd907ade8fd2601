"""The whole loop in one process: the same parts and the same maths as the four processes, joined by function calls."""

from __future__ import annotations

from collections.abc import Callable

import torch

from headrace.config import write_run_record
from headrace.data import Collator, EventJoin, EventJoiner
from headrace.data.files import sha256
from headrace.errors import ConfigError
from headrace.learn import ManifestCheckpoint, RankLearner
from headrace.loop import EveryExamples, Loop, Progress, run
from headrace.online.baselines import Metrics
from headrace.online.build import Serving, keep_preparation, open_learner, open_serving
from headrace.online.config import OnlineConfig
from headrace.online.layout import CHANGES, RunFolder
from headrace.online.recording import Recording
from headrace.online.roles import open_log
from headrace.online.worlds import Placed
from headrace.protocols import Joiner
from headrace.publish import LogPublisher
from headrace.types import Report


class Embedded:
    """One process that answers, joins, learns and publishes; give it a folder and it resumes there.

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
        player = config.player()
        collator = Collator(config.schema, config.batch_rows, config.preparation)
        joiner: Joiner = EventJoiner(EventJoin(config.join), collator)
        if config.position is not None:
            joiner = Placed(joiner, config.position)
        self.publisher = LogPublisher(open_log(config, folder, CHANGES), snapshots=folder.snapshots,
                                      snapshot_every=config.snapshot_every)  # fmt: skip
        self.serving.replica.catch_up(self.publisher)
        self.loop = Loop(
            source=player, feedback=player, predictor=self.serving.predictor, learner=self.learner,
            joiner=joiner,
            publisher=self.publisher, metric=self.metrics, cadence=EveryExamples(config.publish_every),
            checkpoint=ManifestCheckpoint(folder.checkpoint), batch_rows=config.batch_rows,
            checkpoint_every=config.checkpoint_every, closed=not isinstance(player, Recording), on_step=on_step,
            stop=stop,
        )  # fmt: skip

    def run(self) -> Report:
        """Run to the end of the log (or `stop`) and report."""
        hashes = {path.name: sha256(path) for path in self.config.data_files}
        keep_preparation(self.config, self.folder)
        write_run_record(self.folder.root, self.config, seed=self.config.seed, data=hashes)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # one reduction order: replays are bit-equal
        try:
            report = run(self.loop)
        finally:
            torch.set_num_threads(threads)
        report.notes.extend(self.config.notes)
        return report
