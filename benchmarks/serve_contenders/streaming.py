"""Events in real time: what people are shown and what they click, sent over HTTP at a steady rate, and a prober."""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass, field

import numpy as np

from serve_contenders import model

SHOWN = 24
"""Candidates of a request."""
CLICK_RATE = 0.04


@dataclass
class Sent:
    """What was sent and accepted."""

    events: int = 0
    clicks: int = 0
    failed: int = 0
    late_s: float = 0.0
    accepted: list[tuple[float, int]] = field(default_factory=list)


class Wire:
    """One kept connection that sends JSON.

    Args:
        port: Of the server on loopback.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def post(self, path: str, content: object) -> tuple[int, dict[str, object]]:
        """Send and return status and answer; connects again after a failure."""
        try:
            self._http.request("POST", path, json.dumps(content), {"content-type": "application/json"})
            answer = self._http.getresponse()
            return answer.status, dict(json.loads(answer.read()))
        except (OSError, http.client.HTTPException):
            self._http.close()
            self._http = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
            return 0, {}


class Audience:
    """Sends `events_per_s` rows: requests whose candidates are logged as shown, and the clicks on some of them.

    Args:
        port: Of the server.
        events_per_s: Impressions and clicks together.
        ids: Ids of every feature.
        seed: Of everything drawn.
    """

    def __init__(self, port: int, events_per_s: float, ids: int, *, seed: int = 0) -> None:
        self.sent = Sent()
        self._wire, self._ids, self._draw = Wire(port), ids, np.random.default_rng(seed)
        self._pause_s = SHOWN * (1 + CLICK_RATE) / events_per_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._number = 0

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for the last answer."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ended.is_set():
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            else:
                self.sent.late_s = max(self.sent.late_s, -wait)
            self._one()
            due += self._pause_s

    def _one(self) -> None:
        self._number += 1
        draw, key = self._draw, f"request-{self._number}"
        ids = np.minimum(draw.zipf(1.3, size=(SHOWN, model.OWN)) - 1, self._ids - 1)
        ids[:, 0] = draw.choice(self._ids, size=SHOWN, replace=False)
        user = draw.integers(0, self._ids, size=model.FEATURES - model.OWN)
        content = {
            "key": key, "user": dict(zip(model.NAMES[model.OWN :], user.tolist(), strict=True)),
            "candidates": [model.candidate(row) for row in ids.tolist()],
            "log_impressions": True,
        }  # fmt: skip
        status, _ = self._wire.post("/v1/rank", content)
        if status != 200:
            self.sent.failed += 1
            return
        self.sent.events += SHOWN
        clicked = [f"item-{number}" for number in ids[draw.random(SHOWN) < CLICK_RATE, 0].tolist()]
        if not clicked:
            return
        actions = [{"key": key, "kind": "click", "item": item} for item in clicked]
        status, answer = self._wire.post("/v1/feedback", actions)
        if status != 202:
            self.sent.failed += 1
            return
        taken = int(str(answer["accepted"]))
        self.sent.events += taken
        self.sent.clicks += taken
        self.sent.accepted.append((time.time(), taken))


class Prober:
    """Asks for one score all the time and notes when each version first answered.

    Args:
        port: Of the server.
        pause_s: Between two questions.
    """

    def __init__(self, port: int, *, pause_s: float = 0.005) -> None:
        self.first: dict[int, float] = {}
        self._wire, self._pause_s = Wire(port), pause_s
        body = json.loads(model.bodies(1, 1, 100)[0])
        self._body = body
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        newest = -1
        while not self._ended.wait(self._pause_s):
            status, answer = self._wire.post("/v1/rank", self._body)
            if status == 200 and int(str(answer["version"])) > newest:
                newest = int(str(answer["version"]))
                self.first[newest] = time.time()

    def served_at(self, version: int) -> float | None:
        """Return when a version of at least this number first answered."""
        times = [moment for number, moment in self.first.items() if number >= version]
        return min(times, default=None)
