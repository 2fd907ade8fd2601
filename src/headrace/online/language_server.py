"""A language model served: answers, logs what it answered, takes votes; with its learner beside it or elsewhere."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from headrace import serve
from headrace.config import require
from headrace.errors import HeadraceError
from headrace.online.backlog import Backlog
from headrace.online.changes import Following, acknowledger, open_changes
from headrace.online.language_build import open_language_predictor
from headrace.online.language_config import LanguageConfig
from headrace.online.language_roles import (
    run_generator,
    run_language_learner,
    run_language_publisher,
)
from headrace.online.layout import EVENTS, STAGED, RunFolder
from headrace.online.logs import open_log
from headrace.online.roles import Stop, run_joiner
from headrace.serve import AccessConfig, ServeConfig
from headrace.serve.http import create_language_app
from headrace.serve.language_service import LanguageService
from headrace.serve.server import App, check_exposure

_log = logging.getLogger(__name__)
POLL_S = 0.05


def run_language_server(
    config: LanguageConfig, folder: RunFolder, *, host: str = "127.0.0.1", port: int = 8080, stop: Stop | None = None,
    access: AccessConfig | None = None, limits: Mapping[str, object] | None = None, following: Following | None = None,
    learning: bool = False, on_ready: Callable[[str], None] | None = None,
) -> None:  # fmt: skip
    """Serve until SIGTERM, SIGINT or `stop`.

    Args:
        config: The run; the server follows the versions published in its folder.
        folder: The run's folder; created if absent, so that the server may be started first.
        host: Address to bind.
        port: Port to bind; 0 takes a free one.
        stop: Asked ten times a second.
        access: Tokens, certificates and limits per client; None: no tokens, loopback only.
        limits: Fields of `ServeConfig` that replace what the run says.
        following: Where versions are read from, and how; None: the run's own folder.
        learning: Join, learn and publish in this process as well.
        on_ready: Called with the server's address once it answers.

    Raises:
        ConfigError: If the port is in use, or others would reach the server without tokens; before anything was
            started.
        HeadraceError: If the learner beside it failed; nothing that was said is lost.
    """
    check_exposure(host, access or AccessConfig())
    follow = following or Following()
    require(not learning or follow.changes is None, "learning", got="versions of another place",
            expected="the run's own folder", do="Learn where the run's folder is.")  # fmt: skip
    beside = Beside(config, folder) if learning else None
    ended, app = threading.Event(), language_application(config, folder, port, limits, follow, access)

    def watch() -> None:
        while not ended.wait(POLL_S):
            if (stop is not None and stop()) or (beside is not None and beside.failed):
                ended.set()

    threading.Thread(target=watch, daemon=True).start()
    if beside is not None:
        beside.start()
    try:
        serve.run_server(app, host, port, on_ready=on_ready, stop=ended, access=access)
    finally:
        ended.set()
        if beside is not None:
            beside.close()
    if beside is not None:
        beside.check()


def language_application(
    config: LanguageConfig, folder: RunFolder, port: int, limits: Mapping[str, object] | None, follow: Following,
    access: AccessConfig | None,
) -> App:  # fmt: skip
    """Open what a server of a language model reads and writes, and return its application."""
    events, changes = open_log(config, folder, EVENTS), open_changes(config, folder, follow.changes)
    settings = replace(ServeConfig(topic=config.topic, poll_s=changes.poll_s), **dict(limits or {}))  # type: ignore[arg-type]

    def learner_age() -> float | None:
        written = folder.read_status("learner").get("time")
        return time.time() - float(written) if isinstance(written, (int, float)) else None

    service = LanguageService(
        open_language_predictor(config, mode=follow.mode), events, settings, config.offer, changes=changes.source,
        sign_of_life=learner_age if follow.changes is None else None,
        acknowledger=acknowledger(changes, follow, port),
    )  # fmt: skip
    if config.rollouts is None:  # else nobody waits for what people say
        service.pressure.backlog = Backlog(config, folder, events)
    return create_language_app(service, access=access)


@dataclass(slots=True, eq=False)
class Beside:
    """Joiner, learner and publisher of a run as threads of this process; the generator too, if the run has one.

    They are the functions that run as processes of their own elsewhere, over the same logs: a run may go on in the
    other way at any time.

    Args:
        config: The run.
        folder: Its folder; nobody else may join, learn or publish there.

    Attributes:
        failed: Whether one of them has failed.
    """

    config: LanguageConfig
    folder: RunFolder
    failed: bool = False
    _error: Exception | None = None
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Start them."""
        stop, config, folder = self._ended.is_set, self.config, self.folder
        work: dict[str, Callable[[], object]] = {
            "publisher": lambda: run_language_publisher(config, folder, stop),
            "learner": lambda: run_language_learner(config, folder, stop),
            "joiner": lambda: run_joiner(config, folder, stop),
        }
        if config.rollouts is not None:
            work["generator"] = lambda: run_generator(config, folder, stop)
        for name, one in work.items():
            self._threads.append(threading.Thread(target=self._run, args=(name, one), name=name))
            self._threads[-1].start()

    def _run(self, name: str, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  whoever started them has to hear of it
            if not isinstance(error, HeadraceError):
                _log.exception("the %s failed", name)
            self._error = self._error or error
            self.failed = True

    @property
    def done(self) -> bool:
        """Whether all have ended."""
        return not any(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """End them; what they have done is durable, and goes on another time."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def check(self) -> None:
        """Raise what one of them failed with, if one did."""
        if self._error is not None:
            raise self._error


def run_rollouts(config: LanguageConfig, folder: RunFolder, stop: Stop) -> None:
    """Write, judge, learn and publish in this process until the prompts end, or `stop` says so.

    Raises:
        ConfigError: If the run has no rollouts.
        HeadraceError: If a part failed; nothing is lost, and the next start goes on.
    """
    require(config.rollouts is not None, f"Run '{config.name}'", got="no rollouts", expected="prompts and a rewarder",
            do="`headrace serve --learn` serves it and learns from what people say.")  # fmt: skip
    open_log(config, folder, STAGED)  # every log is there before two threads open it
    beside = Beside(config, folder)
    beside.start()
    while not (beside.done or beside.failed or stop()):
        time.sleep(POLL_S)
    beside.close()
    beside.check()
