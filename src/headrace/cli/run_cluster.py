"""`headrace run RECIPE --cluster ...`: a ranker learned by a head, table servers and workers, here or on Ray."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from headrace.cli.cluster_view import Status, draw_cluster
from headrace.config import fingerprint, known_name, require
from headrace.elastic.config import ElasticConfig
from headrace.elastic.run_local import run_elastic
from headrace.errors import ConfigError, nearest
from headrace.online import build, find_recipe
from headrace.protocols import Placement
from headrace.ranking import FitConfig
from headrace.runtime import Launcher, solution_json
from headrace.runtime.clusters import open_launcher
from headrace.runtime.solutions import backs_up
from headrace.types import Report

ROLES = ("head", "server", "worker")
SOLUTIONS = "headrace.runtime"
"""Where a solution is looked for that is named without a module."""


# fmt: off
def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a run on several processes or machines."""
    group = parser.add_argument_group("on several processes or machines (a recipe that returns a FitConfig)")
    group.add_argument("--cluster", metavar="WHERE", help="local: processes of this machine; ray: a Ray of this "
                       "machine; host:port of a Ray cluster; auto: the Ray cluster that this machine is in, or local")
    group.add_argument("--workers", type=int, help="how many to begin with (default 2)")
    group.add_argument("--servers", type=int, help="table servers to begin with (default 1)")
    group.add_argument("--mode", choices=("sync", "async"), help="one step of all together (default), or each its own")
    group.add_argument("--solution", metavar="NAME", help="what is done about slow processes: a class of "
                       f"{SOLUTIONS} (AntDtNd, LbBsp, LagScaling, ...) or package.module:Class")
    group.add_argument("--sums", choices=("gloo", "head"), help="who adds the gradients of a step: all workers "
                       "(default), or the head, which can leave slow workers out and lets in only who knows the secret")
    group.add_argument("--max-staleness", type=int, metavar="STEPS", help="with --mode async: how many steps of others "
                       "may lie between the parameters that a worker learns from and its own step, at least one less "
                       "than workers (default: any number, and nobody waits)")
    group.add_argument("--checkpoint-every", type=int, metavar="STEPS", help="0 (default): none, so that a run whose "
                       "table server dies begins anew")
    group.add_argument("--checkpoints", type=Path, metavar="FOLDER", help="where checkpoints are kept: a folder that "
                       "all machines of the cluster see (default: in the run's folder)")
    group.add_argument("--place", action="append", default=[], metavar="ROLE=RESOURCES", help="what a role reserves on "
                       "a machine of a Ray cluster, for example worker=cpu:2,gpu:1; may be given several times")
# fmt: on


def refuse_without_cluster(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for an option that means nothing without `--cluster`."""
    for name in ("workers", "servers", "mode", "solution", "sums", "max_staleness", "checkpoint_every", "checkpoints",
                 "place"):  # fmt: skip
        value = getattr(arguments, name)
        require(value is None or value == [], f"--{name.replace('_', '-')}", got=value,
                expected="nothing, but with --cluster")  # fmt: skip


def run_cluster(arguments: argparse.Namespace, stop: Callable[[], bool]) -> tuple[Report, str]:
    """Learn a recipe on a cluster, with a live view; return the report and a title for it.

    Raises:
        ConfigError: If the recipe or an option cannot work.
        ClusterError: If the cluster cannot be reached, or a process fails again and again.
    """
    require(arguments.cluster != "local" or not arguments.place, "--place", got=arguments.place,
            expected="none, with --cluster local", do="Processes of one machine reserve nothing.")  # fmt: skip
    config = elastic_config(arguments)
    launcher = open_launcher(arguments.cluster, config.folder / "logs", placement(arguments.place))
    report = learn_on(launcher, config, stop, quiet=arguments.json)
    return report, f"{config.learned().name}: {config.folder}"


def learn_on(launcher: Launcher, config: ElasticConfig, stop: Callable[[], bool], *, quiet: bool) -> Report:
    """Learn with a live view of workers, table servers, shards and decisions; the launcher is closed at the end."""
    with launcher, Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:

        def on_status(status: Status) -> None:
            if not quiet:
                live.update(draw_cluster(status), refresh=True)

        report = run_elastic(config, launcher=launcher, stop=stop, on_status=on_status)
    audit = report.settings.get("audit")
    if isinstance(audit, Mapping) and audit:
        report.notes.append(f"{audit['learned']:,} of {audit['expected']:,} examples learned, {audit['lost']:,} lost, "
                            f"{audit['doubled']:,} doubled: counted inside the model")  # fmt: skip
    return report


def elastic_config(arguments: argparse.Namespace) -> ElasticConfig:
    """Return the settings of a run from its command line."""
    fit = build(find_recipe(arguments.recipe), arguments.settings)
    if not isinstance(fit, FitConfig):
        raise ConfigError("--cluster", got=f"a recipe that returns {type(fit).__name__}", expected="one of a FitConfig",
                          do="The processes of an online run are started one by one: see --role.")  # fmt: skip
    require(arguments.max_staleness is None or arguments.mode == "async", "--max-staleness",
            got=arguments.max_staleness, expected="nothing, but with --mode async")  # fmt: skip
    names = ("workers", "servers", "mode", "sums", "max_staleness", "checkpoint_every", "checkpoints")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if arguments.solution is not None:
        solution = named_solution(arguments.solution)
        given["solution"] = solution_json(solution)
        if backs_up(solution):
            given.setdefault("sums", "head")
    folder = arguments.folder or Path("runs") / f"{fit.name}-{fingerprint(fit)[:8]}"
    return ElasticConfig(recipe=arguments.recipe, settings=tuple(arguments.settings), folder=folder,
                         remote=arguments.cluster != "local", **given)  # fmt: skip


def placement(words: list[str]) -> Placement:
    """Return what `--place` says.

    Example:
        >>> placement(["worker=cpu:2,gpu:1"]).devices
        {'worker': 'cpu:2,gpu:1'}
    """
    devices = {}
    for word in words:
        role, equals, resources = word.partition("=")
        require(bool(role and equals and resources), "--place", got=word, expected="ROLE=RESOURCES")
        devices[known_name("--place, role", role, ROLES)] = resources
    return Placement(devices=devices)


def named_solution(name: str) -> Any:
    """Return a solution by its name, with its default settings.

    Raises:
        ConfigError: If there is no such class, or it has settings without a default.
    """
    module_name, _, kind_name = name.rpartition(":")
    try:
        module = importlib.import_module(module_name or SOLUTIONS)
    except ImportError as error:
        raise ConfigError("--solution", got=repr(name), expected="package.module:Class that can be imported") from error
    kind = getattr(module, kind_name, None)
    if not (isinstance(kind, type) and is_dataclass(kind) and hasattr(kind, "decide")):
        known = [one for one in getattr(module, "__all__", ()) if hasattr(getattr(module, one), "decide")]
        raise ConfigError("--solution", got=repr(name), expected=nearest(kind_name, known))
    try:
        return kind()
    except TypeError as error:
        raise ConfigError("--solution", got=str(error), expected="a class with defaults for all settings") from error
