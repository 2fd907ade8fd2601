"""A worker's HTTP, byte by byte: what is answered here, what is relayed, and what never gets in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from headrace.errors import NumericError, StoreError
from headrace.serve import AccessConfig, ServeConfig
from headrace.serve.access import Doorkeeper
from headrace.serve.relay_routes import Relayed
from headrace.serve.tokens import TokenBook, make_token
from headrace.serve.worker_routes import Worker


class Asked:
    def __init__(self, content: dict) -> None:
        self.rows, self.log, self.min_version = 1, content.get("log"), content.get("min_version")
        self.name = content["name"]

    def answer(self, version: int) -> tuple[bytes, str]:
        return json.dumps({"name": self.name, "version": version}).encode(), "application/json"

    def impressions(self, version: int) -> bytes:
        return f"{self.name} {version}".encode()


@dataclass
class Scoring:
    """Reads `{"name": ...}`; a request called `bad` cannot be scored."""

    passes: list[list[str]] = field(default_factory=list)

    def read(self, body: bytes, arrow: bool) -> Asked | None:
        try:
            return Asked(json.loads(body))
        except (ValueError, KeyError, TypeError):
            return None

    def score(self, asked) -> int:
        self.passes.append([one.name for one in asked])
        if any(one.name == "bad" for one in asked):
            raise NumericError("Version", got="NaN", expected="numbers")
        return 5


@dataclass
class Relay:
    seen: list[tuple] = field(default_factory=list)
    broken: bool = False

    async def send(self, method, target, headers, body, address) -> Relayed:
        self.seen.append((method, target, dict(headers), body, address))
        await asyncio.sleep(0.01)
        if self.broken:
            raise StoreError("Server", got="nothing", expected="an answer")
        return Relayed(404, [(b"x-from", b"owner")], b"relayed " + target)


@dataclass
class Link:
    rows: list[bytes] = field(default_factory=list)
    error: StoreError | None = None
    told: list[dict] = field(default_factory=list)

    def submit(self, rows: bytes):
        self.rows.append(rows)
        future = asyncio.get_running_loop().create_future()
        if self.error is None:
            asyncio.get_running_loop().call_later(0.01, future.set_result, None)
        else:
            future.set_exception(self.error)
        return future

    def tell(self, values) -> None:
        self.told.append(values)

    def close(self) -> None:
        pass


class House:
    """A worker that serves in a thread."""

    def __init__(self, **settings: object) -> None:
        self.scoring, self.relay, self.link = Scoring(), Relay(), Link()
        self.access = AccessConfig(requests_per_s=1e6, burst=10_000)
        config = ServeConfig(log_impressions=False, max_body_bytes=2000, **settings)  # type: ignore[arg-type]
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self._ready = threading.Event()

        async def serve() -> None:
            self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
            self.worker = Worker(self.scoring, config, Doorkeeper(self.access), self.link, self.relay,  # type: ignore[arg-type]
                                 knows=lambda host: host != b"evil")  # fmt: skip
            self._ready.set()
            await self.worker.serve(self.sock, self.stop)

        self.thread = threading.Thread(target=lambda: asyncio.run(serve()))
        self.thread.start()
        self._ready.wait()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(15)
        assert not self.thread.is_alive()
        self.sock.close()


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.close()


def request(body: bytes | str, target: str = "/v1/rank", *, method: str = "POST", more: str = "") -> bytes:
    raw = body.encode() if isinstance(body, str) else body
    head = f"{method} {target} HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n"
    return (head + more + "\r\n").encode() + raw


def named(name: str, **more: object) -> str:
    return json.dumps({"name": name, **more})


def answers(wire: socket.socket, count: int) -> list[tuple[int, dict[str, str], bytes]]:
    """Read so many answers; fewer if the connection ends."""
    data, found = b"", []
    while len(found) < count:
        if data.startswith(b"HTTP/1.1 100 Continue\r\n\r\n"):
            found.append((100, {}, b""))
            data = data[25:]
            continue
        match = re.match(rb"HTTP/1\.1 (\d+) [^\r]*\r\n(.*?)\r\n\r\n", data, re.S)
        if match:
            lines = match[2].decode().split("\r\n") if match[2] else []
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            size = int(headers.get("content-length", 0))
            if len(data) >= match.end() + size:
                found.append((int(match[1]), headers, data[match.end() : match.end() + size]))
                data = data[match.end() + size :]
                continue
        part = wire.recv(65536)
        if not part:
            break
        data += part
    return found


def test_a_rank_is_answered_and_everything_else_is_relayed_in_order(house):
    with house.connect() as wire:
        # Four at once on one connection: answers come in the order of the questions.
        wire.sendall(request(named("a")) + request("", "/v1/health", method="GET") + request(named("b")) + request("{"))
        first, second, third, fourth = answers(wire, 4)
    assert (first[0], json.loads(first[2])) == (200, {"name": "a", "version": 5})
    assert first[1]["content-type"] == "application/json"
    assert first[1]["cache-control"] == "no-store"
    assert (second[0], second[1]["x-from"], second[2]) == (404, "owner", b"relayed /v1/health")
    assert json.loads(third[2])["name"] == "b"
    assert fourth[0] == 404  # what cannot be read is answered by those who have the words
    assert house.relay.seen[0][0] == b"GET"
    assert house.relay.seen[0][4] == "127.0.0.1"


def test_bodies_in_pieces_chunks_and_after_a_pause_are_read(house):
    body = named("a")
    with house.connect() as wire:
        for byte in request(body):
            wire.sendall(bytes([byte]))
        chunked = request(b"", more="transfer-encoding: chunked\r\n").replace(b"content-length: 0\r\n", b"")
        wire.sendall(chunked + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body.encode()))
        wire.sendall(request(body, more="expect: 100-continue\r\n")[: -len(body)])
        one, two, waits = answers(wire, 3)
        assert [one[0], two[0], waits[0]] == [200, 200, 100]
        wire.sendall(body.encode())
        assert answers(wire, 1)[0][0] == 200


def test_rows_are_logged_before_they_are_answered(house):
    with house.connect() as wire:
        wire.sendall(request(named("a"), "/v1/rank?log_impressions=true") + request(named("b", log=True)))
        assert [one[0] for one in answers(wire, 2)] == [200, 200]
        assert house.link.rows == [b"a 5", b"b 5"]
        house.link.error = StoreError("Disk", got="no room", expected="room", do="Wait.")
        wire.sendall(request(named("c", log=True)) + request(named("d", log=False)))
        refused, answered = answers(wire, 2)
    assert (refused[0], json.loads(refused[2])["what"], answered[0]) == (503, "Disk", 200)
    assert "retry-after" in refused[1]


def test_what_cannot_be_scored_asked_oddly_or_behind_another_name_is_relayed(house):
    with house.connect() as wire:
        for raw in (request(named("bad")), request(named("a"), "/v1/rank?other=1"), request(named("a", min_version=9)),
                    request(named("a")).replace(b"host: h", b"host: evil"),
                    request(named("a")).replace(b"application/json", b"text/plain")):  # fmt: skip
            wire.sendall(raw)
            assert answers(wire, 1)[0][0] == 404
        house.relay.broken = True
        wire.sendall(request("", "/x", method="GET"))
        assert answers(wire, 1)[0][0] == 503


def test_heads_have_no_body_and_connections_end_when_they_are_asked_to(house):
    with house.connect() as wire:
        wire.sendall(request("", "/v1/health", method="HEAD") + request(named("a"), more="connection: close\r\n"))
        data = b""
        while part := wire.recv(65536):
            data += part
    assert data.count(b"HTTP/1.1") == 2
    assert b"relayed" not in data
    assert b"connection: close" in data


@pytest.mark.parametrize(("raw", "status"), [
    (request(b"x" * 3000), 413), (b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000 + b"\r\n\r\n", 431),
    (request(named("a"), more="content-length: 3\r\n"), 400),
    (request(named("a"), more="transfer-encoding: chunked\r\n"), 400), (b"nonsense\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00", 400),
    (request(b"", more="transfer-encoding: chunked\r\n").replace(b"content-length: 0\r\n", b"") +
     b"bb8\r\n" + b"x" * 3000 + b"\r\n", 413),
])  # fmt: skip
def test_what_is_no_request_is_refused_once_and_the_connection_ends(house, raw, status):
    with house.connect() as wire:
        wire.sendall(raw)
        (answer,) = answers(wire, 2)
        assert answer[0] == status
        assert set(json.loads(answer[2])) == {"what", "got", "expected", "do"}
    assert not house.relay.seen


def test_random_bytes_never_end_the_worker(house):
    draw = random.Random(4)
    whole = request(named("a")) + request("", "/v1/x", method="GET")
    for _ in range(300):
        raw = bytearray(whole)
        for _ in range(draw.randint(1, 8)):
            raw[draw.randrange(len(raw))] = draw.randrange(256)
        with house.connect() as wire:
            wire.sendall(bytes(raw[: draw.randint(1, len(raw))]))
            if draw.random() < 0.3:
                wire.settimeout(0.02)
                try:
                    wire.recv(100)
                except (TimeoutError, ConnectionError):
                    pass
    with house.connect() as wire:
        wire.sendall(request(named("after")))
        assert json.loads(answers(wire, 1)[0][2])["name"] == "after"


def test_who_comes_too_often_is_refused_here_and_counts_are_told():
    house = House()
    house.worker.keeper = Doorkeeper(AccessConfig(requests_per_s=0.001, burst=2))
    with house.connect() as wire:
        wire.sendall(request(named("a")) * 3)
        assert [one[0] for one in answers(wire, 3)] == [200, 200, 429]
    for _ in range(300):
        if house.link.told:
            break
        threading.Event().wait(0.02)
    assert house.link.told[0]["statuses"] == {"200": 2, "429": 1}
    assert house.link.told[0]["rows"] == 2
    assert len(house.link.told[0]["latencies"]) == 3
    house.close()


def test_without_a_token_nothing_is_read_and_nothing_is_scored():
    house = House()
    secret, token = make_token("reader", ["read"])
    house.worker.keeper = Doorkeeper(AccessConfig(tokens=TokenBook([token])))
    with house.connect() as wire:
        wire.sendall(request(named("a"))[:-2])
        threading.Event().wait(0.1)
        assert house.worker.held_bytes == 0
        wire.sendall(named("a").encode()[-2:] + request(named("b"), more=f"authorization: Bearer {secret}\r\n"))
        assert [one[0] for one in answers(wire, 2)] == [401, 200]
    assert house.scoring.passes == [["b"]]
    house.close()


def test_room_for_bodies_is_bounded():
    house = House(max_held_bytes=2500)
    with house.connect() as one, house.connect() as two:
        one.sendall(request(b"x" * 1900)[:-10])
        for _ in range(500):
            if house.worker.held_bytes > 1800:
                break
            threading.Event().wait(0.01)
        two.sendall(request(b"y" * 1900))
        assert answers(two, 1)[0][0] == 503
    for _ in range(500):
        if house.worker.held_bytes == 0:
            break
        threading.Event().wait(0.01)
    assert house.worker.held_bytes == 0
    house.close()


def test_half_a_request_has_so_much_time_from_its_first_byte():
    house = House(body_timeout_s=1.5)
    with house.connect() as wire:
        raw = request(named("a"))
        wire.settimeout(10)
        for byte in raw[:-4]:
            wire.sendall(bytes([byte]))
        for byte in raw[-4:-1]:
            threading.Event().wait(0.9)
            with contextlib.suppress(OSError):  # refused already
                wire.sendall(bytes([byte]))
        assert answers(wire, 1)[0][0] == 408
    house.close()


def test_requests_of_several_connections_share_a_pass_while_they_come_together():
    house = House(batch_window_ms=20.0)
    wires = [house.connect() for _ in range(4)]
    for _ in range(6):
        for number, wire in enumerate(wires):
            wire.sendall(request(named(f"r{number}")))
        assert [json.loads(answers(wire, 1)[0][2])["name"] for wire in wires] == [f"r{n}" for n in range(4)]
    assert max(len(one) for one in house.scoring.passes) > 1
    for wire in wires:
        wire.close()
    house.close()
