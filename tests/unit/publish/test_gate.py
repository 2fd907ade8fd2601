from __future__ import annotations

import threading
import time

from headrace.publish.gate import Gate


def test_readers_are_inside_together() -> None:
    gate, both = Gate(), threading.Barrier(2, timeout=5)

    def read() -> None:
        with gate.shared():
            both.wait()  # passes only if the other one is inside too

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(6)
    assert not both.broken


def test_a_writer_is_alone() -> None:
    gate, inside, seen = Gate(), [0], []

    def write() -> None:
        for _ in range(200):
            with gate.alone():
                inside[0] += 1
                seen.append(inside[0])
                inside[0] -= 1

    def read() -> None:
        for _ in range(200):
            with gate.shared():
                seen.append(inside[0] + 1)

    threads = [threading.Thread(target=target) for target in (write, write, read, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) == {1}


def test_a_waiting_writer_goes_before_later_readers() -> None:
    gate, order = Gate(), []
    first_in, first_out = threading.Event(), threading.Event()

    def first() -> None:
        with gate.shared():
            first_in.set()
            first_out.wait(5)

    def write() -> None:
        with gate.alone():
            order.append("writer")

    def later() -> None:
        with gate.shared():
            order.append("reader")

    threads = [threading.Thread(target=first)]
    threads[0].start()
    first_in.wait(5)
    for target in (write, later):
        threads.append(threading.Thread(target=target))
        threads[-1].start()
        time.sleep(0.05)
    first_out.set()
    for thread in threads:
        thread.join(5)
    assert order == ["writer", "reader"]


def test_writers_in_a_row_do_not_keep_readers_out() -> None:
    gate, stop, reads = Gate(), threading.Event(), [0]

    def write() -> None:
        while not stop.is_set():
            with gate.alone():
                time.sleep(0.001)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for thread in writers:
        thread.start()
    deadline = time.monotonic() + 5
    while reads[0] < 20 and time.monotonic() < deadline:
        with gate.shared():
            reads[0] += 1
    stop.set()
    for thread in writers:
        thread.join()
    assert reads[0] == 20


def test_an_error_inside_lets_the_others_go_on() -> None:
    gate = Gate()
    for way in (gate.shared, gate.alone):
        try:
            with way():
                raise ValueError
        except ValueError:
            pass
    with gate.alone():
        pass
    with gate.shared():
        pass
