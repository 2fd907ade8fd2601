"""Fitting a ranker offline: epochs in random order, validation, the best epoch and the first one, judged and published.

Two results are always reported. *Best*: the weights at the validation with the highest AUC. *One pass*: the weights
after the first epoch, which is all that online learning would have had, and often the best there is: embeddings
over-fit in the second.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import torch

from headrace.config import fingerprint, require, write_run_record
from headrace.data.files import sha256
from headrace.errors import ConfigError
from headrace.learn import (
    LearnerConfig,
    ManifestCheckpoint,
    Pipeline,
    PipelineConfig,
    RankLearner,
    try_micro_batches,
)
from headrace.online.build import embedding, keep_preparation, open_tables, seeded_model
from headrace.online.layout import CHANGES, RunFolder
from headrace.online.logs import open_log
from headrace.online.offline import newest_predictor
from headrace.publish import LogPublisher, Sluice
from headrace.ranking.config import FitConfig
from headrace.ranking.examples import Splits
from headrace.ranking.judge import judge
from headrace.types import Batch, Figure, Report, State, Version

WORTH = 0.97
"""Share of the time without micro-batches that they must not exceed to be chosen."""

OnStep = Callable[["FitProgress"], None]
Stop = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One validation: after how many steps and epochs, and what the validation split said."""

    step: int
    epoch: float
    auc: float
    log_loss: float


@dataclass(slots=True)
class FitProgress:
    """Where a fit stands; `on_step` gets it after every step, and once more after every validation."""

    epochs: int
    steps_per_epoch: int
    epoch: int = 0
    step: int = 0
    examples: int = 0
    loss: float = math.nan
    fit_s: float = 0.0
    evaluate_s: float = 0.0
    evaluations: list[Evaluation] = field(default_factory=list)

    @property
    def best(self) -> int:
        """Place of the best validation so far in `evaluations`; -1 before the first."""
        aucs = [one.auc for one in self.evaluations]
        return max(range(len(aucs)), key=lambda place: (aucs[place], -place)) if aucs else -1

    @property
    def seconds(self) -> float:
        """Time spent on learning and validation."""
        return self.fit_s + self.evaluate_s


def open_ranker(config: FitConfig) -> RankLearner:
    """Return the configuration's learner in its initial state."""
    served = config.served()
    collection = embedding(config.schema, open_tables(served))
    model = seeded_model(served, collection)
    settings = LearnerConfig(seed=config.seed, row_gradients=config.row_gradients, freshness=False, keep_versions=1,
                             schema=config.schema, dense_schedule=config.dense.schedule,
                             micro_batches=config.micro_batches or 1)  # fmt: skip
    return RankLearner(model, collection, config.dense.build(model), config.objective, settings)


def fit_ranker(
    config: FitConfig, folder: RunFolder | Path | None = None, *, on_step: OnStep | None = None,
    stop: Stop | None = None,
) -> Report:  # fmt: skip
    """Fit a ranker, judge it on the test split, and publish it.

    In a folder it resumes where it was stopped or killed, at the last validation, with the same result. The weights of
    the best validation become version 0 of the folder's run: `headrace serve`, `predict` and `evaluate` work on it.

    Args:
        config: The ranker.
        folder: Where to keep it; None writes nothing.
        on_step: Called after every step and every validation; what it raises ends the fit.
        stop: Asked before every step; True ends the fit, to be continued another time.

    Returns:
        `valid_auc`, `test_auc` and log-losses at the best validation, `one_pass/...` after the first epoch, and costs.

    Raises:
        ConfigError: If the folder holds a fit with other settings.
    """
    return RankerFit(config, folder, on_step=on_step, stop=stop).run()


class RankerFit:
    """One fit; `fit_ranker` makes and runs it. Afterwards `learner` holds the best weights.

    Args:
        config: The ranker.
        folder: Where to keep it; None writes nothing.
        on_step: See `fit_ranker`.
        stop: See `fit_ranker`.
    """

    def __init__(
        self, config: FitConfig, folder: RunFolder | Path | None = None, *, on_step: OnStep | None = None,
        stop: Stop | None = None,
    ) -> None:  # fmt: skip
        self.config, self.on_step, self.stop = config, on_step, stop
        self.folder = RunFolder(folder) if isinstance(folder, Path) else folder
        self.splits: Splits = config.data()
        require(min(len(self.splits.train), len(self.splits.valid), len(self.splits.test)) > 0, "FitConfig.data",
                got=[len(part) for part in (self.splits.train, self.splits.valid, self.splits.test)],
                expected="examples in every split")  # fmt: skip
        self.learner = open_ranker(config)
        self.pipeline = Pipeline(config.pipeline, self.learner.times, made=self.learner.collection.fetch_ahead)
        steps = math.ceil(len(self.splits.train) / config.batch_rows)
        self.progress = FitProgress(config.epochs, steps)
        self.report, self._parts = Report(), dict[str, float]()
        self._best: State | None = None
        self._checkpoint = None if self.folder is None else ManifestCheckpoint(self.folder.checkpoint)
        self._best_files = None if self.folder is None else ManifestCheckpoint(self.folder.root / "best", keep=1)

    def run(self) -> Report:
        """Fit to the end, or until `stop`; see `fit_ranker`."""
        if self.folder is not None:
            files = (*self.config.data_files, *self.splits.files)
            write_run_record(self.folder.root, self.config, seed=self.config.seed,
                             data={path.name: sha256(path) for path in files})  # fmt: skip
            keep_preparation(self.config.served(), self.folder)
        if self._resume():
            return self.report
        whole = self._learn()
        self._finish(whole)
        return self.report

    def _learn(self) -> bool:
        """Learn epoch by epoch; return whether the fit came to its end."""
        done, config = self.progress, self.config
        if config.micro_batches is None and not done.step:
            self._choose_micro_batches()
        while done.epoch < config.epochs and not self._exhausted():
            first = done.step - done.epoch * done.steps_per_epoch
            batches = self.splits.train.batches(config.batch_rows, epoch_order(config.seed, done.epoch))
            with self.pipeline.over(since(batches, first, config.batch_rows)) as ahead:
                end = self._epoch(ahead, first)
            if end is not None:
                return end
            done.epoch += 1
            if done.epoch == 1:
                self._judge_one_pass()
            self._validate()
        return True

    def _choose_micro_batches(self) -> None:
        """Measure the first batch in slices, and keep their fastest number if it is worth the other rounding."""
        order = epoch_order(self.config.seed, 0)
        batch = next(iter(self.splits.train.batches(self.config.batch_rows, order)))
        try:
            trials = try_micro_batches(self.learner, batch)
        except ConfigError as error:
            self.report.notes.append(f"no micro-batches: {error}")
            return
        plain = next(trial.seconds for trial in trials if trial.micro_batches == 1)
        best = trials[0]
        self.learner.micro_batches = best.micro_batches if best.seconds < WORTH * plain else 1
        text = ", ".join(f"{trial.micro_batches}: {1e3 * trial.seconds:.2f} ms" for trial in trials)
        self.report.notes.append(f"{self.learner.micro_batches} micro-batches were chosen by measuring ({text})")

    def _epoch(self, batches: Iterator[Batch], first: int) -> bool | None:
        """Learn an epoch from its step `first` on; return whether the fit came to its end inside it, None: not yet."""
        done, every = self.progress, self.config.evaluate_every
        for place, batch in enumerate(batches, first + 1):
            if self.stop is not None and self.stop():
                self._save()
                return False
            self._step(batch)
            if every is not None and place % every == 0 and place < done.steps_per_epoch:
                self._validate()
                if self._exhausted():
                    return True
        return None

    def _step(self, batch: Batch) -> None:
        done, started = self.progress, time.monotonic()
        loss = self.learner.learn(batch)
        done.fit_s += time.monotonic() - started
        done.step, done.examples, done.loss = done.step + 1, done.examples + len(batch), float(loss.total)
        for name, value in loss.parts.items():
            self._parts[name] = self._parts.get(name, 0.0) + (value - self._parts.get(name, 0.0)) / done.step
        if self.on_step is not None:
            self.on_step(done)

    def _validate(self) -> None:
        """Judge the validation split, and keep the weights if they are the best so far."""
        done, started = self.progress, time.monotonic()
        with self.learner.times.stage("judge"):
            found = judge(self.learner.model, self.splits.valid)
        epoch = done.step / done.steps_per_epoch
        done.evaluations.append(Evaluation(done.step, epoch, found.auc, found.log_loss))
        if done.best == len(done.evaluations) - 1:
            self._keep_best()
        done.evaluate_s += time.monotonic() - started
        self._save()
        if self.on_step is not None:
            self.on_step(done)

    def _judge_one_pass(self) -> None:
        started = time.monotonic()
        source = "after one pass over the training examples"
        judge(self.learner.model, self.splits.valid).report(self.report, "one_pass/valid", source)
        judge(self.learner.model, self.splits.test).report(self.report, "one_pass/test", source)
        self.progress.evaluate_s += time.monotonic() - started

    def _exhausted(self) -> bool:
        """Return whether patience has run out; a whole epoch is always learned."""
        done, patience = self.progress, self.config.patience
        return patience is not None and done.epoch >= 1 and len(done.evaluations) - 1 - done.best >= patience

    def _keep_best(self) -> None:
        if self._best_files is None:
            self._best = self.learner.state()
        else:
            self._best_files.save(self.learner.state())

    def _restore_best(self) -> bool:
        best = self._best if self._best_files is None else self._best_files.load()
        if best is not None:
            self.learner.restore(best)
        return best is not None

    def _finish(self, whole: bool) -> None:
        """Go back to the best weights, judge the test split with them, and publish."""
        report, done = self.report, self.progress
        if self._restore_best():
            best = done.evaluations[done.best]
            source = f"at the best validation, after {best.epoch:g} epochs"
            judge(self.learner.model, self.splits.valid).report(report, "valid", source)
            judge(self.learner.model, self.splits.test).report(report, "test", source)
            report.add("best_epoch", best.epoch, source="where the validation AUC was highest")
        self._costs()
        end = "the fit came to its end" if whole else "stopped before its end; nothing was published"
        report.notes += [end, *self.config.notes, *self.splits.notes, self.pipeline.chosen()]
        if whole and self.folder is not None:
            self._publish(self.folder)
            self._save(finished=True)

    def _costs(self) -> None:
        report, done = self.report, self.progress
        for name, value in (("epochs", done.epoch), ("steps", done.step), ("examples", done.examples)):
            report.add(name, value, source="fit_ranker")
        rate = done.examples / max(done.fit_s, 1e-9)
        report.add("examples_per_s", rate, unit="examples/s", source="learning alone")
        report.add("fit_s", done.fit_s, unit="s", source="learning alone")
        report.add("evaluate_s", done.evaluate_s, unit="s", source="validation and one-pass test")
        for name, mean in self._parts.items():
            report.add(f"part/{name}", mean, source="mean over all steps of the part of the loss")
        for name, table in self.learner.collection.tables.items():
            stats = getattr(table, "stats", None)
            if callable(stats):
                report.add(f"table/{name}/rows", stats().rows, source="the table, at the best validation")
        report.settings |= {"threads": torch.get_num_threads(), "seed": self.config.seed, "run": self.config.name,
                            "pipeline": self.pipeline.chosen(), "stages": self.learner.times.totals(),
                            "micro_batches": self.learner.micro_batches,
                            "evaluations": [asdict(one) for one in done.evaluations]}  # fmt: skip

    def _publish(self, folder: RunFolder) -> None:
        """Publish the weights that the learner has now as version 0; asked again, it finds them published."""
        served = self.config.served()
        with open_log(served, folder, CHANGES) as log:
            publisher = LogPublisher(log, snapshots=folder.snapshots, snapshot_every=served.snapshot_every)
            Sluice(publisher).publish(self.learner.changes(Version(-1)))

    def _save(self, *, finished: bool = False) -> None:
        if self._checkpoint is None:
            return
        with self.learner.times.stage("save"):
            self._checkpoint.save(self._state(finished=finished))

    def _state(self, *, finished: bool) -> State:
        done = self.progress
        return {
            "config": self._settings(), "finished": finished, "learner": self.learner.state(),
            "micro_batches": self.learner.micro_batches, "stages": self.learner.times.totals(),
            "report": json.dumps(self.report.to_json()),
            "parts": dict(self._parts), "progress": {
                "epoch": done.epoch, "step": done.step, "examples": done.examples, "loss": done.loss,
                "fit_s": done.fit_s, "evaluate_s": done.evaluate_s,
                "evaluations": [asdict(one) for one in done.evaluations],
            },
        }  # fmt: skip

    def _settings(self) -> str:
        """Return a fingerprint of all settings that the result depends on."""
        return fingerprint(replace(self.config, pipeline=PipelineConfig()))

    def _resume(self) -> bool:
        """Continue from the folder's checkpoint, if there is one; return whether the fit had come to its end."""
        state = self._checkpoint.load() if self._checkpoint is not None else None
        if state is None:
            return False
        require(state["config"] == self._settings(), "Run folder", got="a fit with other settings",
                expected="the settings of the fit that began there", do="Use another folder.")  # fmt: skip
        self.learner.restore(cast(State, state["learner"]))
        self.learner.micro_batches = cast(int, state["micro_batches"])
        self.learner.times.go_on(cast(State, state["stages"]))
        kept = dict(cast(State, state["progress"]))
        evaluations = [Evaluation(**one) for one in cast("list[dict[str, float]]", kept.pop("evaluations"))]  # type: ignore[arg-type]
        self.progress = FitProgress(self.config.epochs, self.progress.steps_per_epoch, evaluations=evaluations, **kept)  # type: ignore[arg-type]
        self._parts = cast("dict[str, float]", dict(cast(State, state["parts"])))
        self.report = _read_report(cast(str, state["report"]))
        return bool(state["finished"])


def since(batches: Iterator[Batch], first: int, rows: int) -> Iterator[Batch]:
    """Return the batches from number `first` on; those before are not read where that can be avoided.

    Args:
        batches: Batches of one epoch, from its beginning.
        first: How many to leave out.
        rows: Examples of each.
    """
    if not first or not hasattr(batches, "seek"):
        return islice(batches, first, None)
    batches.seek({"epoch": 0, "row": first * rows})
    return batches


def judge_published(config: FitConfig, folder: RunFolder) -> Report:
    """Judge the newest published version of a fitted ranker on its test split, as a replica serves it.

    Raises:
        VersionError: If nothing was published there.
    """
    predictor = newest_predictor(config.served(), folder)
    report = Report()
    report.add("version", predictor.version.number, source=str(folder.root))
    judge(predictor.model, config.data().test).report(report, "test", "the published version on the test split")
    return report


def epoch_order(seed: int, epoch: int) -> int:
    """Return the seed of the order of an epoch's examples: a function of both numbers and of nothing else."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint32)[0])


def _read_report(text: str) -> Report:
    content = json.loads(text)
    figures = {name: Figure(**figure) for name, figure in content["figures"].items()}
    return Report(figures, list(content["notes"]), dict(content["settings"]))
