"""Calls between processes: arrays to the bit, errors by their class, secrets, death and silence."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from headrace.errors import ClusterError, ConfigError, LeaseLost, WorkerLost
from headrace.runtime.frames import HEAD, MAGIC, prove, secret_of
from headrace.runtime.wire import Connection, Reply, Server

SECRET = b"a secret of this test"


def echo(request):
    return Reply(request.fields, request.arrays)


def refuse(request):
    raise LeaseLost("Shard 3", got="fence 1", expected="fence 2", do="Lease again.")


HANDLERS = {"echo": echo, "refuse": refuse, "fail": lambda request: 1 / 0, "nothing": lambda request: None}


@pytest.fixture
def server():
    with Server(HANDLERS, secret=SECRET) as running:
        yield running


def test_arrays_come_back_to_the_bit(server) -> None:
    draw = np.random.default_rng(0)
    arrays = {
        "rows": draw.random((300, 7), np.float32), "ids": draw.integers(-9, 9, 50), "none": np.zeros((0, 4)),
        "flags": np.array([True, False]), "scalar": np.array(2.5), "view": draw.random((8, 6))[::2, ::3],
        "half": draw.random(3).astype(np.float16), "nan": np.array([np.nan, np.inf, -0.0]),
    }  # fmt: skip
    with Connection(server.address, SECRET) as connection:
        for _ in range(3):
            reply = connection.call("echo", {"a": [1, {"b": None}], "c": 2**60}, arrays)
    assert reply.fields == {"a": [1, {"b": None}], "c": 2**60}
    assert list(reply.arrays) == list(arrays)
    for name, array in arrays.items():
        assert reply.arrays[name].dtype == array.dtype
        assert reply.arrays[name].shape == array.shape
        assert reply.arrays[name].tobytes() == array.tobytes()
    reply.arrays["rows"][0] = 0  # may be written to


def test_large_arrays_and_many_pieces(server) -> None:
    arrays = {f"a{n}": np.full(n, n, np.int64) for n in range(1500)} | {"big": np.arange(5_000_000, dtype=np.float32)}
    with Connection(server.address, SECRET) as connection:
        reply = connection.call("echo", {}, arrays)
    assert all((reply.arrays[name] == array).all() for name, array in arrays.items())


def test_errors_come_back_as_their_class_and_the_connection_goes_on(server) -> None:
    with Connection(server.address, SECRET) as connection:
        with pytest.raises(LeaseLost) as caught:
            connection.call("refuse")
        assert caught.value.got == "fence 1"
        assert caught.value.do == "Lease again."
        with pytest.raises(ClusterError, match="ZeroDivisionError"):
            connection.call("fail")
        with pytest.raises(ClusterError, match="no_such"):
            connection.call("no_such")
        assert connection.call("nothing").fields == {}


def test_a_dtype_that_cannot_travel_is_refused(server) -> None:
    with Connection(server.address, SECRET) as connection, pytest.raises(ClusterError, match="object"):
        connection.call("echo", {}, {"x": np.array([{}])})


def test_another_secret_is_refused_and_never_reaches_a_handler() -> None:
    called = []
    with Server({"do": lambda request: called.append(1)}, secret=SECRET) as server:
        with Connection(server.address, b"another secret!!") as connection, pytest.raises((ClusterError, WorkerLost)):
            connection.call("do")
        with socket.create_connection(server.address.split(":")) as stranger:
            stranger.sendall(HEAD.pack(MAGIC, 2, 0) + b"{}" * 40)
            stranger.settimeout(5)
            while stranger.recv(1024):
                pass
    assert not called


def test_a_client_notices_a_false_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def impostor() -> None:
            connection, _ = listener.accept()
            with connection, pytest.raises(ClusterError):
                prove(connection, b"it does not know", server=True)

        thread = threading.Thread(target=impostor)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with Connection(address, SECRET) as connection, pytest.raises(ClusterError, match="another secret"):
            connection.call("echo")
        thread.join()


@pytest.mark.parametrize("bad", [
    b"HTTP/1.1 GET / and so on, long enough to be a head", HEAD.pack(MAGIC, 5, 0) + b"[1,2]",
    HEAD.pack(MAGIC, 2**31, 0), HEAD.pack(MAGIC, 2, 2**40) + b"{}", HEAD.pack(MAGIC, 13, 4) + b'{"arrays":[]}abcd',
    HEAD.pack(MAGIC, 35, 8) + b'{"arrays":[["a","object_",[1]]]}   ' + b"x" * 8,
    HEAD.pack(MAGIC, 33, 8) + b'{"arrays":[["a","int64",[-1]]]}  ' + b"x" * 8,
])  # fmt: skip
def test_what_is_no_frame_ends_its_connection_only(server, bad) -> None:
    with socket.create_connection(server.address.split(":")) as raw:
        prove(raw, SECRET, server=False)
        raw.sendall(bad)
        raw.settimeout(5)
        try:
            assert raw.recv(1) == b""
        except ConnectionResetError:
            pass
    with Connection(server.address, SECRET) as connection:
        assert connection.call("echo", {"a": 1}).fields == {"a": 1}


def test_requests_over_the_limit_are_refused() -> None:
    with Server({"echo": echo}, secret=SECRET, max_bytes=1000) as server, Connection(server.address, SECRET) as one:
        with pytest.raises((WorkerLost, ClusterError)):
            one.call("echo", {}, {"x": np.zeros(1001, np.uint8)})
        assert one.call("echo", {}, {"x": np.zeros(1000, np.uint8)}).arrays["x"].size == 1000


def test_silence_ends_after_the_time_and_death_at_once() -> None:
    hold = threading.Event()
    methods = {"wait": lambda request: {"x": hold.wait(5)}, "echo": echo}
    with Server(methods, secret=SECRET) as server, Connection(server.address, SECRET) as connection:
        begun = time.monotonic()
        with pytest.raises(WorkerLost, match="no answer within"):
            connection.call("wait", timeout_s=0.1)
        assert 0.05 < time.monotonic() - begun < 2
        assert connection.call("echo", {"a": 2}).fields == {"a": 2}  # over a fresh connection, not the late answer
        threading.Timer(0.1, server.close).start()
        begun = time.monotonic()
        with pytest.raises(WorkerLost):
            connection.call("wait")
        assert time.monotonic() - begun < 2
        hold.set()
        with pytest.raises(WorkerLost):
            connection.call("echo")


def test_a_killed_process_is_noticed_on_both_sides() -> None:
    closed = threading.Event()
    told = {}

    def hello(request):
        request.session["worker"] = "w1"
        return {}

    def gone(session):
        told.update(session)
        closed.set()

    with Server({"hello": hello}, secret=SECRET, closed=gone) as server:
        code = (
            "import sys, time; from headrace.runtime.wire import Connection\n"
            "Connection(sys.argv[1], sys.argv[2].encode()).call('hello'); print('said', flush=True); time.sleep(9)"
        )
        child = subprocess.Popen([sys.executable, "-c", code, server.address, SECRET.decode()], stdout=subprocess.PIPE)
        assert child.stdout.readline() == b"said\n"
        child.kill()
        begun = time.monotonic()
        assert closed.wait(5)
        assert told == {"worker": "w1"}
        assert time.monotonic() - begun < 1
        child.wait()
        child.stdout.close()


def test_calls_that_may_be_repeated_survive_a_restart_of_the_server() -> None:
    first = Server({"echo": echo}, secret=SECRET)
    with Connection(first.address, SECRET) as connection:
        connection.call("echo")
        first.close()
        with pytest.raises(WorkerLost):
            connection.call("echo")

        second = []
        timer = threading.Timer(0.3, lambda: second.append(Server({"echo": echo}, first.address, SECRET)))
        timer.start()
        assert connection.call("echo", {"a": 3}, retry_s=10.0).fields == {"a": 3}
        timer.join()
        second[0].close()


def test_a_call_that_waits_can_be_ended_from_another_thread() -> None:
    hold = threading.Event()
    with Server({"wait": lambda request: {"x": hold.wait(5)}}, secret=SECRET) as server:
        connection = Connection(server.address, SECRET)
        threading.Timer(0.1, connection.close).start()
        with pytest.raises(WorkerLost):
            connection.call("wait", retry_s=10.0)
        hold.set()


def test_only_loopback_unless_asked() -> None:
    with pytest.raises(ConfigError, match="loopback"):
        Server({}, "0.0.0.0:0", SECRET)
    Server({}, "0.0.0.0:0", SECRET, remote=True).close()
    with pytest.raises(ConfigError, match="secret"):
        Server({}, secret=b"short")


def test_the_secret_is_for_its_owner(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("HEADRACE_SECRET", raising=False)
    with pytest.raises(ConfigError, match="none"):
        secret_of(tmp_path)
    made = secret_of(tmp_path, create=True)
    assert made == secret_of(tmp_path)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    os.chmod(tmp_path / "secret", 0o640)
    with pytest.raises(ConfigError, match="permissions"):
        secret_of(tmp_path)
    monkeypatch.setenv("HEADRACE_SECRET", "from the environment")
    assert secret_of(tmp_path) == b"from the environment"


def test_an_answer_that_cannot_travel_is_an_error_of_its_caller_and_is_not_asked_again() -> None:
    asked = []

    def odd(request):
        asked.append(1)
        return {"x": object()}

    handlers = {"odd": odd, "rows": lambda request: Reply({}, {"x": np.array([{}])}), "echo": echo}
    with Server(handlers, secret=SECRET) as server, Connection(server.address, SECRET) as connection:
        before = None
        for method in ("odd", "rows"):
            with pytest.raises(ClusterError, match="object") as caught:
                connection.call(method, retry_s=2.0)
            assert not isinstance(caught.value, WorkerLost)
            assert before in (None, connection._socket), "the connection goes on"
            before = connection._socket
        assert connection.call("echo", {"a": 1}).fields == {"a": 1}
    assert len(asked) == 1


def test_a_connection_that_is_closed_while_it_is_made_stays_closed(server, monkeypatch) -> None:
    connection, make = Connection(server.address, SECRET), socket.create_connection

    def closed_meanwhile(*words, **more):
        connection.close()
        return make(*words, **more)

    monkeypatch.setattr(socket, "create_connection", closed_meanwhile)
    with pytest.raises(WorkerLost, match="closed here"):
        connection.call("echo", retry_s=5.0)
    assert connection._socket is None


def test_a_server_that_dies_while_secrets_are_compared_is_tried_again() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address, second = f"127.0.0.1:{listener.getsockname()[1]}", []

    def die() -> None:
        connection, _ = listener.accept()
        connection.sendall(connection.recv(1024))  # a greeting
        connection.recv(1024)
        connection.close()
        listener.close()
        second.append(Server({"echo": echo}, address, SECRET))

    thread = threading.Thread(target=die)
    thread.start()
    with Connection(address, SECRET) as connection:
        assert connection.call("echo", {"a": 1}, retry_s=10.0).fields == {"a": 1}
    thread.join()
    second[0].close()


def test_a_machine_that_is_gone_is_noticed_by_the_kernel(server) -> None:
    with Connection(server.address, SECRET) as connection:
        connection.call("echo")
        for end in (connection._socket, *server._open):
            assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_of_two_that_make_a_secret_both_know_that_of_the_first(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("HEADRACE_SECRET", raising=False)
    first, link = [], os.link

    def somebody_was_first(beside, path) -> None:
        assert len(Path(beside).read_text()) == 64, "a secret is never seen half written"
        if not first:
            first.append(b"the secret of the first")
            path.write_bytes(first[0])
            path.chmod(0o600)
        link(beside, path)

    monkeypatch.setattr(os, "link", somebody_was_first)
    assert secret_of(tmp_path, create=True) == first[0]
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
