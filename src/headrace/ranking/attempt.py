"""One trial of a search: the recipe with drawn parameters, fitted, watched and measured."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from headrace.config import fingerprint
from headrace.errors import ConfigError, DataError, nearest
from headrace.loop import Progress
from headrace.online.config import OnlineConfig
from headrace.online.embedded import Embedded
from headrace.online.layout import RunFolder
from headrace.online.recipe import build, find_recipe
from headrace.ranking.config import FitConfig
from headrace.ranking.examples import ReadSplits, Splits
from headrace.ranking.fit import FitProgress, fit_ranker
from headrace.ranking.search_space import Space
from headrace.types import Report

LOOKS_PER = 4
"""Published versions between two looks at an online trial."""
KEPT = ("valid_auc", "valid_log_loss", "test_auc", "test_log_loss", "one_pass/valid_auc", "one_pass/test_auc", "auc",
        "ne", "log_loss", "calibration", "best_epoch", "examples_per_s")  # fmt: skip
"""Figures that a trial's record keeps, where its report has them."""


class UnknownFigureError(ConfigError):
    """The metric is no figure of the recipe's reports: no trial can have it."""


class SearchLike(Protocol):
    """What an attempt has to know of its search."""

    @property
    def metric(self) -> str:
        """The figure that is searched for."""
        ...

    @property
    def seeds(self) -> int:
        """Fits of each combination."""
        ...


@dataclass(slots=True)
class _Remembered:
    """The splits read last; most searches read the same data in every trial."""

    mark: str = ""
    splits: Splits | None = None


_LAST = _Remembered()


@dataclass(frozen=True)
class Remembering:
    """Reads splits once per process as long as the same ones are asked for."""

    data: ReadSplits

    def __call__(self) -> Splits:
        """Return the splits."""
        mark = fingerprint(self.data)
        if _LAST.splits is None or _LAST.mark != mark:
            _LAST.mark, _LAST.splits = mark, self.data()
        return _LAST.splits


@dataclass
class Attempt:
    """One trial.

    Attributes:
        recipe: `package.module:function`.
        settings: The parameters that are not searched.
        search: Metric and seeds.
        folder: Where online trials keep their logs while they run.
        trial: Optuna's trial.
    """

    recipe: str
    settings: Sequence[str]
    search: SearchLike
    folder: Path
    trial: Any
    _seen: int = field(default=0, init=False)

    def value(self, space: Space) -> float:
        """Return the metric, the mean over seeds, and record on the trial what is worth keeping.

        Raises:
            HeadraceError: If the recipe refuses the parameters, or the metric does not exist.
        """
        drawn = {part.name: part.draw(self.trial) for part in space}
        fixed = {item.partition("=")[0].replace("-", "_"): item.partition("=")[2] for item in self.settings}
        start, values = time.perf_counter(), list[float]()
        self.trial.set_user_attr("settings", drawn)
        for seed in range(self.search.seeds):
            texts = fixed | drawn | ({"seed": str(seed)} if self.search.seeds > 1 else {})
            report = self._fit(build(find_recipe(self.recipe), texts), watched=seed == 0)
            values.append(self._figure(report))
            if seed == 0:
                found = {name: report.figures[name].value for name in KEPT if name in report.figures}
                self.trial.set_user_attr("figures", {key: each for key, each in found.items() if math.isfinite(each)})
        self.trial.set_user_attr("values", values)
        self.trial.set_user_attr("seconds", round(time.perf_counter() - start, 3))
        return sum(values) / len(values)

    def _fit(self, config: OnlineConfig | FitConfig, *, watched: bool) -> Report:
        if isinstance(config, FitConfig):
            # a function is not told from another of its name, a dataclass is
            data: ReadSplits = config.data
            if is_dataclass(data):
                data = Remembering(config.data)
            return fit_ranker(replace(config, data=data), None, on_step=self._watch_fit if watched else None)
        folder = self.folder / "trials" / str(self.trial.number)
        shutil.rmtree(folder, ignore_errors=True)  # of a trial of that number that was killed
        try:
            run = Embedded(replace(config, baselines=False), RunFolder(folder))
            if watched:
                run.loop.on_step = self._watch_online(run, config.publish_every * LOOKS_PER)
            return run.run()
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _watch_fit(self, progress: FitProgress) -> None:
        if len(progress.evaluations) > self._seen:
            found = progress.evaluations[-1]
            name = self.search.metric.removeprefix("valid_")
            last = progress.step >= progress.epochs * progress.steps_per_epoch
            self._look(getattr(found, name, math.nan), len(progress.evaluations), last=last)

    def _watch_online(self, run: Embedded, every: int) -> Callable[[Progress], None]:
        def watch(progress: Progress) -> None:
            if progress.examples // every > self._seen:
                self._look(run.metrics.served.compute().get(self.search.metric, math.nan), progress.examples // every)

        return watch

    def _look(self, value: float, step: int, *, last: bool = False) -> None:
        self._seen = step
        if math.isfinite(value):
            self.trial.report(value, step)
            if not last and self.trial.should_prune():  # at the end there is nothing left to save
                raise _pruned()

    def _figure(self, report: Report) -> float:
        figures: Mapping[str, Any] = report.figures
        name = next((each for each in (f"valid_{self.search.metric}", self.search.metric) if each in figures), None)
        if name is None:
            raise UnknownFigureError("Search, metric", got=repr(self.search.metric),
                              expected=nearest(self.search.metric, figures),
                              do="Take a figure of the run's report.")  # fmt: skip
        value = float(figures[name].value)
        if not math.isfinite(value):
            raise DataError(f"Search, {name}", got=value, expected="a number", do="Did the trial diverge?")
        return value


def _pruned() -> Exception:
    import optuna

    return optuna.TrialPruned()
