"""`headrace run RECIPE [name=value ...]`: the whole loop here, one role of it, or a ranker fitted offline."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from headrace.cli.output import print_json
from headrace.cli.run_cluster import add_cluster_arguments, refuse_without_cluster, run_cluster
from headrace.cli.run_language import run_language
from headrace.cli.run_rewarded import run_rewarded
from headrace.cli.run_search import add_search_arguments, run_search
from headrace.config import fingerprint, require
from headrace.loop import Progress as LoopProgress
from headrace.online import Embedded, RunFolder, build, find_recipe, run_joiner, run_learner, run_publisher
from headrace.online.config import OnlineConfig
from headrace.online.language_config import LanguageConfig
from headrace.online.rewarded import RewardedConfig
from headrace.ranking import FitConfig, FitProgress, fit_ranker
from headrace.runtime import step_back
from headrace.types import Report

NAME = "run"
HELP = "run a recipe: learn from a log, a world or rewards, here or as one of several processes; or fit a ranker"
PROCESS_ROLES = ("joiner", "learner", "publisher", "generator")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("recipe", help="package.module:function, for example headrace.online.demo:world")
    parser.add_argument("settings", nargs="*", metavar="name=value", help="the recipe's own parameters")
    parser.add_argument("--folder", type=Path, help="run folder; a run continues there (default: runs/<name>-<hash>)")
    parser.add_argument("--role", choices=PROCESS_ROLES, help="run only this process of the production layout")
    parser.add_argument("--nice", type=int, default=10, metavar="N", help="with --role: leave shared cores to whoever "
                        "answers users, as niceness 0 to 19 (default 10)")  # fmt: skip
    parser.add_argument("--events-from", type=Path, metavar="FOLDER", help="with --role joiner: join the events of the "
                        "run in this folder, so that an arm of its server learns from them")  # fmt: skip
    parser.add_argument("--changes", metavar="PLACE", action="append", default=[], help="with --role publisher: copy "
                        "every version to this folder, or kafka://broker:9092/topic?snapshots=PATH, for replicas of "
                        "other machines; may be given several times")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    add_search_arguments(parser)
    add_cluster_arguments(parser)


def stop_on_signals() -> Callable[[], bool]:
    """Return a function that turns True after SIGTERM or SIGINT, so that a role ends between two steps."""
    stopped = False

    def ask(number: int, frame: object) -> None:
        nonlocal stopped
        if stopped and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait
        stopped = True

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
    return lambda: stopped


def run_folder(config: OnlineConfig | FitConfig | RewardedConfig | LanguageConfig, folder: Path | None) -> RunFolder:
    """Return the folder of a run; the default depends on the configuration, so that other settings do not mix."""
    return RunFolder(folder or Path("runs") / f"{config.name}-{fingerprint(config)[:8]}")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    if arguments.search is not None:
        _refuse_with("--search", arguments, "role", "cluster", "events_from", "changes")
        refuse_without_cluster(arguments)
        return run_search(arguments)
    if arguments.cluster is not None:
        _refuse_with("--cluster", arguments, "role", "events_from", "changes")
        report, title = run_cluster(arguments, stop_on_signals())
        show(report, title, arguments.json)
        return 0
    refuse_without_cluster(arguments)
    events_of = None if arguments.events_from is None else RunFolder(arguments.events_from)
    require(events_of is None or arguments.role == "joiner", "--events-from", got=str(arguments.events_from),
            expected="nothing, but with --role joiner", do="The joiner alone reads events.")  # fmt: skip
    require(not arguments.changes or arguments.role == "publisher", "--changes", got=arguments.changes,
            expected="nothing, but with --role publisher", do="The publisher alone copies versions.")  # fmt: skip
    config = build(find_recipe(arguments.recipe), arguments.settings)
    folder = run_folder(config, arguments.folder)
    stop = stop_on_signals()
    if arguments.role is not None:
        step_back(arguments.nice)
    if isinstance(config, RewardedConfig):
        require(arguments.role is None, "--role", got=arguments.role, expected="none",
                do="A language model that learns from rewards runs in one process.")  # fmt: skip
        report = run_rewarded(config, folder.root, stop, quiet=arguments.json)
        show(report, f"{config.name}: {folder.root}", arguments.json)
        return 0
    if isinstance(config, FitConfig):
        require(arguments.role is None, "--role", got=arguments.role, expected="none",
                do="A ranker that is fitted offline has no roles; `headrace serve` serves the result.")  # fmt: skip
        show(_fitted(config, folder, stop, quiet=arguments.json), f"{config.name}: {folder.root}", arguments.json)
        return 0
    if isinstance(config, LanguageConfig):
        if (told := run_language(config, folder, arguments, stop)) is not None:
            show(told, f"{config.name}: {folder.root}", arguments.json)
        return 0
    require(arguments.role != "generator", "--role", got="generator", expected="joiner, learner or publisher",
            do="Only a language model with rollouts has one.")  # fmt: skip
    if arguments.role == "joiner":
        run_joiner(config, folder, stop, events_of=events_of)
        return 0
    if arguments.role == "publisher":
        run_publisher(config, folder, stop, copies=arguments.changes)
        return 0
    if arguments.role == "learner":
        report = run_learner(config, folder, stop)
    else:
        report = _embedded(config, folder, stop, quiet=arguments.json)
    show(report, f"{config.name}: {folder.root}", arguments.json)
    return 0


def _refuse_with(option: str, arguments: argparse.Namespace, *names: str) -> None:
    """Raise ConfigError for an option that would be dropped beside another one."""
    for name in names:
        value = getattr(arguments, name)
        require(not value, f"--{name.replace('_', '-')}", got=value, expected=f"none, with {option}",
                do="Give one or the other.")  # fmt: skip


def show(report: Report, title: str, as_json: bool) -> None:
    """Print a report as one JSON object or as a table."""
    if as_json:
        print_json(report.to_json())
    else:
        print_report(report, title)


def _fitted(config: FitConfig, folder: RunFolder, stop: Callable[[], bool], *, quiet: bool) -> Report:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[numbers]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as bar:
        task = bar.add_task(config.name, total=None, numbers="")

        def on_step(done: FitProgress) -> None:
            numbers = f"epoch {done.step / done.steps_per_epoch:.2f}  loss {done.loss:.4f}"
            if done.evaluations:
                numbers += f"  validation AUC {done.evaluations[-1].auc:.4f}"
            bar.update(task, completed=done.step, total=done.epochs * done.steps_per_epoch, numbers=numbers)

        return fit_ranker(config, folder, on_step=on_step, stop=stop)


def _embedded(config: OnlineConfig, folder: RunFolder, stop: Callable[[], bool], *, quiet: bool) -> Report:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[numbers]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as bar:
        task = bar.add_task(config.name, total=None, numbers="")

        def on_step(done: LoopProgress) -> None:
            numbers = f"{done.examples:,} examples  loss {done.loss:.4f}  version {done.version.number}"
            bar.update(task, numbers=numbers)

        return Embedded(config, folder, on_step=on_step, stop=stop).run()


def print_report(report: Report, title: str) -> None:
    """Print a report as a table for people."""
    table = Table(title=title, title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("unit")
    for name, figure in report.figures.items():
        if not worth_showing(name):
            continue
        value = f"{figure.value:,.0f}" if figure.value == int_or_nan(figure.value) else f"{figure.value:.4f}"
        table.add_row(name, value, figure.unit)
    console = Console()
    console.print(table)
    for note in report.notes:
        console.print(f"  · {note}")


def worth_showing(name: str) -> bool:
    """Return whether a figure belongs on a screen; `--json` has them all. Of baselines only the AUC does.

    Example:
        >>> [worth_showing(name) for name in ("auc", "window_ece", "position_only/auc", "position_only/ne")]
        [True, False, True, False]
    """
    part, _, number = name.rpartition("/")
    if part:
        return number == "auc"
    return not name.startswith("window_") or name in ("window_auc", "window_logged_auc")


def int_or_nan(value: float) -> float:
    """Return the value rounded to an integer, or NaN when it is not finite (so that it equals nothing)."""
    return float(round(value)) if abs(value) < 1e15 else float("nan")
