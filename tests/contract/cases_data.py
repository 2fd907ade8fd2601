"""Sources, feedback and joiners, each with how it is put through its contract."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.data import (
    Collator,
    DenseFeature,
    EmbeddedLog,
    EventJoin,
    EventJoiner,
    FileSource,
    IdFeature,
    JoinConfig,
    Layout,
    LogSource,
    MemorySource,
    Schema,
    TableSource,
    example_ids,
)
from headrace.data.erasure_book import ErasureBook
from headrace.data.kafka import KafkaSource
from headrace.data.subjects import UserColumns
from headrace.feedback import Place, World, WorldConfig
from headrace.online.erase_rest import Screened
from headrace.online.recording import Recording
from headrace.online.worlds import Placed, WorldPlayer
from headrace.testing import (
    AnswerEverything,
    FunctionFeedback,
    ListJoiner,
    ListSource,
    MemoryQueue,
    Toy,
    ToyConfig,
    Verdict,
    check_feedback,
    check_joiner,
    check_source,
    check_work_queue,
)
from headrace.types import Events

numbers = count()

HOME = (Place(name="home"),)
WORLD = WorldConfig(seed=2, requests=60, users=50, items=100, requests_per_s=0.02, bot_share=0.1, places=HOME)


SHORT = replace(WORLD, requests=15)
LOG, LONG = (list(World(config).stream(entry_requests=4)) for config in (SHORT, WORLD))


def as_events(table: pa.Table) -> Events:
    return Events(table.combine_chunks().to_batches()[0])


def clicks_csv(folder: Path, name: str, order: list[int]) -> Path:
    text = StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(["user", "item", "at", "price"])
    rows.writerows([f"u{n % 7}", f"i{n % 11}", n * 3, n / 4] for n in order)
    content = text.getvalue().encode()
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    return path


LAYOUT = Layout(time="at", time_unit="s", key=("user", "at"), kind="click")


def file_sources() -> Iterator[tuple]:
    def source(made: Callable[[Path], Callable[[], FileSource]], label: str) -> tuple:
        return "Source", FileSource, lambda folder: check_source(made(folder)), (), label

    def in_order(folder: Path):
        path = clicks_csv(folder, "clicks.csv", list(range(200)))
        return lambda: FileSource(path, LAYOUT)

    def out_of_order(folder: Path):
        path = clicks_csv(folder, "clicks.csv.gz", [5, *range(200, 5, -1), *range(5)])
        return lambda: FileSource(path, LAYOUT)

    def two_files(folder: Path):
        paths = [clicks_csv(folder, "a.csv", list(range(90))), clicks_csv(folder, "b.csv", list(range(90, 200)))]
        return lambda: FileSource(paths, LAYOUT)

    def parquet(folder: Path):
        table = pa.Table.from_batches([event.batch for event in [Events.concat(LOG)]])
        pq.write_table(table, folder / "log.parquet", row_group_size=37)
        return lambda: FileSource(folder / "log.parquet", order="file")

    def arrow(folder: Path):
        batch = Events.concat(LOG).batch
        with pa.OSFile(str(folder / "log.arrow"), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            for start in range(0, batch.num_rows, 41):
                writer.write_batch(batch.slice(start, 41))
        return lambda: FileSource(folder / "log.arrow", order="file")

    yield source(in_order, "csv")
    yield source(out_of_order, "csv-unsorted-gzip")
    yield source(two_files, "two-files")
    yield source(parquet, "parquet")
    yield source(arrow, "arrow")


def log_source(folder: Path, *, closed: bool) -> Callable[[], LogSource]:
    log = EmbeddedLog(folder / f"log{next(numbers)}.db", durability="process")
    for entry in LOG:
        log.append("events", entry)
    if closed:
        log.close_topic("events")
    return lambda: LogSource(log, "events")


def kafka_source(_: Path) -> Verdict:
    confluent_kafka = pytest.importorskip("confluent_kafka", reason="the extra 'kafka' is not installed")
    from headrace.data.kafka import KafkaLog

    cluster = confluent_kafka.Producer({"test.mock.num.brokers": 1, "log_level": 0})
    brokers = cluster.list_topics(timeout=10).brokers.values()
    log = KafkaLog(",".join(f"{one.host}:{one.port}" for one in brokers), settings={"log_level": 0}, timeout_s=10)
    try:
        for entry in LOG[:2]:
            log.append("events", entry)
        log.close_topic("events")
        return check_source(lambda: KafkaSource(log, "events"))
    finally:
        log.close()


def sources() -> Iterator[tuple]:
    table = pa.Table.from_batches([Events.concat(LOG).batch])
    yield ("Source", MemorySource, lambda _: check_source(lambda: MemorySource(LOG)))
    yield ("Source", TableSource, lambda _: check_source(lambda: TableSource(table, as_events)))
    yield from file_sources()
    yield ("Source", LogSource, lambda folder: check_source(log_source(folder, closed=True)))
    yield ("Source", LogSource, lambda folder: check_source(log_source(folder, closed=False), rows=100), (7,), "open")
    yield ("Source", KafkaSource, kafka_source)
    yield ("Source", World, lambda _: check_source(lambda: World(SHORT)))
    yield ("Source", World, lambda _: check_source(lambda: World(WorldConfig(seed=1)), rows=100), (7,), "endless")
    yield ("Source", WorldPlayer, lambda _: check_source(lambda: WorldPlayer(SHORT)))
    yield ("Source", Recording, lambda _: check_source(recording))
    yield ("Source", ListSource, lambda _: check_source(lambda: ListSource(LOG, pause_every=3)))


def recording(log: list[Events] = LOG) -> Recording:
    return Recording(lambda: MemorySource(log))


# --------------------------------------------------------------------------------------------------------- feedback


def asked() -> list[tuple[Events, Events]]:
    """What a loop would ask a world and answer itself: chunks of requests that cut requests in pieces too."""
    requests = World(WORLD).read(10_000)
    scores = np.array([int(item[1:]) % 13 / 13 for item in requests.column("item").to_pylist()], dtype=np.float32)
    answers = requests.with_columns({"score": pa.array(scores), "version": pa.array(np.arange(len(requests)) // 150)})
    cuts = [*range(0, len(requests), 85), len(requests)]
    return [(requests.slice(a, b - a), answers.slice(a, b - a)) for a, b in pairwise(cuts)]


class ReadsFirst:
    """A recording as Feedback alone: it reads on, as the loop does, before it is asked for answers."""

    def __init__(self) -> None:
        self.recording = recording(LONG)

    def collect(self, requests: Events, predictions: Events) -> Events | None:
        read = self.recording.read(85)
        answers = self.recording.collect(read, read)
        return None if answers is None else Events(answers.batch.drop_columns(["user"]))


def feedback() -> Iterator[tuple]:
    yield ("Feedback", World, lambda _: check_feedback(lambda: World(WORLD), asked()))
    yield ("Feedback", WorldPlayer, lambda _: check_feedback(lambda: WorldPlayer(WORLD), asked()))

    def recorded(_: Path) -> Verdict:
        source, chunks = recording(LONG), []
        for _ in range(6):
            read = source.read(85)
            chunks.append((read, read))
        later = chunks[-1][0].with_columns({"event_time": pa.array(chunks[-1][0].times + 10**12)})
        return check_feedback(ReadsFirst, [(Events.concat([later, *(c[0] for c in chunks)]), later), *chunks[1:]])

    yield ("Feedback", Recording, recorded, (5,))
    yield ("Feedback", AnswerEverything, lambda _: check_feedback(AnswerEverything, asked()), (5,))

    def function() -> FunctionFeedback:
        return FunctionFeedback(AnswerEverything().collect)

    yield ("Feedback", FunctionFeedback, lambda _: check_feedback(function, asked()), (5,))


# ---------------------------------------------------------------------------------------------------------- joiners


SCHEMA = Schema(features=(
    IdFeature("user", 4), IdFeature("item", 4), IdFeature("category", 4), DenseFeature("age_h", transform="log1p"),
    DenseFeature("position", serve_as=1.0),
))  # fmt: skip
WINDOW_S, LATENESS_S = 600.0, 100_000.0  # later than any click, so that every order is within the watermark


def chunks() -> list[tuple[Events, Events | None, Events | None]]:
    world, made = World(WORLD), []
    for requests, answers in asked():
        made.append((requests, answers, world.collect(requests, answers)))
    nothing = tuple(events.slice(0, 0) for events in made[0][:2])
    return [*made, (*nothing, world.drain())]


def labels() -> dict[int, float]:
    """Every example that has to come out: positive where a click came within the window."""
    rows = chunks()
    shown = Events.concat([requests for requests, _, _ in rows])
    ids = example_ids(shown.column("key"), shown.column("item")).tolist()
    times = dict(zip(ids, shown.times.tolist(), strict=True))
    found = dict.fromkeys(times, 0.0)
    for _, _, answers in rows:
        if answers is not None:
            ids = example_ids(answers.column("key"), answers.column("item")).tolist()
            for one, time in zip(ids, answers.times.tolist(), strict=True):
                found[one] = float(found[one] or time - times[one] <= WINDOW_S * 1e6)
    return found


def shuffled() -> list[tuple[Events, Events | None, Events | None]]:
    """The same rows: all answers first, requests backwards."""
    rows = chunks()
    answers = Events.concat([one[2] for one in rows if one[2] is not None])
    first = (rows[0][0].slice(0, 0), rows[0][1].slice(0, 0), answers)
    return [first, *((requests, predictions, None) for requests, predictions, _ in reversed(rows))]


def joiner(folder: Path | None = None, *, batch_rows: int = 1, **other):
    def make() -> EventJoiner:
        spill = folder / f"spill{next(numbers)}" if folder else None
        settings = {"window_s": WINDOW_S, "lateness_s": LATENESS_S, **other}
        return EventJoiner(EventJoin(JoinConfig(spill=spill, **settings)), Collator(SCHEMA, batch_rows))

    return make


def joiners() -> Iterator[tuple]:
    whole = {"expected": labels(), "shuffled": shuffled()}
    others = [joiner(window_s=1.0), joiner(lateness_s=1.0), joiner(batch_rows=9)]

    def placed(make):
        return lambda: Placed(make(), "position")

    def run(make) -> Verdict:
        return check_joiner(make, chunks(), others=others, **whole)

    yield ("Joiner", EventJoiner, lambda _: run(joiner()))
    yield ("Joiner", EventJoiner, lambda folder: run(joiner(folder, memory_rows=50)), (), "disk")
    sampled = joiner(negative_rate=0.5)
    part = {"others": others, "shuffled": shuffled()}
    yield ("Joiner", EventJoiner, lambda _: check_joiner(sampled, chunks(), **part), (8,), "sampled")
    yield ("Joiner", Placed, lambda _: run(placed(joiner())))

    def screened(folder: Path) -> Verdict:
        book, make = ErasureBook(folder / "erasures.db"), joiner()
        book.request("somebody else")
        return run(lambda: Screened(make(), book, UserColumns(("user",), {"user": 4})))

    yield ("Joiner", Screened, screened)

    def cut(_: Path) -> Verdict:
        examples = Toy(ToyConfig()).events(0, 100)
        schema = Schema(features=(IdFeature("user", 4), IdFeature("item", 4)))
        pieces = [(examples.slice(start, 23), None, None) for start in range(0, 100, 23)]
        truth = dict(zip(examples.column("example_id").to_pylist(), examples.column("label").to_pylist(), strict=True))
        return check_joiner(
            lambda: Collator(schema, 8), pieces, expected=truth, shuffled=pieces[::-1],
            others=[lambda: Collator(schema, 9)], repeats=False,
        )  # fmt: skip

    yield ("Joiner", Collator, cut, (4, 7))
    yield ("Joiner", ListJoiner, lambda _: check_joiner(ListJoiner, chunks()), (8, 9, 10))


def queues() -> Iterator[tuple]:
    yield ("WorkQueue", MemoryQueue, lambda _: check_work_queue(MemoryQueue))


CASES = [sources, feedback, joiners, queues]
