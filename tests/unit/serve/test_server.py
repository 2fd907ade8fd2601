from __future__ import annotations

import asyncio
import logging
import queue
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from headrace.errors import ConfigError, CorruptSnapshot
from headrace.serve import AccessConfig, TokenBook, bind, make_token, run_server
from headrace.serve.server import KnownNames, check_exposure


def app() -> Starlette:
    return Starlette(routes=[Route("/", lambda request: PlainTextResponse("here"))])


def test_a_port_in_use_is_told_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"Port {port} on 127.0.0.1: got a port in use") as caught:
            run_server(app(), port=port)
    assert "port 0" in caught.value.do


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(ConfigError, match="0 to 65535"):
        bind(port=port)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match="address of this machine"):
        bind("192.0.2.1", 0)  # reserved for documentation


def test_a_name_that_cannot_be_found_is_refused() -> None:
    with pytest.raises(ConfigError, match="host"):
        bind("no-such-host.invalid", 0)


def test_the_default_is_loopback() -> None:
    sock = bind(port=0)
    assert sock.getsockname()[0] == "127.0.0.1"
    sock.close()


def test_the_server_answers_when_it_says_it_is_ready_and_ends_when_told() -> None:
    ready: queue.Queue[str] = queue.Queue()
    stop = threading.Event()
    thread = threading.Thread(target=run_server, args=(app(),), kwargs={"port": 0, "on_ready": ready.put, "stop": stop})
    thread.start()
    url = ready.get(timeout=10)
    assert httpx.get(url, trust_env=False).text == "here"
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    with pytest.raises(httpx.TransportError):
        httpx.get(url, trust_env=False)


def test_an_open_address_without_tokens_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0 without tokens") as caught:
        run_server(app(), "0.0.0.0", 0)
    assert "--open-to-all" in caught.value.do


def test_an_open_address_that_is_meant_is_warned_about(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        check_exposure("0.0.0.0", AccessConfig(open_to_all=True))
    assert "everybody who reaches this address" in caplog.text


def test_tokens_that_could_be_overheard_are_warned_about(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        check_exposure("192.0.2.1", AccessConfig(tokens=TokenBook([make_token("web", ["read"])[1]])))
    assert "can be overheard" in caplog.text


NAMES = [("127.0.0.1", 200), ("localhost", 200), ("[::1]:80", 200), ("LOCALHOST:1", 200), ("a.localhost", 200),
         ("shop.test", 200), ("evil.example", 421), ("127.0.0.1.evil.example", 421),
         ("localhost.evil.example", 421)]  # fmt: skip


@pytest.mark.parametrize(("name", "status"), NAMES)
def test_a_web_page_does_not_reach_the_server_by_a_name_of_its_own(name: str, status: int) -> None:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(KnownNames(app(), ["shop.test"]))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get("/", headers={"host": name})

    answer = asyncio.run(ask())
    assert answer.status_code == status
    if status == 421:
        assert set(answer.json()) == {"what", "got", "expected", "do"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def serving(access: AccessConfig) -> tuple[str, threading.Event, threading.Thread]:
    ready: queue.Queue[str] = queue.Queue()
    stop = threading.Event()
    options = {"port": 0, "on_ready": ready.put, "stop": stop, "access": access}
    thread = threading.Thread(target=run_server, args=(app(),), kwargs=options)
    thread.start()
    return ready.get(timeout=10), stop, thread


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_with_a_certificate_connections_are_encrypted(pair) -> None:
    certificate, key = pair
    url, stop, thread = serving(AccessConfig(certificate=certificate, private_key=key))
    try:
        assert url.startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context(cafile=certificate)
        assert httpx.get(url, verify=trusting, trust_env=False).text == "here"
        with pytest.raises(httpx.ConnectError):  # nobody signed it whom the system trusts
            httpx.get(url, trust_env=False)
        with pytest.raises(httpx.TransportError):
            httpx.get(url.replace("https", "http"), trust_env=False)
        old = ssl.create_default_context(cafile=certificate)
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(httpx.ConnectError):
            httpx.get(url, verify=old, trust_env=False)
    finally:
        stop.set()
        thread.join(10)


def test_a_client_without_a_certificate_is_refused_where_one_is_asked_for(pair) -> None:
    certificate, key = pair
    url, stop, thread = serving(AccessConfig(certificate=certificate, private_key=key, client_authority=certificate))
    try:
        trusting = ssl.create_default_context(cafile=certificate)
        with pytest.raises(httpx.TransportError):
            httpx.get(url, verify=trusting, trust_env=False)
        trusting.load_cert_chain(certificate, key)
        assert httpx.get(url, verify=trusting, trust_env=False).text == "here"
    finally:
        stop.set()
        thread.join(10)


SILENT = {
    "nothing": b"", "half a line": b"GET / HT", "half a head": b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ",
    "a second half": b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\nGET / HT",
}  # fmt: skip


@pytest.mark.parametrize("said", SILENT)
def test_a_connection_that_says_too_little_is_closed(monkeypatch, said: str) -> None:
    monkeypatch.setattr("headrace.serve.server.HEAD_S", 0.2)
    url, stop, thread = serving(AccessConfig())
    try:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=10) as connection:
            connection.sendall(SILENT[said])
            heard = b""
            while part := connection.recv(4096):
                heard += part
        assert (b"here" in heard) == (said == "a second half")
    finally:
        stop.set()
        thread.join(10)


def test_a_head_that_does_not_end_is_cut_off() -> None:
    url, stop, thread = serving(AccessConfig())
    try:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=10) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n")
            with pytest.raises(OSError, match=r"reset|pipe"):
                for _ in range(200):
                    connection.sendall(b"x: " + b"y" * 4000 + b"\r\n")
                    time.sleep(0.002)
    finally:
        stop.set()
        thread.join(10)


def test_a_connection_may_be_used_again_after_a_while(monkeypatch) -> None:
    monkeypatch.setattr("headrace.serve.server.HEAD_S", 0.2)
    url, stop, thread = serving(AccessConfig())
    try:
        with httpx.Client(base_url=url, trust_env=False) as client:
            for _ in range(3):
                assert client.get("/").text == "here"
                time.sleep(0.3)
    finally:
        stop.set()
        thread.join(10)


def test_a_certificate_without_its_key_is_told_before_anything_starts(pair, tmp_path) -> None:
    certificate, _ = pair
    with pytest.raises(ConfigError, match="certificate"):
        run_server(app(), port=0, access=AccessConfig(certificate=certificate))
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no key")
    wrong.chmod(0o600)
    with pytest.raises(ConfigError, match="certificate"):
        run_server(app(), port=0, access=AccessConfig(certificate=certificate, private_key=wrong))


def test_an_application_that_fails_to_start_is_told() -> None:
    async def fails(scope, receive, send) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    with pytest.raises(ConfigError, match="failure while starting"):
        run_server(fails, port=0)


def test_what_kept_the_application_from_starting_is_raised() -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.failure = CorruptSnapshot("Log", got="damage")
        raise app.state.failure
        yield

    with pytest.raises(CorruptSnapshot, match="damage"):
        run_server(Starlette(lifespan=lifespan), port=0)


SLOW = """
import asyncio, sys
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from headrace.serve import run_server

async def slow(request):
    print("asked", flush=True)
    await asyncio.sleep(0.5)
    return PlainTextResponse("finished")

run_server(Starlette(routes=[Route("/", slow)]), port=0, on_ready=lambda url: print(url, flush=True))
print("ended", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_that_was_begun_is_answered_when_the_process_is_asked_to_end(number: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", SLOW], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url, answers = process.stdout.readline().strip(), []
    thread = threading.Thread(target=lambda: answers.append(httpx.get(url, trust_env=False, timeout=20).text))
    thread.start()
    assert process.stdout.readline() == "asked\n"
    time.sleep(0.05)
    process.send_signal(number)
    thread.join(20)
    process.wait(20)
    assert answers == ["finished"]
