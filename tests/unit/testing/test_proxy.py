from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from headrace.errors import ConfigError
from headrace.testing import Line, TcpProxy


@pytest.fixture
def echo():
    """An echo server; yields its address."""
    server = socket.create_server(("127.0.0.1", 0))
    threads = []

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threads.append(threading.Thread(target=answer, args=(server.accept()[0],), daemon=True))
                threads[-1].start()

    acceptor = threading.Thread(target=serve, daemon=True)
    acceptor.start()
    yield server.getsockname()
    with contextlib.suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)
    server.close()


def ask(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    received = b""
    while len(received) < len(data):
        piece = client.recv(1 << 16)
        if not piece:
            break
        received += piece
    return received


def timed(client: socket.socket, data: bytes) -> float:
    started = time.monotonic()
    assert ask(client, data) == data
    return time.monotonic() - started


def test_bytes_come_through_whole_and_in_order(echo) -> None:
    data = bytes(range(256)) * 4000
    with TcpProxy(echo) as proxy, socket.create_connection(proxy.address, timeout=20) as client:
        threading.Thread(target=client.sendall, args=(data,), daemon=True).start()
        assert ask(client, b"")[:0] == b""
        received = b""
        while len(received) < len(data):
            received += client.recv(1 << 16)
        assert received == data
        assert proxy.forwarded_bytes >= len(data)


def test_connections_are_counted(echo) -> None:
    with TcpProxy(echo) as proxy:
        for number in range(3):
            with socket.create_connection(proxy.address, timeout=20) as client:
                assert ask(client, b"hello") == b"hello"
            assert proxy.accepted == number + 1


def test_delay_holds_in_both_directions(echo) -> None:
    with TcpProxy(echo, delay_s=0.1) as proxy, socket.create_connection(proxy.address, timeout=20) as client:
        assert timed(client, b"x") >= 0.2
        proxy.set(Line())
        assert min(timed(client, b"x") for _ in range(5)) < 0.2


def test_a_slow_line_is_slow(echo) -> None:
    with TcpProxy(echo, bytes_per_s=1e6) as proxy, socket.create_connection(proxy.address, timeout=20) as client:
        assert timed(client, b"x" * 200_000) >= 0.15


def test_a_loss_is_a_pause_and_nothing_is_lost(echo) -> None:
    with (
        TcpProxy(echo, loss=0.5, retransmit_s=0.05, seed=1) as proxy,
        socket.create_connection(proxy.address, timeout=20) as client,
    ):
        times = [timed(client, b"x") for _ in range(12)]
    assert max(times) >= 0.05
    assert min(times) < 0.05


def test_a_partition_lets_nothing_through_until_it_is_healed(echo) -> None:
    with TcpProxy(echo) as proxy, socket.create_connection(proxy.address, timeout=20) as client:
        assert ask(client, b"before") == b"before"
        proxy.partition()
        client.sendall(b"during")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(10)
        client.settimeout(20)
        proxy.heal()
        assert client.recv(10) == b"during"


def test_a_partition_can_be_one_way() -> None:
    """What is sent arrives; the answer does not, until it is healed."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        TcpProxy(server.getsockname()) as proxy,
        socket.create_connection(proxy.address, timeout=20) as client,
    ):
        inner, _ = server.accept()
        inner.settimeout(20)
        with inner:
            proxy.partition("back")
            client.sendall(b"there")
            assert inner.recv(10) == b"there"
            inner.sendall(b"back")
            client.settimeout(0.2)
            with pytest.raises(TimeoutError):
                client.recv(10)
            client.settimeout(20)
            proxy.heal()
            assert client.recv(10) == b"back"


def test_one_way_can_be_slower_than_the_other(echo) -> None:
    with TcpProxy(echo) as proxy, socket.create_connection(proxy.address, timeout=20) as client:
        proxy.set(Line(delay_s=0.15), "back")
        assert proxy.lines["there"] == Line()
        assert timed(client, b"x") >= 0.15


def test_jitter_keeps_the_order(echo) -> None:
    data = bytes(range(256)) * 200
    with (
        TcpProxy(echo, jitter_s=0.01, seed=2) as proxy,
        socket.create_connection(proxy.address, timeout=20) as client,
    ):
        assert ask(client, data) == data


def test_refused_connections_are_reset_and_the_others_work(echo) -> None:
    came, refused = 0, 0
    with TcpProxy(echo, refuse=0.5, seed=3) as proxy:
        for _ in range(12):
            try:  # a reset may come before connecting has returned
                with socket.create_connection(proxy.address, timeout=20) as client:
                    came += ask(client, b"hello") == b"hello"
            except ConnectionError:
                refused += 1
    assert came >= 2
    assert refused >= 2


def test_a_connection_made_in_a_partition_waits(echo) -> None:
    with TcpProxy(echo) as proxy:
        proxy.partition()
        with socket.create_connection(proxy.address, timeout=20) as client:
            client.sendall(b"hello")
            time.sleep(0.1)
            proxy.heal()
            assert client.recv(10) == b"hello"


def test_cut_connections_are_reset_and_new_ones_work(echo) -> None:
    with TcpProxy(echo) as proxy:
        with socket.create_connection(proxy.address, timeout=20) as client:
            assert ask(client, b"hello") == b"hello"
            proxy.cut()
            with pytest.raises(ConnectionError):
                ask(client, b"again" * 100)
                client.recv(1)
                raise ConnectionError("closed without a reset, which would do as well")
        with socket.create_connection(proxy.address, timeout=20) as client:
            assert ask(client, b"hello") == b"hello"


def test_the_end_of_one_direction_is_passed_on(echo) -> None:
    with TcpProxy(echo) as proxy, socket.create_connection(proxy.address, timeout=20) as client:
        client.sendall(b"last")
        client.shutdown(socket.SHUT_WR)
        received = b""
        while piece := client.recv(100):
            received += piece
        assert received == b"last"


def test_a_target_that_is_not_there_closes_the_connection(free_port) -> None:
    with (
        TcpProxy(("127.0.0.1", free_port)) as proxy,
        socket.create_connection(proxy.address, timeout=20) as client,
        contextlib.suppress(ConnectionError),
    ):
        assert client.recv(10) == b""


def test_closing_in_a_partition_does_not_hang(echo) -> None:
    with TcpProxy(echo) as proxy:
        proxy.partition()
        client = socket.create_connection(proxy.address, timeout=20)
        client.sendall(b"x")
    client.close()
    assert not proxy._thread.is_alive()


def test_a_proxy_that_was_closed_has_nothing_to_heal(echo) -> None:
    """A plan of faults may end after what it struck."""
    with TcpProxy(echo) as proxy:
        proxy.partition()
    for change in (proxy.heal, proxy.partition, proxy.cut, proxy.close):
        change()


def test_a_proxy_that_was_never_entered_closes() -> None:
    proxy = TcpProxy(("127.0.0.1", 9))
    proxy.close()
    assert proxy._loop.is_closed()


@pytest.mark.parametrize(
    "settings", [{"delay_s": -1.0}, {"bytes_per_s": 0.0}, {"loss": 1.0}, {"jitter_s": -1.0}, {"refuse": 1.5}]
)
def test_settings_that_cannot_work_are_refused(settings) -> None:
    with pytest.raises(ConfigError):
        TcpProxy(("127.0.0.1", 9), **settings)
