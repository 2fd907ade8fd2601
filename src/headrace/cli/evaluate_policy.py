"""`headrace evaluate RECIPE --policy`: what a version would have earned as a ranking policy, off another one's log."""

from __future__ import annotations

import argparse

from headrace.cli.output import console, print_json
from headrace.errors import ConfigError
from headrace.evaluate import OffPolicy
from headrace.online import OnlineConfig, RunFolder
from headrace.online.policy import judge_ranking
from headrace.protocols import Source

GREEDY = "greedy"


def add_policy_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `--policy`, `--clip` and `--switch`."""
    group = parser.add_argument_group("policy", "judge the version as a ranking policy, by logged propensities")
    group.add_argument("--policy", metavar="POLICY", help="`greedy`: rank by score; or a share from 0 to 1 of "
                       "lists that are shuffled, the rest ranked by score. Needs whole lists with `propensity` and "
                       "place")  # fmt: skip
    group.add_argument("--clip", type=float, metavar="WEIGHT", help="add estimates with weights cut here")
    group.add_argument(
        "--switch", type=float, metavar="WEIGHT", help="add SWITCH-DR: above this weight the model alone"
    )


def judge_policy(arguments: argparse.Namespace, config: OnlineConfig, folder: RunFolder, source: Source) -> int:
    """Print the judgement; exit code 1 when there can be no verdict.

    Raises:
        ConfigError: If the policy cannot be read, or a test was asked for that policies do not have.
    """
    if arguments.test == "permutation":
        raise ConfigError("--test", got="permutation", expected="analytic or bootstrap, with --policy")
    how = OffPolicy(clip=arguments.clip, switch=arguments.switch, confidence=arguments.confidence,
                    interval="bootstrap" if arguments.test == "bootstrap" else "normal")  # fmt: skip
    found = judge_ranking(config, folder, source, explore=explored(arguments.policy), groups=arguments.groups or "key",
                          learned=arguments.input is None, how=how)  # fmt: skip
    if arguments.json:
        print_json(found.to_json())
    else:
        console().print(
            f"{config.name}: {folder.root}, as a policy ({arguments.policy})\n\n{found.table()}", markup=False
        )
    return 1 if found.reasons else 0


def explored(text: str) -> float:
    """Return the share of lists that a policy shuffles.

    Example:
        >>> explored("greedy"), explored("0.1")
        (0.0, 0.1)
    """
    if text == GREEDY:
        return 0.0
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError("--policy", got=repr(text), expected="greedy, or a share from 0 to 1") from error
