"""The small parts of an elastic run: settings, members, the order of rows, readers, groups, bad rows."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from headrace.elastic.config import VARIABLE, ElasticConfig
from headrace.elastic.dense_state import dense_state, load_dense_state, pack_state, unpack_state
from headrace.elastic.group import GlooGroup, MeetingPoint
from headrace.elastic.job import SOURCE, Job
from headrace.elastic.membership import Membership
from headrace.elastic.poison import halved
from headrace.elastic.rows import AheadReader, RowReader
from headrace.elastic.sequence import Piece, RowSequence
from headrace.elastic.turns import merged
from headrace.errors import ConfigError, DataError, WorkerLost
from headrace.runtime.simulate_patterns import persistent_worker
from headrace.runtime.work_queue import Contribution, QueueConfig, ShardQueue
from headrace.store import open_table


def queue(rows: int, shard_rows: int, *, epochs: int = 1, path=None) -> ShardQueue:
    made = ShardQueue(path, QueueConfig(shard_rows=shard_rows, split_rows=shard_rows, epochs=epochs, retry_s=0.0))
    made.add(SOURCE, rows)
    return made


def drawn(rows: RowSequence, sizes: dict[str, int], made: ShardQueue, commit: bool = True) -> list[list[tuple]]:
    """Return the rows of every step, as places of shards."""
    steps = []
    while (work := rows.take(len(steps) + 1, sizes)) is not None:
        steps.append([(piece.grant.shard, place) for name in sizes for piece in work.parts.get(name, ())
                      for place in range(piece.start, piece.stop)])  # fmt: skip
        if commit:
            assert all(made.commit(work.step, work.contributions(list(sizes))))
    return steps


def test_settings_survive_a_file_and_the_environment(tmp_path, monkeypatch) -> None:
    one = ElasticConfig(recipe="headrace.elastic.toy:toy", folder=tmp_path, arguments={"rows": 100}, workers=3,
                        pattern=persistent_worker(worker_row_s=0.001), solution={"type": "Static"})  # fmt: skip
    one.write()
    read = ElasticConfig.read(tmp_path)
    assert read.to_json() == one.to_json()
    assert read.pattern == one.pattern
    (tmp_path / "elastic.json").unlink()
    with pytest.raises(ConfigError, match="expected an elastic run"):
        ElasticConfig.read(tmp_path)
    monkeypatch.setenv(VARIABLE, one.environment()[VARIABLE])
    assert ElasticConfig.read(tmp_path).workers == 3


@pytest.mark.parametrize("bad", [
    {"recipe": "nothing"}, {"workers": 0}, {"batch_rows": 0}, {"silence_s": 0.1}, {"mode": "other"}, {"sums": "x"},
    {"delivery": "once"}, {"checkpoint_every": -1}, {"arguments": {"a": 1}, "settings": ("a=1",)},
])  # fmt: skip
def test_settings_that_cannot_work_are_refused(tmp_path, bad) -> None:
    with pytest.raises(ConfigError):
        ElasticConfig(**{"recipe": "a:b", "folder": tmp_path} | bad)


def test_settings_given_as_words_are_typed_by_the_recipe(tmp_path) -> None:
    one = ElasticConfig(recipe="headrace.elastic.toy:toy", folder=tmp_path, settings=("rows=300", "dim=4"), epochs=3)
    fit = one.learned()
    assert (fit.epochs, fit.schema.id_features[0].dim, len(fit.data().train)) == (3, 4, 240)


def test_an_epoch_never_comes_twice(tmp_path) -> None:
    path = tmp_path / "epoch.json"
    first = Membership(path, 1.0)
    first.join("worker-0", {}, 0.0)
    first.leave("worker-0", "it died", 1.0)
    assert not first.leave("worker-0", "again", 1.0)
    assert Membership(path, 1.0).epoch > first.epoch


@pytest.mark.parametrize("sizes", [{"a": 6}, {"a": 2, "b": 4}, {"a": 5, "b": 0, "c": 1}])
def test_steps_hold_the_same_rows_however_they_are_shared(sizes) -> None:
    made, alone = queue(50, 8, epochs=2), queue(50, 8, epochs=2)
    one, other = RowSequence(made), RowSequence(alone)
    one.begin("x")
    other.begin("y")
    steps = drawn(one, sizes, made)
    assert steps == drawn(other, {"only": 6}, alone)
    assert [len(step) for step in steps] == [*[6] * 8, 2] * 2  # no step reaches over the end of an epoch
    assert made.finished


def test_steps_are_the_same_after_any_interruption() -> None:
    made, alone = queue(50, 8), queue(50, 8)
    whole = RowSequence(alone)
    whole.begin("y")
    expected = drawn(whole, {"only": 6}, alone)
    found = []
    for turn in range(30):  # every turn plans three steps and only one of them comes to be
        rows = RowSequence(made)
        rows.begin(f"group-{turn}")
        works = [rows.take(len(found) + 1 + ahead, {"a": 4, "b": 2}) for ahead in range(3)]
        if works[0] is None:
            break
        work = works[0]
        found.append([(piece.grant.shard, place) for name in ("a", "b") for piece in work.parts.get(name, ())
                      for place in range(piece.start, piece.stop)])  # fmt: skip
        assert all(made.commit(work.step, work.contributions(["a", "b"])))
    assert found == expected
    assert made.finished


def test_what_was_left_out_comes_first_again() -> None:
    made = queue(20, 20)
    rows = RowSequence(made)
    rows.begin("x")
    work = rows.take(1, {"a": 4, "b": 4})
    left_out = work.parts["b"]
    rows.give_back(left_out)
    again = rows.take(2, {"a": 4})
    assert again.parts["a"] == left_out


def test_contributions_that_follow_each_other_are_one() -> None:
    some = [
        Contribution("s", 1, 0, 4),
        Contribution("s", 1, 4, 6),
        Contribution("s", 1, 7, 8),
        Contribution("t", 2, 8, 9),
    ]
    assert merged(some) == [Contribution("s", 1, 0, 6), Contribution("s", 1, 7, 8), Contribution("t", 2, 8, 9)]


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    folder = tmp_path_factory.mktemp("job")
    return Job(ElasticConfig(recipe="headrace.elastic.toy:toy", folder=folder, arguments={"rows": 200}, shard_rows=16))


def test_a_reader_finds_rows_by_number_also_shard_by_shard(job, monkeypatch) -> None:
    numbers = np.array([5, 3, 100, 159, 0, 5])
    whole = job.reader.rows(numbers)
    assert whole.example_ids.tolist() == numbers.tolist()

    class Windowed:
        """A split that cannot be kept whole."""

        def __len__(self) -> int:
            return 160

        def batches(self, rows, order=None):
            class Walk:
                def seek(self, position) -> None:
                    self.at = position["row"]

                def __next__(self):
                    return job.splits.train.batch.slice(self.at, min(self.at + rows, 160))

            return Walk()

    monkeypatch.setattr("headrace.elastic.rows.IN_MEMORY_ROWS", 10)
    assert RowReader(Windowed(), 16).rows(numbers).example_ids.tolist() == numbers.tolist()


def test_an_error_of_reading_comes_where_the_rows_are_wanted() -> None:
    class Broken:
        def read(self, pieces):
            raise DataError("Row", got="damage")

    ahead = AheadReader(Broken())
    ahead.want(1, ("x",))
    with pytest.raises(DataError):
        ahead.get(1)
    ahead.close()


def test_bad_rows_are_found_by_halving() -> None:
    made = queue(64, 64)
    piece = Piece(made.lease("x"), 0, 64)
    asked = []

    def test(pieces) -> str:
        asked.append(pieces)
        return "bad" if any(one.start <= bad < one.stop for one in pieces for bad in (3, 40, 41)) else ""

    assert [(one.start, reason) for one, reason in halved(piece, test)] == [(3, "bad"), (40, "bad"), (41, "bad")]
    assert len(asked) < 40


def test_the_dense_state_makes_another_learner_the_same(job) -> None:
    one, other = (job.learner({table.name: open_table(table) for table in job.tables}) for _ in range(2))
    for batch in job.splits.train.batches(40):
        one.learn(batch)
    load_dense_state(other, unpack_state(*pack_state(dense_state(one))))
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name])
    states = [learner.optimizer.state_dict()["state"] for learner in (one, other)]
    assert all(torch.equal(states[0][key]["exp_avg"], states[1][key]["exp_avg"]) for key in states[0])


def in_threads(count: int, work) -> list:
    """Run work in threads and return what each returned or raised."""
    found = [None] * count

    def run(rank: int) -> None:
        try:
            found[rank] = work(rank)
        except Exception as error:  # noqa: BLE001 - returned
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


def test_a_group_adds_and_another_epoch_meets_in_the_same_place() -> None:
    meeting = MeetingPoint()

    def work(rank: int) -> float:
        total = 0.0
        for epoch in (1, 2):
            values = torch.full((5,), float(rank + 1))
            GlooGroup(meeting.address, epoch, rank, 3).sum_(values)
            total += float(values[0])
        return total

    assert in_threads(3, work) == [12.0] * 3


def test_a_call_that_waits_for_a_silent_member_can_be_aborted() -> None:
    meeting, done = MeetingPoint(), threading.Event()

    def work(rank: int) -> float:
        group = GlooGroup(meeting.address, 1, rank, 2)
        if rank == 1:
            done.wait(20)
            return 0.0
        threading.Timer(0.2, group.abort).start()
        begun = time.monotonic()
        try:
            with pytest.raises(WorkerLost, match="another epoch"):
                group.sum_(torch.ones(3))
            return time.monotonic() - begun
        finally:
            done.set()

    assert in_threads(2, work)[0] < 5.0
