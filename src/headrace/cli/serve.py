"""`headrace serve RECIPE`: answer requests over HTTP with the newest published version of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from headrace.cli.run import run_folder, stop_on_signals
from headrace.cli.run_language import serve_language
from headrace.cli.serve_access import access_of, add_access_arguments, limits_of
from headrace.cli.serve_arms import add_arm_arguments, experiment_of
from headrace.config import require
from headrace.online import Following, build, find_recipe, run_server, with_items
from headrace.online.language_config import LanguageConfig
from headrace.ranking import as_online
from headrace.serve.server import check_exposure

NAME = "serve"
HELP = "serve a run's newest version over HTTP, log what is served, and take feedback"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("recipe", help="package.module:function, the same as in `headrace run`")
    parser.add_argument("settings", nargs="*", metavar="name=value", help="the recipe's own parameters")
    parser.add_argument("--folder", type=Path, help="run folder whose versions are served")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind; loopback unless told otherwise")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--changes", metavar="PLACE", help="read versions from a folder of changes, or "
                        "kafka://broker:9092/topic?snapshots=PATH, instead of the run's own log")  # fmt: skip
    parser.add_argument("--replica", metavar="NAME", help="this server's name in acknowledgements; another one for "
                        "every server (default: machine and port)")  # fmt: skip
    parser.add_argument("--eventual", action="store_true", help="put rows while requests are answered: no waiting, and "
                        "an answer may mix rows of its version and the next one")  # fmt: skip
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that answer rank requests over "
                        "one copy of the model in memory (default 0: one process does everything)")  # fmt: skip
    parser.add_argument("--batch-window-ms", type=float, default=0.0, metavar="MS", help="how long a worker waits for "
                        "more requests to score together while they come several at a time")  # fmt: skip
    parser.add_argument("--items", type=Path, metavar="FILE", help="the item catalogue (CSV, JSON lines, Parquet), "
                        "loaded once per content; the recipe has to have a RecommendConfig")  # fmt: skip
    parser.add_argument("--learn", action="store_true", help="of a language model: join, learn and publish in this "
                        "process as well")  # fmt: skip
    add_arm_arguments(parser)
    add_access_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    recipe = build(find_recipe(arguments.recipe), arguments.settings)
    folder, access = run_folder(recipe, arguments.folder), access_of(arguments)
    check_exposure(arguments.host, access)
    if isinstance(recipe, LanguageConfig):
        serve_language(recipe, folder, arguments, access, stop_on_signals(), limits_of(arguments))
        return 0
    require(not arguments.learn, "--learn", got="a ranker", expected="a language model",
            do="Start joiner, learner and publisher beside it: `headrace run RECIPE --role ...`.")  # fmt: skip
    config = with_items(as_online(recipe), arguments.items)
    following = Following(changes=arguments.changes, replica=arguments.replica,
                          mode="eventual" if arguments.eventual else "consistent")  # fmt: skip
    kind = "http" if access.certificate is None else "https"
    console = Console(stderr=True)
    console.print(f"serving {config.name} from {folder.root} on {kind}://{arguments.host}:{arguments.port}",
                  highlight=False)  # fmt: skip
    run_server(config, folder, host=arguments.host, port=arguments.port, stop=stop_on_signals(), access=access,
               limits={**limits_of(arguments), "batch_window_ms": arguments.batch_window_ms},
               following=following, workers=arguments.workers,
               experiment=experiment_of(arguments, config, folder, arguments.replica))  # fmt: skip
    return 0
