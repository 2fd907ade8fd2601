"""Plays a log or a simulated world into a running server over HTTP, at a chosen speed, and can stop anywhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from headrace.errors import ConfigError, HeadraceError, SourceEnded, WorkerLost
from headrace.learn import ManifestCheckpoint
from headrace.online.config import OnlineConfig
from headrace.online.layout import RunFolder
from headrace.protocols import Resumable
from headrace.serve import Client
from headrace.types import Events, State

RETRY_S = 0.2
GIVE_UP_S = 120.0
SAVE_EVERY_S = 0.5


@dataclass(slots=True)
class FeedProgress:
    """What was played so far; `event_time` (µs) is the newest one sent."""

    requests: int = 0
    actions: int = 0
    event_time: int = 0
    ended: bool = False
    recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=512))

    def rate(self) -> float:
        """Return rows per second over the last seconds."""
        if len(self.recent) < 2:
            return 0.0
        span = self.recent[-1][0] - self.recent[0][0]
        return sum(rows for _, rows in list(self.recent)[1:]) / span if span > 0 else 0.0


class Feeder:
    """Sends requests, hands the answers to the player, sends the feedback; its place is durable twice a second.

    What was sent after the last saved place is sent again after a restart. That is harmless: the server takes feedback
    once per key, and the joiner an example once per id.

    Args:
        config: The run; its player is opened here.
        client: Talks to the server.
        folder: Where the place is kept.
        speed: Event-time seconds per second of wall time; None plays as fast as the server answers.
        read_rows: Rows per chunk.
    """

    def __init__(
        self, config: OnlineConfig, client: Client, folder: RunFolder, *, speed: float | None, read_rows: int = 256
    ) -> None:
        if config.player is None:
            raise ConfigError(f"Run '{config.name}'", got="no player", expected="a recorded log or a world to play")
        self.player, self.client = config.player(), client
        self.speed, self.read_rows, self.progress = speed, read_rows, FeedProgress()
        self._place = ManifestCheckpoint(folder.feed)
        self._origin: tuple[float, int] | None = None
        self._saved = 0.0

    def run(self, stop: Callable[[], bool]) -> FeedProgress:
        """Play until the end of the log or `stop`; returns the progress, `ended` tells which it was."""
        self._resume()
        while not stop():
            try:
                requests = self.player.read(self.read_rows)
            except SourceEnded:
                self.progress.ended = True
                break
            if requests is None:
                time.sleep(0.01)
                continue
            if not self._pace(requests, stop):
                break  # stopped while waiting: the place still says that this chunk was not sent
            self._send(requests, stop)
            if stop():
                break
            self._save_if_due()
        return self.progress

    def _send(self, requests: Events, stop: Callable[[], bool]) -> None:
        predictions = self._insist(lambda: self.client.rank_events(requests), stop) if len(requests) else requests
        answers = None if predictions is None else self.player.collect(requests, predictions)
        if answers is not None and len(answers):
            self._insist(lambda: self.client.feedback_events(answers), stop)
            self.progress.actions += len(answers)
        self.progress.requests += len(requests)
        self.progress.recent.append((time.monotonic(), len(requests) + (len(answers) if answers else 0)))

    def _insist(self, call: Callable[[], Events | object], stop: Callable[[], bool]) -> Events | None:
        """Repeat a call while the server is away; give up after `GIVE_UP_S`."""
        deadline = time.monotonic() + GIVE_UP_S
        while not stop():
            try:
                return call()  # type: ignore[return-value]
            except (WorkerLost, OSError) as error:
                if time.monotonic() > deadline:
                    wanted = f"an answer within {GIVE_UP_S:.0f} s"
                    raise WorkerLost("Server", got=str(error), expected=wanted) from error
                time.sleep(RETRY_S)
        return None

    def _pace(self, requests: Events, stop: Callable[[], bool]) -> bool:
        if not len(requests):
            return True
        first = int(requests.times[0])
        self.progress.event_time = int(requests.times.max())
        if self.speed is None:
            return True
        if self._origin is None:
            self._origin = (time.monotonic(), first)
        due = self._origin[0] + (first - self._origin[1]) / (self.speed * 1e6)
        while (wait := due - time.monotonic()) > 0:
            if stop():
                return False
            time.sleep(min(wait, 0.05))
        return True

    def _save_if_due(self) -> None:
        """Save now and then: what is sent twice after a crash is recognised, so a place may be a moment old."""
        now = time.monotonic()
        if now - self._saved < SAVE_EVERY_S:
            return
        self._saved = now
        done = self.progress
        counts: State = {"requests": done.requests, "actions": done.actions, "event_time": done.event_time}
        state: State = {"position": dict(self.player.position()), "counts": counts}
        if isinstance(self.player, Resumable):
            state["player"] = self.player.state()
        self._place.save(state)

    def _resume(self) -> None:
        try:
            state = self._place.load()
        except HeadraceError:
            state = None  # a damaged place is not worth stopping for: everything sent again is recognised
        if state is None:
            return
        if isinstance(self.player, Resumable):
            self.player.restore(state["player"])  # type: ignore[arg-type]
        else:
            self.player.seek(state["position"])  # type: ignore[arg-type]
        counts = state["counts"]
        assert isinstance(counts, dict)
        self.progress.requests, self.progress.actions = int(counts["requests"]), int(counts["actions"])  # type: ignore[arg-type]
        self.progress.event_time = int(counts["event_time"])  # type: ignore[arg-type]
