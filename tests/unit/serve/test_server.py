from __future__ import annotations

import logging
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from headrace.errors import ConfigError, CorruptSnapshot
from headrace.serve import bind, run_server


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


def test_an_open_address_is_warned_about(caplog) -> None:
    ready: queue.Queue[str] = queue.Queue()
    stop = threading.Event()
    with caplog.at_level(logging.WARNING):
        thread = threading.Thread(
            target=run_server, args=(app(), "0.0.0.0"), kwargs={"port": 0, "on_ready": ready.put, "stop": stop}
        )
        thread.start()
        ready.get(timeout=10)
        stop.set()
        thread.join(10)
    assert "everybody who reaches this address" in caplog.text


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
