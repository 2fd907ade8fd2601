"""Rows from worker processes to the writer of the log: acknowledged when durable, refused with the reason."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest

from headrace.errors import CapacityError, StoreError
from headrace.serve.event_writer import Written
from headrace.serve.impressions import ImpressionDesk, ImpressionLink
from headrace.types import Events

ROWS = Events.from_columns({"key": ["a", "b"], "kind": ["impression"] * 2, "event_time": [1, 2]})


class Recorder:
    """Keeps rows; answers when it is told to."""

    def __init__(self) -> None:
        self.taken: list[Events] = []
        self.futures: list[Future[Written]] = []
        self.full = False

    def record(self, rows: Events) -> Future[Written]:
        if self.full:
            raise CapacityError("Event log", got="too much", expected="less", do="Wait.")
        self.taken.append(rows)
        self.futures.append(Future())
        return self.futures[-1]


def run(test, tmp_path):
    async def inside() -> None:
        recorder, told = Recorder(), []
        desk = ImpressionDesk(recorder, told.append)
        await desk.start(tmp_path / "rows.sock")
        link = ImpressionLink(tmp_path / "rows.sock")
        try:
            await asyncio.wait_for(test(recorder, link, told, desk), 20)
        finally:
            link.close()
            await desk.close()

    asyncio.run(inside())


async def until(done) -> None:
    while not done():
        await asyncio.sleep(0.001)


def test_rows_are_acknowledged_one_by_one_when_they_are_durable(tmp_path):
    async def test(recorder, link, told, desk):
        first, second = (link.submit(ROWS.slice(row, 1).to_bytes()) for row in (0, 1))
        await until(lambda: len(recorder.taken) == 2)
        assert [rows.column("key")[0].as_py() for rows in recorder.taken] == ["a", "b"]
        recorder.futures[1].set_result(Written(1))
        await second
        assert not first.done()
        recorder.futures[0].set_exception(StoreError("Disk", got="nothing", expected="room"))
        with pytest.raises(StoreError, match="Disk"):
            await first

    run(test, tmp_path)


def test_a_refusal_says_why_and_the_connection_goes_on(tmp_path):
    async def test(recorder, link, told, desk):
        recorder.full = True
        with pytest.raises(StoreError, match="too much"):
            await link.submit(ROWS.to_bytes())
        with pytest.raises(StoreError):
            await link.submit(b"no arrow stream")
        recorder.full = False
        future = link.submit(ROWS.to_bytes())
        await until(lambda: recorder.futures)
        recorder.futures[0].set_result(Written(2))
        await future
        link.tell({"rows": 3})
        await until(lambda: told)
        assert told == [{"rows": 3}]

    run(test, tmp_path)


def test_who_waits_is_told_when_the_writer_ends_and_the_next_one_is_found(tmp_path):
    async def test(recorder, link, told, desk):
        future = link.submit(ROWS.to_bytes())
        await until(lambda: recorder.taken)
        link._transport.abort()
        with pytest.raises(StoreError, match="end of the connection"):
            await future
        again = link.submit(ROWS.to_bytes())
        await until(lambda: len(recorder.futures) == 2)
        recorder.futures[1].set_result(Written(2))
        await again
        link.path = tmp_path / "nowhere.sock"
        link._transport.abort()
        await until(lambda: link._transport is None)
        with pytest.raises(StoreError, match="again"):
            await link.submit(ROWS.to_bytes())

    run(test, tmp_path)
