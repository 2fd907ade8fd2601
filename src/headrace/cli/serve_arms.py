"""What `headrace serve` is told about arms: further runs that answer a share of the traffic."""

from __future__ import annotations

import argparse

from headrace.config import known_name, require
from headrace.online import RunFolder, build, find_recipe
from headrace.online.arms import ArmConfig, open_experiment, parse_arm
from headrace.online.config import OnlineConfig
from headrace.ranking import as_online
from headrace.serve.arms import Experiment
from headrace.serve.experiment import KEY


def add_arm_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `--arm`, `--arm-settings`, `--split-by` and `--salt`."""
    parser.add_argument("--arm", action="append", default=[], metavar="NAME=FOLDER:SHARE",
                        help="answer a share of the requests with another run's newest version, or with one version "
                             "(NAME=FOLDER@VERSION:SHARE); may be given several times")  # fmt: skip
    parser.add_argument("--arm-settings", action="append", nargs="+", default=[], metavar=("NAME", "name=value"),
                        help="where an arm's recipe parameters differ from the server's own")  # fmt: skip
    parser.add_argument("--split-by", default=KEY, metavar="COLUMN", help="what stays with one arm: `key`, each "
                        "request by itself (default), or a column such as `user`")  # fmt: skip
    parser.add_argument("--salt", default="", help="another salt, another split; one is drawn if none is given")


def experiment_of(
    arguments: argparse.Namespace, config: OnlineConfig, folder: RunFolder, replica: str | None
) -> Experiment | None:
    """Return the experiment that the arguments ask for, or None without arms."""
    if not arguments.arm:
        for option, given in (("--split-by", arguments.split_by != KEY), ("--salt", bool(arguments.salt)),
                              ("--arm-settings", bool(arguments.arm_settings))):  # fmt: skip
            require(not given, option, got="no --arm", expected="at least one arm")
        return None
    arms = [parse_arm(text) for text in arguments.arm]
    changed = {words[0]: words[1:] for words in arguments.arm_settings}
    for name in changed:
        known_name("--arm-settings", name, [arm.name for arm in arms])
    configured = [_configured(arm, arguments, changed[arm.name]) if arm.name in changed else arm for arm in arms]
    return open_experiment(config, folder, configured, split_by=arguments.split_by, salt=arguments.salt,
                           replica=replica or "")  # fmt: skip


def _configured(arm: ArmConfig, arguments: argparse.Namespace, settings: list[str]) -> ArmConfig:
    own = {item.partition("=")[0] for item in settings}
    kept = [item for item in arguments.settings if item.partition("=")[0] not in own]
    config = as_online(build(find_recipe(arguments.recipe), [*kept, *settings]))
    return ArmConfig(name=arm.name, folder=arm.folder, share=arm.share, version=arm.version, config=config)
