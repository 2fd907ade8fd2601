"""`headrace demo --cluster`: workers that share a click log, one of them slow for a while, and what is decided."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from headrace.cli.output import print_json
from headrace.cli.run import show, stop_on_signals
from headrace.cli.run_cluster import learn_on
from headrace.elastic.config import ElasticConfig
from headrace.elastic.demo import SLOW_TIMES, SLOW_WORKER, choose, slow_for_a_while
from headrace.runtime import AntDtNd, solution_json
from headrace.runtime.clusters import open_launcher

WORKERS, SERVERS = 4, 2


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the demo on several processes or machines."""
    group = parser.add_argument_group("on several processes or machines")
    group.add_argument("--cluster", metavar="WHERE", help="learn the log with several workers instead: local, ray, "
                       "auto or host:port, as in `headrace run`")  # fmt: skip
    group.add_argument("--workers", type=int, default=WORKERS, help=f"with --cluster (default {WORKERS})")
    group.add_argument("--servers", type=int, default=SERVERS, help=f"table servers (default {SERVERS})")


def demo_cluster(arguments: argparse.Namespace, folder: Path) -> int:
    """Run the demo on a cluster and print its report."""
    out = Console(stderr=True)
    recipe, settings, reason = choose(arguments.data)
    config = ElasticConfig(
        recipe=recipe, settings=settings, folder=folder, workers=arguments.workers, servers=arguments.servers,
        solution=solution_json(AntDtNd()), pattern=slow_for_a_while(), remote=arguments.cluster != "local",
    )  # fmt: skip
    out.print(reason)
    if arguments.workers > SLOW_WORKER:
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
