"""A language model served while it learns: a client chats with it, a scripted voter votes, kills change nothing."""

from __future__ import annotations

import importlib.util
import queue
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
import torch

from headrace.data import EmbeddedLog, EventJoin, EventJoiner, JoinConfig
from headrace.errors import HeadraceError, NumericError
from headrace.feedback import RewardFeedback
from headrace.learn import ManifestCheckpoint
from headrace.loop import EveryExamples, Loop, run
from headrace.online import RunFolder
from headrace.online.language_build import open_collator, open_language_learner, open_language_predictor
from headrace.online.language_server import Beside, run_language_server, run_rollouts
from headrace.publish import ChangeReader, LogPublisher
from headrace.testing import ListSource, assert_same_state

SCRIPT = Path(__file__).parent / "language_served.py"
SPEC = importlib.util.spec_from_file_location("language_served", SCRIPT)
served = importlib.util.module_from_spec(SPEC)
sys.modules["language_served"] = served
SPEC.loader.exec_module(served)
ASKED = [{"role": "user", "content": "how was the fox?"}]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return served.make_base(tmp_path_factory.mktemp("base"))


class Serving:
    """A server with its learner beside it, in threads of this process."""

    def __init__(self, config, folder: Path) -> None:
        self.stop, ready = threading.Event(), queue.Queue()
        self.thread = threading.Thread(target=run_language_server, args=(config, RunFolder(folder)), kwargs={
            "port": 0, "stop": self.stop.is_set, "learning": True, "on_ready": ready.put})  # fmt: skip
        self.thread.start()
        self.url = ready.get(timeout=60)
        self.http = httpx.Client(base_url=self.url, trust_env=False)
        until = time.monotonic() + 60
        while self.http.get("/v1/ready").status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.02)

    def close(self) -> None:
        self.stop.set()
        self.http.close()
        self.thread.join(60)
        assert not self.thread.is_alive()

    def version(self) -> int:
        return self.http.get("/v1/models").json()["data"][0]["version"]


def test_a_model_improves_while_it_is_chatted_with_and_voted_on(tmp_path, base) -> None:
    openai = pytest.importorskip("openai", reason="the extra 'dev' is not installed")
    config = served.voted(base=base)
    serving = Serving(config, tmp_path / "run")
    client = openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none", http_client=httpx.Client(trust_env=False))

    def share() -> float:
        texts = [choice.message.content for _ in range(4) for choice in client.chat.completions.create(
            model="moods", messages=ASKED, n=16).choices]  # fmt: skip
        return sum(served.mood(text) > 0 for text in texts) / len(texts)

    before, votes, versions = share(), 0, set()
    while votes < 80:
        answer = client.chat.completions.create(model="moods", messages=ASKED, n=2)
        versions.add(answer.system_fingerprint)
        first, second = (served.mood(choice.message.content) for choice in answer.choices)
        if first == second:
            continue
        vote = {"key": answer.id, "kind": "prefer", "item": "0" if first > second else "1"}
        assert serving.http.post("/v1/feedback", json=vote).json()["accepted"] == 1
        assert serving.http.post("/v1/feedback", json=vote).json()["duplicates"] == 1
        votes += 1
        # The page's address does the same for people.
        if votes % 20 == 0:
            shown = serving.http.post("/v1/comparisons", json={"prompt": ASKED[0]["content"]}).json()
            assert len(shown["completions"]) == 2
    until = time.monotonic() + 60
    while serving.version() < votes // config.batch_rows and time.monotonic() < until:
        time.sleep(0.05)
    after = share()
    serving.close()
    assert len(versions) >= 3  # the weights changed under the conversation
    assert after > before + 0.25, (before, after)
    # What was learned and published is there after a restart, and goes on.
    again = Serving(config, tmp_path / "run")
    assert again.version() == votes // config.batch_rows
    again.close()


def finished(folder: Path) -> tuple[object, list[str]]:
    """The learner's state, and what every version was."""
    kept = RunFolder(folder)
    reader = ChangeReader(EmbeddedLog(kept.log("changes")), kept.snapshots)
    sums = [reader.changes.checksum(number) for number in range(reader.last().number + 1)]
    return ManifestCheckpoint(kept.checkpoint).load()["learner"], sums


def started(folder: Path, base: Path, rollouts: int, behind: int, role: str = "all") -> subprocess.Popen[bytes]:
    words = [str(folder), str(base), str(rollouts), str(behind), role]
    return subprocess.Popen([sys.executable, str(SCRIPT), *words], stderr=subprocess.PIPE)


def published(folder: Path) -> int:
    if not (folder / "changes.db").exists():
        return -1
    return ChangeReader(EmbeddedLog(folder / "changes.db"), folder / "snapshots").last().number


def test_a_killed_run_writes_and_learns_what_a_straight_one_does(tmp_path, base) -> None:
    torch.set_num_threads(1)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    run_rollouts(served.rewarded(base=base, rollouts=8, behind=1), RunFolder(straight), lambda: False)
    assert published(straight) == 8
    process = started(killed, base, 8, 1)
    until = time.monotonic() + 100
    while published(killed) < 3 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert 0 <= published(killed) < 8
    run_rollouts(served.rewarded(base=base, rollouts=8, behind=1), RunFolder(killed), lambda: False)
    (one, sums), (other, others) = finished(straight), finished(killed)
    assert sums == others
    assert_same_state(one, other)


def test_a_dead_rewarder_is_said_and_nothing_is_lost(tmp_path, base) -> None:
    torch.set_num_threads(1)
    config, calls = served.rewarded(base=base, rollouts=4), [0]
    real = served.Kindness.__call__

    def dying(self, requests, predictions):
        calls[0] += 1
        values = real(self, requests, predictions)
        return [float("nan")] * len(values) if calls[0] == 3 else values

    served.Kindness.__call__ = dying
    try:
        with pytest.raises(NumericError, match="Reward of 'k32'"):
            run_rollouts(config, RunFolder(tmp_path / "dying"), lambda: False)
        run_rollouts(config, RunFolder(tmp_path / "dying"), lambda: False)
    finally:
        served.Kindness.__call__ = real
    run_rollouts(config, RunFolder(tmp_path / "straight"), lambda: False)
    (one, sums), (other, others) = finished(tmp_path / "dying"), finished(tmp_path / "straight")
    assert sums == others
    assert_same_state(one, other)


def test_the_roles_do_what_the_loop_does(tmp_path, base) -> None:
    torch.set_num_threads(1)
    config = served.rewarded(base=base, rollouts=5)
    run_rollouts(config, RunFolder(tmp_path / "roles"), lambda: False)
    how = config.rollouts
    loop = tmp_path / "loop"
    loop.mkdir()
    publisher = LogPublisher(EmbeddedLog(loop / "changes.db"), loop / "snapshots")
    join = EventJoin(JoinConfig(window_s=60.0, lateness_s=0.0, positive=("reward",), value="reward"))
    run(Loop(
        source=ListSource([how.prompts()]), predictor=open_language_predictor(config, how=how.config),
        feedback=RewardFeedback(how.rewarder()), joiner=EventJoiner(join, open_collator(config)),
        learner=open_language_learner(config), publisher=publisher, cadence=EveryExamples(served.ROWS),
        read_rows=served.ROWS,
    ))  # fmt: skip
    roles = ChangeReader(EmbeddedLog(tmp_path / "roles" / "changes.db"), tmp_path / "roles" / "snapshots").changes
    assert roles.last().number == publisher.last().number == 5
    assert [roles.checksum(n) for n in range(6)] == [publisher.changes.checksum(n) for n in range(6)]


def test_a_run_with_rollouts_is_served_after_they_ended(tmp_path, base) -> None:
    torch.set_num_threads(1)
    config = served.rewarded(base=base, rollouts=2)
    run_rollouts(config, RunFolder(tmp_path), lambda: False)
    one, sums = finished(tmp_path)
    serving = Serving(config, tmp_path)
    try:
        answer = serving.http.post("/v1/chat/completions", json={"model": "kindness", "messages": ASKED, "n": 2})
        assert answer.status_code == 200, answer.text
        vote = {"key": answer.json()["id"], "kind": "reward", "item": "0", "value": 1.0}
        assert serving.http.post("/v1/feedback", json=vote).json()["accepted"] == 1
    finally:
        serving.close()
    with EmbeddedLog(tmp_path / "events.db") as events:
        assert events.is_closed("events")
        asked = [row for entry in events.read("asked", 0) for row in entry.events.batch.to_pylist()]
    assert {row["kind"] for row in asked} == {"impression", "reward"}
    other, others = finished(tmp_path)  # what people say there teaches nothing
    assert sums == others
    assert_same_state(one, other)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(3))
def test_processes_that_are_killed_again_and_again_do_what_one_process_does(tmp_path, base, seed) -> None:
    torch.set_num_threads(1)
    draw, behind, roles = random.Random(seed), seed % 3, ("generator", "joiner", "learner", "publisher")
    run_rollouts(served.rewarded(base=base, rollouts=24, behind=behind), RunFolder(tmp_path / "one"), lambda: False)
    folder = tmp_path / "many"
    running = {role: started(folder, base, 24, behind, role) for role in roles}
    until, kills = time.monotonic() + 600, 0
    while running and time.monotonic() < until:
        time.sleep(draw.uniform(0.2, 2.0))
        for role in list(running):
            if running[role].poll() == 0:
                running.pop(role).communicate()
            elif running[role].poll() is not None:
                _, errors = running[role].communicate()
                assert running[role].returncode == -9, errors.decode()[-2000:]
                running[role] = started(folder, base, 24, behind, role)
        if running and kills < 12 and published(folder) >= 0:
            running[draw.choice(list(running))].kill()
            kills += 1
    assert not running
    assert kills >= 3
    (one, sums), (other, others) = finished(tmp_path / "one"), finished(folder)
    assert sums == others
    assert_same_state(one, other)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_vote_is_lost_when_everything_is_killed(tmp_path, base) -> None:
    folder, script = (
        tmp_path / "run",
        [sys.executable, str(SCRIPT), str(tmp_path / "run"), str(base), "0", "0", "serve"],
    )
    votes = 0
    for turn in range(3):
        process = subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        with httpx.Client(base_url=process.stdout.readline().decode().strip(), trust_env=False, timeout=60) as http:
            while http.get("/v1/ready").status_code != 200:
                time.sleep(0.05)
            for _ in range(20):
                shown = http.post("/v1/comparisons", json={}).json()
                vote = {"key": shown["key"], "kind": "prefer", "item": "0"}
                votes += http.post("/v1/feedback", json=vote).json()["accepted"]
            until = time.monotonic() + 60
            while turn == 2 and published(folder) < votes // 8 and time.monotonic() < until:
                time.sleep(0.05)
        process.kill()
        process.communicate()
    assert published(folder) == votes // 8
    # Whoever joins and learns the same events from the beginning comes to the same versions.
    again = RunFolder(tmp_path / "again")
    again.root.mkdir()
    with EmbeddedLog(folder / "events.db") as events, EmbeddedLog(again.log("events")) as copied:
        for entry in events.read("events", 0, limit=100_000):
            copied.append("events", entry.stamped())
        copied.close_topic("events")
    beside = Beside(served.voted(base=base), again)
    beside.start()
    while not (beside.done or beside.failed):
        time.sleep(0.05)
    beside.close()
    beside.check()
    one, other = (ChangeReader(EmbeddedLog(root / "changes.db"), root / "snapshots").changes for root in (
        folder, again.root))  # fmt: skip
    sums = [[log.checksum(number) for number in range(votes // 8 + 1)] for log in (one, other)]
    assert sums[0] == sums[1]


def test_a_run_of_votes_alone_says_what_to_do(tmp_path, base) -> None:
    with pytest.raises(HeadraceError, match="--learn"):
        run_rollouts(served.voted(base=base), RunFolder(tmp_path), lambda: False)
