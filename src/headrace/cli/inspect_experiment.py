"""`headrace inspect experiment FOLDER`: what a server's arms did, and whether one is better than another."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from headrace.cli.output import console, print_json
from headrace.config import require
from headrace.errors import ConfigError
from headrace.evaluate import ArmReading, compare_arms
from headrace.online.arm_log import ArmLogConfig, read_arms
from headrace.online.layout import RunFolder


def add_experiment_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `inspect experiment`."""
    group = parser.add_argument_group("experiment", "how `inspect experiment` reads the arms of a server")
    group.add_argument("--control", default="", metavar="ARM", help="the arm that others are compared with (main)")
    group.add_argument("--metric", default="", help="the metric that decides, as click/rate or 'click/per request'; "
                       "settle it before you look (default: the rate of the first kind)")  # fmt: skip
    group.add_argument(
        "--kinds", default="", metavar="KIND[,KIND]", help="kinds of actions (default: those of the run)"
    )
    group.add_argument("--window", type=float, metavar="SECONDS", help="how long after an impression an action counts "
                       "(default: as the run joins them)")  # fmt: skip
    group.add_argument("--lateness", type=float, default=0.0, metavar="SECONDS",
                       help="how late an action may still come in (default 0)")  # fmt: skip
    group.add_argument("--unit", metavar="COLUMN", help="what was assigned to arms (default: as the server split)")
    group.add_argument("--since", metavar="TIME", help="impressions accepted from then on, as 2026-11-21T14:00 (UTC)")
    group.add_argument("--until", metavar="TIME", help="impressions accepted before then")
    group.add_argument("--confidence", type=float, default=0.95, help="of the intervals (default 0.95)")
    group.add_argument("--effect", type=float, default=0.05, metavar="SHARE", help="smallest relative difference that "
                       "would matter; where the always-valid interval is tightest (default 0.05)")  # fmt: skip
    group.add_argument("--one-look", action="store_true", help="this is the only look, at an end that was settled "
                       "before: the plain interval decides")  # fmt: skip


def experiment(words: Sequence[str], arguments: argparse.Namespace) -> int:
    """Print the comparison of the arms of one run folder; exit code 1 when nothing can be concluded.

    Raises:
        ConfigError: If there is not exactly one folder, or an option cannot be read.
        DataError: If there is nothing to compare.
    """
    require(len(words) == 1, "inspect experiment", got=f"{len(words)} folders", expected="one run folder",
            do="headrace inspect experiment FOLDER")  # fmt: skip
    seen = read_arms(RunFolder(Path(words[0])), ArmLogConfig(
        unit=arguments.unit, window_s=arguments.window, lateness_s=arguments.lateness,
        kinds=tuple(kind for kind in arguments.kinds.split(",") if kind), since=moment("--since", arguments.since),
        until=moment("--until", arguments.until),
    ))  # fmt: skip
    found = compare_arms(seen, ArmReading(
        control=arguments.control, metric=arguments.metric, confidence=arguments.confidence,
        expected_effect=arguments.effect, one_look=arguments.one_look,
    ))  # fmt: skip
    if arguments.json:
        print_json(found.to_json())
    else:
        console().print(found.table(), markup=False)
    return 1 if found.reasons else 0


def moment(name: str, text: str | None) -> int | None:
    """Return a time as µs since the epoch; without a zone it is UTC.

    Example:
        >>> moment("--since", "1970-01-01T00:00:02")
        2000000
    """
    if text is None:
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(name, got=repr(text), expected="a time as 2026-11-21T14:00") from error
    return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1e6)
