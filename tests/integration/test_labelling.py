"""Asked over HTTP, a simulated annotator answers; the model learns with fewer questions than random ones."""

from __future__ import annotations

import queue
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from headrace.feedback import QueryBudget
from headrace.learn import CommitteeConfig
from headrace.online import Labelling, LabellingConfig, RunFolder, labelling_schema
from headrace.serve import Client, QuestionConfig
from headrace.types import Events

DIM, TASKS, QUESTIONS = 4, 3, 30
NUMBERS = ["obvious", *(f"x{place}" for place in range(DIM))]


def planted(rows: int, seed: int, hard: float) -> tuple[pa.Table, np.ndarray]:
    """Return examples of three much alike tasks, and what is true of them.

    Most are easy: one number tells the answer. A share is `hard`: there only the others do.
    """
    world, draw = np.random.default_rng(7), np.random.default_rng(seed)
    truths = world.normal(size=DIM) + 0.2 * world.normal(size=(TASKS, DIM))
    tasks, inputs = draw.integers(TASKS, size=rows), draw.normal(size=(rows, DIM))
    truth, is_hard = (inputs * truths[tasks]).sum(axis=1) > 0, draw.random(rows) < hard
    inputs *= np.where(is_hard, 1.0, 0.3)[:, None]
    columns = dict(zip(NUMBERS, [np.where(is_hard, 0.0, np.where(truth, 3.0, -3.0)), *inputs.T], strict=True))
    table = pa.table({"item": [f"{seed}-{row}" for row in range(rows)], "team": [f"team {task}" for task in tasks],
                      "note": ["what people read"] * rows, **columns})  # fmt: skip
    return table, truth


POOL, TRUTH = planted(400, 1, 0.1)
HELD_OUT, HELD_TRUTH = planted(1000, 2, 1.0)
SAID = dict(zip(POOL["item"].to_pylist(), np.where(TRUTH, "yes", "no").tolist(), strict=True))


def loop(folder: Path, **questions: object) -> Labelling:
    schema = labelling_schema(POOL, task="team", numbers=NUMBERS)
    config = QuestionConfig(budget=QueryBudget(questions=QUESTIONS), **questions)  # type: ignore[arg-type]
    return Labelling(LabellingConfig(pool=POOL, schema=schema, questions=config, shown=("note", "team"),
                                     committee=CommitteeConfig()), RunFolder(folder))  # fmt: skip


@contextmanager
def served(labelling: Labelling):
    ready: queue.Queue[str] = queue.Queue()
    stop = threading.Event()
    options = {"port": 0, "on_ready": ready.put, "stop": stop}
    thread = threading.Thread(target=labelling.run, kwargs=options)
    thread.start()
    client = Client(ready.get(timeout=20))
    try:
        client.wait_ready()
        yield client
    finally:
        client.close()
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


def wait_for(client: Client, version: int) -> None:
    """Wait until the model that asks has learned everything that was answered."""
    deadline = time.monotonic() + 20
    while client.health()["version"] < version:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def annotate(client: Client, most: int = QUESTIONS, answered: int = 0) -> int:
    """Answer as the truth has it, until nothing is asked any more; return how many answers there are."""
    while answered < most:
        asked = client.questions(annotator="ann")["questions"]
        if not asked:
            return answered
        client.answer({"key": asked[0]["key"], "answer": SAID[asked[0]["item"]]})
        answered += 1
        wait_for(client, answered)
    return answered


def accuracy(labelling: Labelling) -> float:
    rows = HELD_OUT.append_column("key", HELD_OUT["item"]).append_column("kind", pa.array(["impression"] * 1000))
    rows = rows.append_column("event_time", pa.array([0] * 1000)).combine_chunks()
    scores = labelling.predictor.predict(Events(rows.to_batches()[0])).column("score").to_numpy()
    return float(((scores >= 0.5) == HELD_TRUTH).mean())


def test_the_model_learns_with_fewer_questions_than_random(tmp_path) -> None:
    found = {}
    for strategy in ("top", "random"):
        labelling = loop(tmp_path / strategy, strategy=strategy)
        with served(labelling) as client:
            assert annotate(client) == QUESTIONS
            assert client.questions()["questions"] == []  # the budget is used up
            status = client.health()["questions"]
            assert (status["answered"], status["open"], status["left"]) == (QUESTIONS, 0, 0)
            found[strategy] = accuracy(labelling)
    assert found["top"] > 0.8
    assert found["top"] > found["random"] + 0.05


def test_answers_survive_a_restart_and_count_once(tmp_path) -> None:
    with served(loop(tmp_path, strategy="top")) as client:
        first = client.questions(2, annotator="ann")["questions"]
        assert [one["shown"] for one in first] == [{"note": "what people read", "team": one["task"]} for one in first]
        answers = [{"key": one["key"], "answer": SAID[one["item"]]} for one in first]
        assert client.answer(answers[0]) == {"accepted": 1, "duplicates": 0}
        assert client.answer(answers[0], {**answers[0], "answer": "no"}) == {"accepted": 0, "duplicates": 2}
        wait_for(client, 1)
    labelling = loop(tmp_path, strategy="top")
    with served(labelling) as client:
        assert client.answer(*answers) == {"accepted": 1, "duplicates": 1}  # the second question was still open
        wait_for(client, 2)
        assert labelling.learner.examples == 2
        more = [one["item"] for one in client.questions(QUESTIONS)["questions"]]
        assert len(more) == QUESTIONS - 2
        assert not {one["item"] for one in first} & set(more)
    rows = [row for entry in labelling.events.read("events", 0, limit=1000) for row in entry.events.batch.to_pylist()]
    said = [(row["kind"], row.get("answer"), row.get("annotator")) for row in rows if row["kind"] == "impression"]
    assert said == [("impression", one["answer"], "ann") for one in answers]
    assert labelling.learner.examples == 2


def test_a_sure_committee_asks_no_more(tmp_path) -> None:
    with served(loop(tmp_path, strategy="draw", softness=0.01)) as client:
        assert 0 < annotate(client) < QUESTIONS
        assert client.questions()["questions"] == []  # every example has come by once
