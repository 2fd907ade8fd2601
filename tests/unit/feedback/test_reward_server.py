from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from headrace.errors import ConfigError, DataError, NumericError, SchemaError, WorkerLost
from headrace.feedback import RewardFeedback
from headrace.feedback.reward_server import ServerReward
from headrace.types import Events


class Server:
    """Answers with what it is told to, in order; then with lengths of completions."""

    def __init__(self) -> None:
        self.answers, self.seen = [], []
        outer = self

        class Answering(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.seen.append((body, self.headers.get("authorization")))
                usual = (200, json.dumps({"rewards": [len(text) for text in body["completions"]]}))
                status, text = outer.answers.pop(0) if outer.answers else usual
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/rewards"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr("headrace.feedback.reward_server.AGAIN_S", (0.0,))
    made = Server()
    yield made
    made.close()


def rows(**columns: list) -> Events:
    return Events.from_columns({"key": ["a", "b"], "kind": ["impression"] * 2, "event_time": [1, 2],
                                "item": ["0", "0"], **columns})  # fmt: skip


def test_what_the_server_says_is_the_reward(server, monkeypatch) -> None:
    monkeypatch.setenv("REWARD_TOKEN", "secret")
    feedback = RewardFeedback(ServerReward(server.url, token_variable="REWARD_TOKEN"))
    answers = feedback.collect(rows(prompt=["p", "q"]), rows(completion=["abc", "żó"]))
    assert answers.column("reward").to_pylist() == [3.0, 2.0]
    assert server.seen == [({"prompts": ["p", "q"], "completions": ["abc", "żó"]}, "Bearer secret")]


def test_it_is_tried_again_and_then_said_to_be_dead(server) -> None:
    reward = ServerReward(server.url, tries=3)
    server.answers = [(503, ""), (429, "")]
    assert reward(rows(), rows(completion=["a", "bc"])).tolist() == [1.0, 2.0]
    server.answers = [(500, "")] * 3
    with pytest.raises(WorkerLost, match=r"no answer in 3 tries \(status 500\)"):
        reward(rows(), rows(completion=["a", "bc"]))
    server.close()
    with pytest.raises(WorkerLost, match="Start the server, then the run again"):
        reward(rows(), rows(completion=["a", "bc"]))


def test_what_is_no_reward_is_refused_at_once(server) -> None:
    reward = ServerReward(server.url)
    wrong = ((200, "no"), (200, "[]"), (200, '{"rewards": [1]}'), (200, '{"rewards": [1, true]}'), (404, "where?"),
             (200, '{"rewards": [1, "2"]}'))  # fmt: skip
    for status, text in wrong:
        server.answers, before = [(status, text)], len(server.seen)
        with pytest.raises(DataError, match="Reward server"):
            reward(rows(), rows(completion=["a", "bc"]))
        assert len(server.seen) == before + 1
    server.answers = [(200, '{"rewards": [1, NaN]}')]
    with pytest.raises(NumericError, match="Reward of 'b'"):
        RewardFeedback(reward).collect(rows(), rows(completion=["a", "bc"]))
    with pytest.raises(SchemaError, match="codec"):
        reward(rows(), rows())


def test_settings_that_cannot_work_are_refused() -> None:
    for settings in ({"url": "ftp://x"}, {"timeout_s": 0.0}, {"tries": 0}, {"token_variable": "NOT_SET_ANYWHERE"}):
        with pytest.raises(ConfigError):
            ServerReward(**{"url": "http://x", **settings})
