"""`headrace demo`: a real click log, streamed, served, joined, learned and published, with a live view."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.live import Live

from headrace.cli.demo_cluster import add_cluster_arguments, demo_cluster, refuse_without_cluster
from headrace.cli.demo_view import Snapshot, comparison, draw
from headrace.cli.output import print_json
from headrace.cli.run import stop_on_signals
from headrace.config import write_run_record
from headrace.data.files import sha256
from headrace.errors import HeadraceError, WorkerLost
from headrace.online import (
    ROLES,
    Feeder,
    OnlineConfig,
    RunFolder,
    Supervisor,
    build,
    close_events,
    deep,
    export_log,
    find_recipe,
    summarise,
)
from headrace.online.demo import choose
from headrace.online.server import free_port
from headrace.serve import Client

NAME = "demo"
HELP = "stream a real click log through the whole loop and watch it learn"
DEFAULT_FOLDER = Path("headrace-demo")
READ_ROWS = 512
SECONDS = 100.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("--data", choices=("auto", "trivago", "movielens", "world"), default="auto",
                        help="what to play (auto: what HEADRACE_DATA has, a download, or the world)")  # fmt: skip
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="where runs are kept")
    parser.add_argument("--seconds", type=float, help=f"how long the log is stretched or squeezed to ({SECONDS:g})")
    parser.add_argument("--forever", action="store_true", help="play the log again and again until Ctrl-C")
    parser.add_argument("--fresh", action="store_true", help="start anew even if an unfinished run is there")
    parser.add_argument("--write", type=Path, metavar="FILE", help="only write the log to a Parquet file")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object; no live view")
    add_cluster_arguments(parser)


@dataclass(slots=True)
class Demo:
    """One demo run: four processes, a feeder thread and a view."""

    recipe: str
    settings: list[str]
    config: OnlineConfig
    folder: RunFolder
    seconds: float
    quiet: bool
    port: int = field(default_factory=free_port)
    auc_history: list[float] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    failure: Exception | None = None

    def commands(self) -> dict[str, list[str]]:
        """Return the command line of every process."""
        start = [sys.executable, "-m", "headrace"]
        place = ["--folder", str(self.folder.root)]
        commands = {role: [*start, "run", self.recipe, *self.settings, "--role", role, *place]
                    for role in ROLES if role != "server"}  # fmt: skip
        commands["server"] = [*start, "serve", self.recipe, *self.settings, *place, "--port", str(self.port)]
        return commands

    def play(self) -> bool:
        """Run to the end of the log; returns False when stopped before."""
        ask = stop_on_signals()
        one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        supervisor = Supervisor(self.commands(), self.folder.root / "logs", environment=one_thread)
        supervisor.start()
        client = Client(f"http://127.0.0.1:{self.port}")
        speed = self.config.span_s / self.seconds
        feeder = Feeder(self.config, client, self.folder, speed=speed, read_rows=READ_ROWS)
        feeding = threading.Thread(target=self._feed, args=(feeder,), daemon=True)
        started = time.monotonic()
        try:
            with Live(console=Console(stderr=True), refresh_per_second=4, transient=True) as live:
                self._wait_for_server(supervisor, client, ask)
                feeding.start()
                phase = "streaming"
                while phase != "done" and not ask():
                    supervisor.poll()
                    phase = self._phase(feeder, feeding, supervisor, phase)
                    if not self.quiet:
                        live.update(draw(self._snapshot(feeder, client, supervisor, started, phase)))
                    time.sleep(0.25)
            finished = phase == "done"
            if finished:
                self.folder.write_status("final", {"health": client.health(), "seconds": time.monotonic() - started})
            return finished
        finally:
            self.stopped.set()
            if feeding.is_alive():
                feeding.join(10.0)
            supervisor.stop()

    def _feed(self, feeder: Feeder) -> None:
        try:
            feeder.run(self.stopped.is_set)
        except Exception as error:  # noqa: BLE001  raised again where it can be seen
            self.failure = error

    def _wait_for_server(self, supervisor: Supervisor, client: Client, ask: object) -> None:
        deadline = time.monotonic() + 90.0
        while time.monotonic() < deadline:
            supervisor.poll()
            try:
                if deep(client.health(), "version") >= 0:
                    return
            except (HeadraceError, OSError):
                pass
            if callable(ask) and ask():
                return
            time.sleep(0.2)
        raise WorkerLost("Server", got="no answer after 90 s", expected="a served version",
                         do=f"Its log says:\n{supervisor.tail('server')}\n{supervisor.tail('learner')}")  # fmt: skip

    def _phase(self, feeder: Feeder, feeding: threading.Thread, supervisor: Supervisor, phase: str) -> str:
        if self.failure is not None:
            raise self.failure
        if phase == "streaming" and not feeding.is_alive():
            close_events(self.config, self.folder)
            return "draining"
        waiting = [role for role in supervisor.running() if role != "server"]
        if phase == "draining" and not waiting:
            return "catching up"
        if phase == "catching up":
            last = deep(self.folder.read_status("publisher"), "version")
            served = Client(f"http://127.0.0.1:{self.port}").health()
            return "done" if deep(served, "version") >= last else phase
        return phase

    def _snapshot(self, feeder: Feeder, client: Client, supervisor: Supervisor, started: float, phase: str) -> Snapshot:
        learner = self.folder.read_status("learner")
        try:
            health = client.health()
        except (HeadraceError, OSError):
            health = {}
        metrics = learner.get("metrics")
        newest = "window_logged_auc" if isinstance(metrics, dict) and "window_logged_auc" in metrics else "window_auc"
        window = deep(metrics, newest) if isinstance(metrics, dict) else float("nan")
        if window == window and (not self.auc_history or self.auc_history[-1] != window):
            self.auc_history.append(window)
        done = feeder.progress
        return Snapshot(
            name=self.config.name, seconds=time.monotonic() - started, events_per_s=done.rate(), phase=phase,
            requests=done.requests, actions=done.actions, event_time=done.event_time, learner=learner, health=health,
            joiner=self.folder.read_status("joiner"), restarts=supervisor.restarts(), auc_history=self.auc_history,
        )  # fmt: skip


def run_number(root: Path, *, fresh: bool) -> Path:
    """Return the folder of the newest unfinished run below `root`, or of a new one."""
    for count in itertools.count(1):
        folder = root / f"run-{count:03d}"
        if not folder.exists():
            return folder
        newer = (root / f"run-{count + 1:03d}").exists()
        if not newer and not fresh and not (folder / "report" / "report.json").exists():
            return folder
    raise AssertionError("unreachable")


def _write(arguments: argparse.Namespace, console: Console) -> int:
    recipe, settings, _ = choose(arguments.data)
    if recipe.endswith(":world"):
        settings = [*settings, "log=true"]
    rows = export_log(build(find_recipe(recipe), settings), arguments.write)
    if arguments.json:
        print_json({"rows": rows, "file": str(arguments.write)})
    else:
        console.print(f"{rows:,} rows of {recipe} in {arguments.write}", highlight=False, soft_wrap=True)
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    console = Console(stderr=True)
    if arguments.write is not None:
        return _write(arguments, console)
    if arguments.cluster is None:
        refuse_without_cluster(arguments)
    root = run_number(arguments.folder, fresh=arguments.fresh or arguments.cluster is not None)
    if arguments.cluster is not None:
        return demo_cluster(arguments, root)
    recipe, settings, reason = choose(arguments.data, forever=arguments.forever)
    recorded = root / "demo.json"
    if recorded.exists():
        kept = json.loads(recorded.read_text())
        if kept.get("recipe") != recipe or kept.get("settings") != settings:
            root = run_number(arguments.folder, fresh=True)
        else:
            console.print(f"Resuming {root}.")
    config = build(find_recipe(recipe), settings)
    folder = RunFolder(root)
    hashes = {path.name: sha256(path) for path in config.data_files}
    write_run_record(root, config, seed=config.seed, data=hashes)
    (root / "demo.json").write_text(json.dumps({"recipe": recipe, "settings": settings}))
    console.print(reason)
    for note in config.notes:
        console.print(f"  · {note}", highlight=False)
    seconds = SECONDS if arguments.seconds is None else arguments.seconds
    demo = Demo(recipe, settings, config, folder, seconds, arguments.json)
    if not demo.play():
        console.print(f"Stopped; nothing is lost. The same command resumes {root}.")
        return 0
    report, page = summarise(config, folder)
    if arguments.json:
        print_json(report.to_json())
        return 0
    console.print(comparison(report))
    served = " ".join(["headrace serve", recipe, *settings, f"--folder {root} --port 8080"])
    lines = [f"headrace inspect {root}", served, "headrace papers run monolith --size toy"]
    console.print(f"\nReport with plots: {page}\n\nTry next:", highlight=False, soft_wrap=True)
    for line in lines:
        console.print(f"  {line}", highlight=False, soft_wrap=True)
    return 0
