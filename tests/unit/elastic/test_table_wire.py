"""What callers of a table server wait for, and what they do not wait for."""

from __future__ import annotations

import threading

import pytest

from headrace.errors import StaleError, StoreError
from headrace.store import bucket_of

from .tables_world import named, part, wired


def test_steps_and_look_ups_do_not_wait_for_a_move_or_a_copy(tmp_path) -> None:
    with wired(2, tmp_path) as world:
        gate, begun = threading.Event(), threading.Semaphore(0)

        def slow(*_arguments):
            begun.release()
            assert gate.wait(20.0)
            return world.record.map

        world.servers[0].departures.move = slow
        world.servers[0].copies.gather = lambda sequence: {"map": slow().version}
        client = world.directory.client(0)
        calls = (lambda: client.move([0], 1, world.wires[1].address), lambda: client.collect_copy(1))
        threads = [threading.Thread(target=call, daemon=True) for call in calls]
        for thread in threads:
            thread.start()
            assert begun.acquire(timeout=5.0)
        told = []
        learning = threading.Thread(target=lambda: told.append(_learn(world, client)), daemon=True)
        learning.start()
        learning.join(5.0)
        gate.set()
        for thread in threads:
            thread.join(5.0)
        assert told == [1]


def _learn(world, client) -> int:
    world.remote.prepare(named(1), part([1, 2]))
    client.apply(1, [named(1)])
    return int(client.stats()["applied"])


def test_a_step_told_from_before_a_restore_is_ignored() -> None:
    with wired(1) as world:
        server, client = world.servers[0], world.directory.client(0)
        old = world.record.map
        server.copies.restore(old.moved([], 0), 3, [])
        assert client.apply_all([(4, [named(4, "from before")])], old.version) == 0
        assert (server.torn, server.stats()["held_back"]) == ("", 0)
        world.record.moved(server.map)
        world.directory.refresh()
        world.remote.prepare(named(4), part([1]))
        client.apply_all([(4, [named(4)])], server.map.version)
        assert server.applied == 4


def test_all_rows_are_read_by_one_map(tmp_path) -> None:
    with wired(2, tmp_path) as world:
        world.remote.take(part(range(200)))
        first, moved, usual = threading.Event(), threading.Event(), [server.rows for server in world.servers]

        def rows_there(*arguments):
            found = usual[0](*arguments)
            first.set()
            return found

        def rows_here(*arguments):
            assert moved.wait(10.0)
            return usual[1](*arguments)

        world.servers[0].rows, world.servers[1].rows = rows_there, rows_here

        def move() -> None:
            first.wait(10.0)
            own = [bucket for bucket in set(bucket_of(ids).tolist()) if world.record.map.owners[bucket] == 0]
            world.record.moved(world.directory.client(0).move(own[:20], 1, world.record.servers[1]))
            moved.set()

        ids = part(range(200)).steps["user"][0]
        mover = threading.Thread(target=move, daemon=True)
        mover.start()
        assert world.remote.tables["user"].rows().ids.tolist() == list(range(200))
        with pytest.raises(StaleError):
            usual[0]("user", 0, 0)
        mover.join(5.0)


def test_tables_that_are_not_served_are_named() -> None:
    with wired(1) as world:
        ids = part([1]).steps["user"][0]
        for ask in (lambda to: to.lookup(0, 0, {"users": ids}), lambda to: to.rows("users"),
                    lambda to: to.changes("users", 0)):  # fmt: skip
            for server in (world.servers[0], world.directory.client(0)):
                with pytest.raises(StoreError, match="not served"):
                    ask(server)
