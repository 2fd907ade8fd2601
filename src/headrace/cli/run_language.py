"""`headrace run` and `headrace serve` for a language model: all of it here, one role of it, or a server."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from rich.console import Console

from headrace.config import require
from headrace.online import Following, RunFolder, run_joiner
from headrace.online.language_config import LanguageConfig
from headrace.online.language_roles import run_generator, run_language_learner, run_language_publisher
from headrace.online.language_server import run_language_server, run_rollouts
from headrace.serve import AccessConfig
from headrace.types import Report

Stop = Callable[[], bool]


def run_language(config: LanguageConfig, folder: RunFolder, arguments: argparse.Namespace, stop: Stop) -> Report | None:
    """Run one role, or all of a run that writes by itself; returns a report where there is one.

    Raises:
        ConfigError: If nobody writes by itself and no role is named.
    """
    require(arguments.events_from is None, "--events-from", got=str(arguments.events_from),
            expected="nothing: a language model has one arm")  # fmt: skip
    if arguments.role == "joiner":
        run_joiner(config, folder, stop)
    elif arguments.role == "generator":
        run_generator(config, folder, stop)
    elif arguments.role == "publisher":
        run_language_publisher(config, folder, stop, copies=arguments.changes)
    elif arguments.role == "learner":
        return run_language_learner(config, folder, stop)
    else:
        run_rollouts(config, folder, stop)
        return _summary(folder)
    return None


def _summary(folder: RunFolder) -> Report:
    """Return what the roles said last."""
    report = Report()
    for role, names in {"learner": ("examples", "steps", "loss", "version", "refused"),
                        "generator": ("rollouts",)}.items():  # fmt: skip
        status = folder.read_status(role)
        for name in names:
            value = status.get(name)
            if isinstance(value, (int, float)):
                report.add(name, float(value), source=role)
    return report


def serve_language(
    config: LanguageConfig, folder: RunFolder, arguments: argparse.Namespace, access: AccessConfig, stop: Stop,
    limits: dict[str, object],
) -> None:  # fmt: skip
    """Serve a language model, with its learner beside it if that is asked for.

    Raises:
        ConfigError: If an option is given that only a ranker has.
    """
    rankers = {"--workers": arguments.workers > 0, "--items": arguments.items is not None,
               "--arm": bool(arguments.arm), "--batch-window-ms": arguments.batch_window_ms > 0}  # fmt: skip
    for option, given in rankers.items():
        require(not given, option, got="a language model", expected="a ranker", do="Leave it out.")
    following = Following(changes=arguments.changes, replica=arguments.replica,
                          mode="eventual" if arguments.eventual else "consistent")  # fmt: skip

    def ready(url: str) -> None:
        Console(stderr=True).print(f"people choose at {url}/preferences", highlight=False)

    run_language_server(config, folder, host=arguments.host, port=arguments.port, stop=stop, access=access,
                        limits=limits, following=following, learning=arguments.learn, on_ready=ready)  # fmt: skip
