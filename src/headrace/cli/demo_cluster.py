"""`headrace demo --cluster`: workers that share a click log, one of them slow for a while, and what is decided."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from headrace.cli.output import print_json
from headrace.cli.run import show, stop_on_signals
from headrace.cli.run_cluster import learn_on
from headrace.config import require
from headrace.elastic.config import ElasticConfig
from headrace.elastic.demo import SLOW_TIMES, SLOW_WORKER, choose, slow_for_a_while
from headrace.runtime import AntDtNd, solution_json
from headrace.runtime.clusters import open_launcher

WORKERS, SERVERS = 4, 2
DATA = ("auto", "trivago")


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the demo on several processes or machines."""
    group = parser.add_argument_group("on several processes or machines")
    group.add_argument("--cluster", metavar="WHERE", help="learn the log with several workers instead: local, ray, "
                       "auto or host:port, as in `headrace run`")  # fmt: skip
    group.add_argument("--workers", type=int, help=f"with --cluster (default {WORKERS})")
    group.add_argument("--servers", type=int, help=f"with --cluster: table servers (default {SERVERS})")


def refuse_without_cluster(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for an option that means nothing without `--cluster`."""
    for name in ("workers", "servers"):
        value = getattr(arguments, name)
        require(value is None, f"--{name}", got=value, expected="nothing, but with --cluster")


def demo_cluster(arguments: argparse.Namespace, folder: Path) -> int:
    """Run the demo on a cluster and print its report.

    Raises:
        ConfigError: If an option is given that such a demo does not heed.
    """
    require(arguments.data in DATA, "--data", got=arguments.data, expected=f"{' or '.join(DATA)}, with --cluster",
            do="A cluster learns the trivago log, or invented clicks where there is none.")  # fmt: skip
    require(not arguments.forever, "--forever", got=arguments.forever, expected="nothing, with --cluster",
            do="A cluster learns the log once.")  # fmt: skip
    require(arguments.seconds is None, "--seconds", got=arguments.seconds, expected="nothing, with --cluster",
            do="A cluster learns as fast as it can.")  # fmt: skip
    workers = WORKERS if arguments.workers is None else arguments.workers
    servers = SERVERS if arguments.servers is None else arguments.servers
    out = Console(stderr=True)
    recipe, settings, reason = choose(arguments.data)
    config = ElasticConfig(
        recipe=recipe, settings=settings, folder=folder, workers=workers, servers=servers,
        solution=solution_json(AntDtNd()), pattern=slow_for_a_while(), remote=arguments.cluster != "local",
    )  # fmt: skip
    out.print(reason)
    if workers > SLOW_WORKER:
        out.print(f"  · worker-{SLOW_WORKER} is made {SLOW_TIMES:g} times slower for a while; kill others as you like")
    out.print(f"  · from another terminal: headrace inspect cluster {folder} --watch", highlight=False, soft_wrap=True)
    launcher = open_launcher(arguments.cluster, folder / "logs")
    report = learn_on(launcher, config, stop_on_signals(), quiet=arguments.json)
    if arguments.json:
        print_json(report.to_json())
        return 0
    show(report, f"{config.learned().name}: {folder}", as_json=False)
    out.print(f"\nEvery decision with its reason: {folder / 'decisions.jsonl'}", highlight=False, soft_wrap=True)
    return 0
