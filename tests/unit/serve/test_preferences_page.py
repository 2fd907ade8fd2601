"""The page on which people choose, driven as a browser would: its own script over stand-ins for its elements."""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.serve import AccessConfig, TokenBook, make_token, run_server
from headrace.serve.preference_routes import PAGES

DRIVER = Path(__file__).parent / "page_driver.js"
pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


@pytest.fixture
def serve(make_study) -> Iterator:
    stop, threads = threading.Event(), []

    def make(access: AccessConfig | None = None):
        study, ready = make_study(access), queue.Queue()
        options = {"port": 0, "on_ready": ready.put, "stop": stop, "access": access}
        threads.append(threading.Thread(target=run_server, args=(study.app,), kwargs=options))
        threads[-1].start()
        return study, ready.get(timeout=20)

    yield make
    stop.set()
    for thread in threads:
        thread.join(20)


def driven(url: str, *presses: str, token: str = "") -> dict:
    command = ["node", str(DRIVER), str(PAGES / "preferences.js"), url, token, *presses]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_a_person_chooses_with_buttons_keys_and_words_of_their_own(serve) -> None:
    study, url = serve()
    seen = driven(url, "choose-first", "key:b", "wish:<b>is it so?</b>", "choose-tie", "skip")
    assert seen["open"]
    assert not seen["asked"]
    assert seen["shown"]["count"] == "3"
    votes = [body["item"] for path, body, status in seen["calls"] if path == "/v1/feedback" and status == 202]
    assert votes == ["0", "1", "tie"]
    asked = [body for path, body, _ in seen["calls"] if path == "/v1/comparisons"]
    assert asked == [{}, {}, {}, *[{"prompt": "<b>is it so?</b>"}] * 3]
    assert "<b>is it so?</b>" in seen["shown"]["prompt"]  # as text
    logged = [row["value"] for row in study.logged() if row["kind"] == "prefer"]
    assert logged == [1.0, 0.0, 0.5]
    assert seen["shown"]["said"] == "Version 0 wrote both."


def test_a_key_that_is_held_votes_once(serve) -> None:
    _, url = serve()
    seen = driven(url, "key:a", "held:a", "held:a", "held:s")
    assert [path for path, _, _ in seen["calls"]] == ["/v1/comparisons", "/v1/feedback", "/v1/comparisons"]
    assert seen["shown"]["count"] == "1"


def test_a_token_is_asked_for_and_used(serve) -> None:
    secret, token = make_token("ann", ["read", "feedback"])
    _, url = serve(AccessConfig(tokens=TokenBook([token])))
    seen = driven(url, "choose-second", token=secret)
    assert seen["asked"]
    assert seen["typed"] == ""  # it does not stay in the field
    assert [status for _, _, status in seen["calls"]] == [401, 200, 202, 200]
    lost = driven(url, "choose-first")
    assert lost["asked"]
    assert "no token" in lost["shown"]["said"]
    assert not lost["open"]
