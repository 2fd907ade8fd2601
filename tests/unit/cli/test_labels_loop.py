"""Serve a pool, answer in the terminal, collect and aggregate: all from the command line."""

from __future__ import annotations

import json
import queue
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.cli import labels_loop
from headrace.cli.main import main
from headrace.online import Labelling

BODIES = ["win money now", "meeting at noon", "win a prize", "lunch at noon", "money for nothing", "minutes of today"]


@pytest.fixture
def pool(tmp_path):
    table = pa.table({"id": range(12), "user": ["ann", "bob"] * 6, "body": BODIES * 2, "size": [1.0, 2.0] * 6})
    pq.write_table(table, tmp_path / "pool.parquet")
    said = [f"{row},{'spam' if 'win' in body or 'money' in body else 'ham'}" for row, body in enumerate(BODIES * 2)]
    (tmp_path / "truth.csv").write_text("\n".join(["item,answer", *said[:8]]) + "\n")
    return tmp_path


@pytest.fixture
def serve(pool, monkeypatch):
    """Run `labels serve` in a thread, as the command line does, and return its address."""
    stop, ready, threads = threading.Event(), queue.Queue(), []
    inner = Labelling.run

    def watched(self, host, port, *, on_ready):
        inner(self, host, port, on_ready=lambda url: (on_ready(url), ready.put(url)), stop=stop)

    monkeypatch.setattr(labels_loop.Labelling, "run", watched)

    def start(*more: str) -> str:
        words = ["labels", "serve", str(pool / "pool.parquet"), "--item", "id", "--task", "user", "--words", "body",
                 "--numbers", "size", "--show", "body", "--answers", "spam,ham", "--folder", str(pool / "run"),
                 "--port", "0", *more]  # fmt: skip
        threads.append(threading.Thread(target=main, args=(words,)))
        threads[0].start()
        return ready.get(timeout=30)

    def end() -> None:
        stop.set()
        threads[0].join(30)
        assert not threads[0].is_alive()

    yield start, end
    if threads:
        end()


def test_a_loop_from_pool_to_labels(serve, pool, capsys, monkeypatch) -> None:
    start, end = serve
    url = start("--strategy", "top", "--budget", "10")
    command = ["labels", "ask", url, "--annotator", "file", "--answers", str(pool / "truth.csv"), "--json"]
    capsys.readouterr()
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["answered"] + told["skipped"], told["status"]["left"]) == (10, 0)
    assert told["answered"] >= 6  # the file knows 8 of 12
    end()
    output = pool / "answers.parquet"
    assert main(["labels", "collect", str(pool / "run"), "--output", str(output)]) == 0
    assert f"{told['answered']} answers of 1 annotators" in capsys.readouterr().out
    found = pq.read_table(output)
    truth = dict(line.split(",") for line in (pool / "truth.csv").read_text().split()[1:])
    assert {row["item"]: row["answer"] for row in found.to_pylist()}.items() <= truth.items()
    assert set(found["annotator"].to_pylist()) == {"file"}
    assert main(["labels", "aggregate", str(output), "--method", "majority", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answers"] == told["answered"]
    assert main(["labels", "collect", str(pool / "run"), "--output", str(pool / "a.csv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["annotators"] == 1


def test_people_type_their_answers(serve, capsys, monkeypatch) -> None:
    start, _ = serve
    url = start("--strategy", "random")
    typed = iter(["sp", "s", "perhaps", "h", "skip", "quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    assert main(["labels", "ask", url, "--annotator", "ann", "--task", "ann"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("body: ") == 4
    assert shown.count("or how it begins") == 2  # "s" is spam or skip; "perhaps" is neither
    assert "2 answered, 1 skipped; no limit" in shown
    monkeypatch.setattr("builtins.input", lambda prompt: (_ for _ in ()).throw(EOFError))
    assert main(["labels", "ask", url, "--count", "1"]) == 0
    assert "0 answered" in capsys.readouterr().out


def test_mistakes_are_named(pool, capsys) -> None:
    path, folder = str(pool / "pool.parquet"), ["--folder", str(pool / "run")]
    for words, says in (
        (["serve", path, *folder, "--words", "body"], "column 'item'"),
        (["serve", path, *folder, "--item", "id"], "columns of words or of numbers"),
        (["serve", path, *folder, "--item", "id", "--words", "bdy"], "column 'bdy'"),
        (["serve", path, *folder, "--item", "id", "--numbers", "body"], "numbers"),
        (["serve", path, *folder, "--item", "id", "--words", "body", "--answers", "yes"], "two words"),
        (["ask", "http://127.0.0.1:1", "--count", "-1"], "--count"),
        (["ask", "http://127.0.0.1:1", "--answers", path], "column 'item'"),
        (["ask", "http://127.0.0.1:1"], "Is it running?"),
        (["collect", str(pool), "--output", str(pool / "a.parquet")], "no event log"),
        (["collect", str(pool), "--output", str(pool / "a.txt")], ".parquet or .csv"),
    ):
        assert main(["labels", *words]) == 2
        assert says in capsys.readouterr().err
