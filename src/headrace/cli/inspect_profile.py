"""Where the time of a learning step goes: of a recipe, measured now, or of a run, as it was counted then."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import cast

import torch
from rich.table import Table

from headrace.cli.output import console, print_json
from headrace.config import require
from headrace.data.windows import SHUFFLE_ROWS
from headrace.errors import ConfigError, DataError
from headrace.learn import ManifestCheckpoint, Pipeline, StageTimes, try_micro_batches
from headrace.learn.stages import STAGES
from headrace.loop import Progress
from headrace.online import Embedded, RunFolder, build, find_recipe
from headrace.online.config import OnlineConfig
from headrace.ranking import FitConfig, open_ranker
from headrace.ranking.fit import epoch_order
from headrace.types import Batch, State

Facts = dict[str, object]
WARM_STEPS = 5
"""Steps before the measurement: the first ones allocate."""


def profile(words: Sequence[str], *, steps: int, as_json: bool) -> int:
    """Print a profile and return the exit code.

    Args:
        words: A recipe and its settings (`name=value`), or a run folder.
        steps: Learning steps to measure of a recipe.
        as_json: Print one JSON object.

    Raises:
        ConfigError: If there is no such recipe, or a run folder is given settings.
        DataError: If the run has not counted its stages.
    """
    require(bool(words), "inspect profile", got="nothing", expected="a recipe or a run folder",
            do="headrace inspect profile package.module:function name=value")  # fmt: skip
    require(steps >= 1, "--steps", got=steps, expected="a positive integer")
    if Path(words[0]).is_dir():
        require(len(words) == 1, "inspect profile", got=f"settings {list(words[1:])}", expected="a run folder alone")
        facts = of_run(Path(words[0]))
    else:
        config = build(find_recipe(words[0]), list(words[1:]))
        facts = of_fit(config, steps) if isinstance(config, FitConfig) else of_loop(config, steps)
    if as_json:
        print_json(facts)
    else:
        _print(words[0], facts)
    return 0


def of_fit(config: FitConfig, steps: int) -> Facts:
    """Measure steps of an offline recipe from its data on; nothing is kept."""
    learner, train = open_ranker(config), config.data().train
    pipeline = Pipeline(config.pipeline, learner.times, made=learner.collection.fetch_ahead)
    done, seconds, batch = 0, 0.0, cast(Batch, None)
    with pipeline.over(_again_and_again(config, train)) as ahead:
        for batch in islice(ahead, WARM_STEPS):
            learner.learn(batch)
        _forget(learner.times)
        began = time.perf_counter()
        for batch in islice(ahead, steps):
            learner.learn(batch)
            done += len(batch)
        seconds = time.perf_counter() - began
    facts = _facts(learner.times, seconds) | {"examples_per_s": done / seconds, "pipeline": pipeline.chosen()}
    alone = train.batches(config.batch_rows, epoch_order(config.seed, 0))
    whole = max(steps, SHUFFLE_ROWS // config.batch_rows)  # no part of a window: its first batch takes all its time
    began = time.perf_counter()
    rows = sum(len(one) for one in islice(alone, whole))
    facts["reader_alone_rows_per_s"] = rows / (time.perf_counter() - began)
    try:
        trials = try_micro_batches(learner, batch)
        facts["micro_batches_ms"] = {str(trial.micro_batches): 1e3 * trial.seconds for trial in trials}
    except ConfigError as error:
        facts["micro_batches"] = str(error)
    return facts


def of_loop(config: OnlineConfig, steps: int) -> Facts:
    """Measure steps of an online recipe from its first request on, in one process, in a folder that is removed."""
    with tempfile.TemporaryDirectory(prefix="headrace-profile-") as folder:
        seen = Progress()

        def on_step(progress: Progress) -> None:
            nonlocal seen
            seen = progress

        run = Embedded(config, RunFolder(Path(folder)), on_step=on_step, stop=lambda: seen.steps >= steps)
        times, loop = run.learner.times, run.loop
        for part, method, stage in (
            (loop.source, "read", "read"), (loop.feedback, "collect", "feedback"), (loop.joiner, "add", "join"),
            (loop.predictor, "predict", "predict"), (loop.predictor, "apply", "publish"),
            (loop.metric, "update", "judge"), (loop.checkpoint, "save", "save"),
            (run.learner, "changes", "publish"), (loop.publisher, "publish", "publish"),
        ):  # fmt: skip
            times.watch(part, method, stage)
        began = time.perf_counter()
        run.run()
        seconds = time.perf_counter() - began
        return _facts(times, seconds) | {"examples_per_s": seen.examples / seconds}


def of_run(folder: Path) -> Facts:
    """Return what a run has counted: the learner process in its status, a fit in its checkpoint."""
    counted = RunFolder(folder).read_status("learner").get("stages")
    if not isinstance(counted, Mapping) and (folder / "checkpoint").is_dir():
        counted = (ManifestCheckpoint(folder / "checkpoint").load() or {}).get("stages")
    if not isinstance(counted, Mapping) or not counted.get("steps"):
        raise DataError(f"Run folder {folder}", got="no stage times", expected="a fit, or the run of a learner process",
                        do="Run it first; or profile its recipe.")  # fmt: skip
    times = StageTimes()
    times.go_on(cast(State, counted))
    return _facts(times, None)


def _again_and_again(config: FitConfig, train: object) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from train.batches(config.batch_rows, epoch_order(config.seed, epoch))  # type: ignore[attr-defined]
        epoch += 1


def _forget(times: StageTimes) -> None:
    times.go_on({"steps": 0, "seconds": {}, "beside": {}})


def _facts(times: StageTimes, seconds: float | None) -> Facts:
    steps = max(times.steps, 1)
    known = {name: 1e3 * times.seconds[name] / steps for name in sorted(times.seconds, key=_place)}
    if seconds is not None:
        known["other"] = max(1e3 * seconds / steps - sum(known.values()), 0.0)
    beside = {name: 1e3 * spent / steps for name, spent in sorted(times.beside.items())}
    return {"steps": times.steps, "threads": torch.get_num_threads(), "ms_per_step": sum(known.values()),
            "stages_ms": known, "beside_ms": beside}  # fmt: skip


def _place(stage: str) -> int:
    return STAGES.index(stage) if stage in STAGES else len(STAGES)


def _print(title: str, facts: Facts) -> None:
    whole, out = cast(float, facts["ms_per_step"]), console()
    table = Table(title=f"{title}: {whole:.2f} ms a step, {facts['steps']} steps, {facts['threads']} threads",
                  title_justify="left")  # fmt: skip
    for heading, side in (("stage", "left"), ("ms a step", "right"), ("share", "right")):
        table.add_column(heading, justify="right" if side == "right" else "left")
    for name, spent in cast("dict[str, float]", facts["stages_ms"]).items():
        table.add_row(name, f"{spent:.3f}", f"{spent / whole:.1%}" if whole else "")
    for name, spent in cast("dict[str, float]", facts["beside_ms"]).items():
        table.add_row(f"{name} (beside)", f"{spent:.3f}", "", style="dim")
    out.print(table)
    if "examples_per_s" in facts:
        out.print(f"  · {facts['examples_per_s']:,.0f} examples a second")
    if "pipeline" in facts:
        out.print(f"  · {facts['pipeline']}")
    if "reader_alone_rows_per_s" in facts:
        rate = cast(float, facts["reader_alone_rows_per_s"])
        out.print(f"  · the reader alone gives {rate:,.0f} rows a second, whole windows of rows on average")
    trials = facts.get("micro_batches_ms")
    if isinstance(trials, Mapping):
        text = ", ".join(f"{count}: {spent:.2f} ms" for count, spent in trials.items())
        out.print(f"  · forward and backward in micro-batches, the fastest first: {text}")
