"""Tuning: a recipe's parameters as a search space, searched by Optuna; every trial on record, resumable after a kill.

The search's journal is a file of JSON lines, so that a killed search goes on where it was; a trial that was running is
tried again. Which parameters trial n tries depends only on the seed and on the trials before it.
"""

from __future__ import annotations

import fcntl
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from headrace.config import known_name, require
from headrace.errors import ConfigError, HeadraceError
from headrace.online.recipe import find_recipe, parameters
from headrace.ranking.attempt import Attempt, UnknownFigureError
from headrace.ranking.search_space import Choice, Range, Space, search_space
from headrace.ranking.tuning_report import Trial, TuningReport, write_tuning

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

JOURNAL = "journal.jsonl"
RANDOM_FIRST = 6
"""Trials drawn at random before the sampler learns from them."""
LOWER_IS_BETTER = ("log_loss", "ne", "ece")
Sampler = Literal["tpe", "random", "grid"]


@dataclass(frozen=True, kw_only=True)
class Search:
    """How to search.

    Attributes:
        space: What may be tried: `["lr=1e-4..1e-2:log", "dim=8,16,32"]`; see `search_space`.
        trials: How many combinations, pruned and failed ones included.
        metric: A figure of the run's report; `auc` and `log_loss` are those of the validation split where the recipe
            has one. Lower is better for log-loss, normalised entropy and calibration error.
        seeds: Fits of each combination, with seeds one after another; its value is their mean.
        sampler: `tpe` learns from the trials so far, `random` does not, `grid` tries all choices once.
        prune: End a trial whose intermediate value is below the median of earlier trials at the same point.
        jobs: Processes.
        seed: Of the search.

    Raises:
        ConfigError: If a value cannot work.
    """

    space: tuple[str, ...]
    trials: int = 20
    metric: str = "auc"
    seeds: int = 1
    sampler: Sampler = "tpe"
    prune: bool = True
    jobs: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.seed >= 0, "Search.seed", got=self.seed, expected="0 or more")
        for name in ("trials", "seeds", "jobs"):
            require(getattr(self, name) >= 1, name, got=getattr(self, name), expected="a positive integer")
        known_name("sampler", self.sampler, ["tpe", "random", "grid"])
        require(len(self.space) > 0, "Search.space", got="nothing", expected="at least one parameter")

    @property
    def lower_is_better(self) -> bool:
        """Whether the metric is to be small."""
        return self.metric.rpartition("/")[2].removeprefix("valid_").removeprefix("window_") in LOWER_IS_BETTER


def tune(
    recipe: str, settings: Sequence[str], search: Search, folder: Path, *,
    on_trial: Callable[[Trial], None] | None = None,
) -> TuningReport:  # fmt: skip
    """Search the best parameters of a recipe.

    Args:
        recipe: `package.module:function`, online or ranking.
        settings: Its other parameters, `["epochs=1"]`.
        search: What to try and how long.
        folder: Where the journal, `trials.parquet`, `tuning.json` and `tuning.svg` are kept; a search continues there.
        on_trial: Called after every trial; with several processes, after all of them.

    Raises:
        ConfigError: If the space does not fit the recipe, Optuna is missing, or the folder holds another search.
        HeadraceError: If no trial came to an end: what the last one said.
    """
    function = find_recipe(recipe)
    space = search_space(function, search.space)
    fixed = {item.partition("=")[0].replace("-", "_") for item in settings}
    twice = sorted(fixed & {part.name for part in space})
    require(not twice, "Search", got=f"{twice[0] if twice else ''} both fixed and searched", expected="one of the two")
    require(search.seeds == 1 or ("seed" in parameters(function) and "seed" not in fixed), "seeds", got=search.seeds,
            expected="1, where the recipe has no free parameter 'seed'")  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        study = _study(folder, search)
        _claim(study, recipe, settings, search, folder)
        _revive(study)
        most = _enqueue_grid(study, space) if search.sampler == "grid" else search.trials
        left = max(0, min(search.trials, most) - len(_finished(study)))
        if search.jobs == 1 or left <= 1:
            _work(recipe, settings, search, folder, left, 0, on_trial)
        else:
            _spread(recipe, settings, search, folder, left)
            for trial in _trials(_study(folder, search)) if on_trial else ():
                on_trial(trial)  # type: ignore[misc]
    report = _report(_study(folder, search), recipe, settings, search)
    if report.best is None:
        failed = [trial.error for trial in report.trials if trial.error]
        raise HeadraceError(f"Search: got no trial that came to an end, expected one at least. "
                            f"{failed[-1] if failed else 'All were pruned.'}")  # fmt: skip
    write_tuning(folder, report)
    return report


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise ConfigError("Search", got="no Optuna", expected="Optuna 4 or newer",
                          do="pip install 'headrace[tune]'") from error  # fmt: skip
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _study(folder: Path, search: Search) -> Study:
    optuna = _optuna()
    path = folder / JOURNAL
    _drop_torn_line(path)
    backend = optuna.storages.journal.JournalFileBackend(str(path), lock_obj=_FileLock(path))
    study: Study = optuna.create_study(
        storage=optuna.storages.JournalStorage(backend), study_name="search", load_if_exists=True,
        direction="minimize" if search.lower_is_better else "maximize", pruner=_pruner(search),
    )  # fmt: skip
    return study


def _pruner(search: Search) -> Any:
    optuna = _optuna()
    return optuna.pruners.MedianPruner(n_startup_trials=4) if search.prune else optuna.pruners.NopPruner()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other searches out of a folder; they would take this one's running trials for killed ones."""
    with (folder / "search.lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"Search in {folder}", got="a search that is running there", expected="none",
                              do="Wait for it, or give another --folder.") from error  # fmt: skip
        yield


class _FileLock:
    """A lock that dies with its process, unlike Optuna's own, which a killed search leaves behind for half a minute."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_suffix(".lock")
        self._file: int | None = None

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Give the lock back."""
        assert self._file is not None
        os.close(self._file)
        self._file = None


def _drop_torn_line(path: Path) -> None:
    """Cut off a last line that a kill left unfinished; Optuna would take the next line for its rest."""
    if not path.exists():
        return
    lock = _FileLock(path)
    lock.acquire()
    try:
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
    finally:
        lock.release()


def _claim(study: Study, recipe: str, settings: Sequence[str], search: Search, folder: Path) -> None:
    """Write down what is searched, or refuse a folder that holds another search; more trials of the same are fine."""
    own: dict[str, object] = {
        "recipe": recipe, "settings": sorted(settings), "space": sorted(search.space), "metric": search.metric,
        "seeds": search.seeds, "sampler": search.sampler, "seed": search.seed,
    }  # fmt: skip
    found = study.user_attrs.get("search")
    if found is None:
        study.set_user_attr("search", own)
    elif found != own:
        other = next(name for name in own if found.get(name) != own[name])
        raise ConfigError(f"Search in {folder}, {other}", got=repr(own[other]), expected=repr(found.get(other)),
                          do="Give another --folder, or the settings it was begun with.")  # fmt: skip


def _finished(study: Study) -> list[FrozenTrial]:
    """Return trials that count; one that a kill interrupted does not."""
    return [trial for trial in study.trials if trial.state.is_finished() and "killed" not in trial.user_attrs]


def _revive(study: Study) -> None:
    """Queue trials again that were running when the search was killed."""
    optuna = _optuna()
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study._storage.set_trial_user_attr(trial._trial_id, "killed", True)
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params)


def _enqueue_grid(study: Study, space: Space) -> int:
    """Queue all combinations of choices, once, and return how many there are."""
    choices = [part for part in space if isinstance(part, Choice)]
    require(len(choices) == len(space), "sampler", got="grid over a range", expected="choices only: name=a,b,c")
    combinations = list(product(*(part.values for part in choices)))
    if not study.trials:
        for values in combinations:
            study.enqueue_trial({part.name: value for part, value in zip(choices, values, strict=True)})
    return len(combinations)


def _spread(recipe: str, settings: Sequence[str], search: Search, folder: Path, left: int) -> None:
    context = multiprocessing.get_context("spawn")
    shares = [left // search.jobs + (place < left % search.jobs) for place in range(search.jobs)]
    processes = [
        context.Process(target=_work, args=(recipe, list(settings), search, folder, share, place))
        for place, share in enumerate(shares)
        if share
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    broken = [process.exitcode for process in processes if process.exitcode]
    if broken:
        raise HeadraceError(f"Search: got a process that ended with code {broken[0]}, expected 0. "
                            "Run it again with the same folder: it continues.")  # fmt: skip


def _work(
    recipe: str, settings: Sequence[str], search: Search, folder: Path, count: int, place: int,
    on_trial: Callable[[Trial], None] | None = None,
) -> None:  # fmt: skip
    """Run some trials in this process."""
    if search.jobs > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // search.jobs))
    study, optuna = _study(folder, search), _optuna()
    space = search_space(find_recipe(recipe), search.space)
    for _ in range(count):
        # the draw depends on how many trials are done, not on this process's past: a resumed search is the same search
        study.sampler = _sampler(search, space, len(_finished(study)) * search.jobs + place)
        trial = study.ask()
        try:
            value = Attempt(recipe, settings, search, folder, trial).value(space)
        except optuna.TrialPruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        except UnknownFigureError:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            raise
        except (HeadraceError, ValueError) as error:  # a recipe, or torch, refuses these parameters
            trial.set_user_attr("error", str(error))
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, value)
        if on_trial is not None:
            on_trial(_trials(study)[-1])


def _sampler(search: Search, space: Space, number: int) -> Any:
    # neighbouring seeds would draw neighbouring first points; mixed ones are spread
    optuna, seed = _optuna(), int(np.random.SeedSequence([search.seed, number]).generate_state(1)[0])
    if search.sampler != "tpe":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=RANDOM_FIRST)


def _trials(study: Study) -> list[Trial]:
    """Return the trials that count, as plain records in order."""
    out = []
    for trial in _finished(study):
        kept: Mapping[str, Any] = trial.user_attrs
        seconds = kept.get("seconds", trial.duration.total_seconds() if trial.duration else 0.0)
        out.append(Trial(
            number=trial.number, state=trial.state.name.lower(), value=math.nan if trial.value is None else trial.value,
            values=tuple(kept.get("values", ())), seconds=float(seconds), settings=dict(kept.get("settings", {})),
            figures=dict(kept.get("figures", {})), looks=dict(trial.intermediate_values), error=kept.get("error", ""),
        ))  # fmt: skip
    return out


def _report(study: Study, recipe: str, settings: Sequence[str], search: Search) -> TuningReport:
    space = search_space(find_recipe(recipe), search.space)
    logs = tuple(part.name for part in space if isinstance(part, Range) and part.log)
    return TuningReport(
        recipe=recipe, settings=tuple(settings), metric=search.metric, lower_is_better=search.lower_is_better,
        parameters=tuple(part.name for part in space), logarithmic=logs, trials=tuple(_trials(study)),
    )  # fmt: skip
