"""The fourth process: answers over HTTP with the newest published version, logs what it answered, takes feedback."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace

from headrace import serve
from headrace.config import require
from headrace.online.backlog import Backlog
from headrace.online.build import open_serving, with_preparation
from headrace.online.changes import Following, acknowledger, open_changes
from headrace.online.config import OnlineConfig
from headrace.online.erase import erasable, open_book
from headrace.online.layout import EVENTS, ITEMS, RunFolder
from headrace.online.logs import open_log
from headrace.online.recommending import MAIN, open_recommender
from headrace.online.roles import Stop
from headrace.online.workers import Crew, ServerProcesses
from headrace.serve import AccessConfig, ServeConfig, bind, create_app
from headrace.serve.arms import Experiment
from headrace.serve.erasures import ErasureDesk
from headrace.serve.predictor import RankPredictor
from headrace.serve.server import App, check_exposure

STOP_POLL_S = 0.1


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with bind(port=0) as sock:
        return int(sock.getsockname()[1])


def run_server(
    config: OnlineConfig, folder: RunFolder, *, host: str = "127.0.0.1", port: int = 8080, stop: Stop | None = None,
    access: AccessConfig | None = None, limits: Mapping[str, object] | None = None, following: Following | None = None,
    experiment: Experiment | None = None, workers: int = 0,
) -> None:  # fmt: skip
    """Serve until SIGTERM, SIGINT or `stop`; goes on answering while learner and publisher are dead.

    Args:
        config: The run; the server follows the versions published in its folder.
        folder: The run's folder; created if absent, so that the server may be started first.
        host: Address to bind.
        port: Port to bind.
        stop: Asked ten times a second.
        access: Tokens, certificates and limits per client; None: no tokens, loopback only.
        limits: Fields of `ServeConfig` that replace what the run says.
        following: Where versions are read from, and how; None: the run's own folder, one version at a time.
        experiment: Further arms that answer a share of the requests, of `open_experiment`.
        workers: Processes that answer rank requests over one copy of the model in memory; 0: this process alone.

    Raises:
        ConfigError: If the port is in use, or others would reach the server without tokens; before anything was
            started.
    """
    check_exposure(host, access or AccessConfig())
    follow = following or Following()
    if workers:
        _check_one_model(experiment, follow)
        processes = ServerProcesses(Crew(
            config=with_preparation(config, folder), workers=workers, host=host, port=port,
            access=access or AccessConfig(), settings=_settings(config, limits),
            application=lambda serving: _application(config, folder, serving.predictor, port, access, limits, follow),
        ))  # fmt: skip
        processes.run(stop or (lambda: False))
        return
    run = with_preparation(config, folder)
    predictor = open_serving(run, mode=follow.mode).predictor
    app = _application(config, folder, predictor, port, access, limits, follow, experiment)
    ended = threading.Event()
    if stop is not None:
        threading.Thread(target=_watch, args=(stop, ended), daemon=True).start()
    serve.run_server(app, host, port, stop=ended, access=access)


def _settings(config: OnlineConfig, limits: Mapping[str, object] | None) -> ServeConfig:
    played = config.player is not None  # event times of a played log are not wall times
    base = ServeConfig(topic=EVENTS, position=config.position, max_future_s=None if played else 3600.0)
    return replace(base, **dict(limits or {}))  # type: ignore[arg-type]


def _application(
    config: OnlineConfig, folder: RunFolder, predictor: RankPredictor, port: int, access: AccessConfig | None,
    limits: Mapping[str, object] | None, follow: Following, experiment: Experiment | None = None,
) -> App:  # fmt: skip
    """Open what a server reads and writes, and return its application."""
    events, changes = open_log(config, folder, EVENTS), open_changes(config, folder, follow.changes)
    settings = replace(_settings(config, limits), poll_s=changes.poll_s)

    def learner_age() -> float | None:
        written = folder.read_status("learner").get("time")
        return time.time() - float(written) if isinstance(written, (int, float)) else None

    run, recommender = with_preparation(config, folder), None
    if run.recommend is not None:
        arms = {} if experiment is None else {name: arm.predictor for name, arm in experiment.arms.items()}
        items = open_log(config, folder, ITEMS)
        recommender = open_recommender(run, events, items, {MAIN: predictor, **arms})
    return create_app(
        predictor, events, settings,
        changes=changes.source, sign_of_life=learner_age if follow.changes is None else None, access=access,
        backlog=Backlog(config, folder, events), acknowledger=acknowledger(changes, follow, port),
        experiment=experiment, recommender=recommender,
        erasures=_desk(config, folder, experiment) if follow.changes is None else None,
    )  # fmt: skip


def _desk(config: OnlineConfig, folder: RunFolder, experiment: Experiment | None) -> ErasureDesk | None:
    """Return who takes erasures, for this run and those of the other arms; None where no user can be erased.

    A server that follows a copy of the versions takes none: the run's own folder is out of its reach.
    """
    users = erasable(config)
    if users is None:
        return None
    runs = [folder, *(RunFolder(path) for path in (experiment.folders if experiment is not None else ()))]
    return ErasureDesk([open_book(run) for run in runs], users, within_s=config.erase.within_s)


def _check_one_model(experiment: Experiment | None, follow: Following) -> None:
    require(experiment is None, "workers", got="further arms", expected="one model",
            do="Serve several arms without worker processes.")  # fmt: skip
    require(follow.mode == "consistent", "workers", got="eventual versions", expected="consistent ones",
            do="Workers never wait for a version: leave --eventual out.")  # fmt: skip


def _watch(stop: Stop, ended: threading.Event) -> None:
    while not stop():
        time.sleep(STOP_POLL_S)
    ended.set()
